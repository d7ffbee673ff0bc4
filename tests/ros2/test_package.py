from __future__ import annotations

import ast
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MANIFEST = ElementTree.parse(ROOT / "package.xml").getroot()
# module -> rosdep key, where they differ
KEYS = {"numpy": "python3-numpy", "cv2": "python3-opencv"}
FROM_PIP = {"msgspec"}


def imported(file: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    names = [a.name for node in nodes if isinstance(node, ast.Import) for a in node.names]
    names += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.split(".")[0] for name in names}


@pytest.mark.skipif(sys.version_info < (3, 10), reason="needs the list of the standard library")
def test_the_manifest_names_every_package_that_is_imported() -> None:
    files = [*ROOT.glob("ros2_pkg/**/*.py")]
    assert len(files) > 5
    modules = set.union(*map(imported, files)) - set(sys.stdlib_module_names) - FROM_PIP
    needed = {KEYS.get(name, name) for name in modules if not name.startswith("ramnas_")}
    declared = {element.text for element in MANIFEST.iter("exec_depend")}
    assert needed <= declared


def test_manifest_and_setup_have_one_version() -> None:
    version = MANIFEST.findtext("version")
    assert f'version="{version}"' in (ROOT / "setup.py").read_text(encoding="utf-8")
    assert MANIFEST.get("format") == "3"
