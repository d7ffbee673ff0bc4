from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Set

import pytest

from tests.house import PACKAGES

ROOT = Path(__file__).parents[2]
MANIFEST = ElementTree.parse(ROOT / "package.xml").getroot()
# module -> rosdep key, where they differ
KEYS = {"numpy": "python3-numpy", "cv2": "python3-opencv"}
FROM_PIP = {"msgspec"}


def imported(file: Path) -> Set[str]:
    """Top-level packages that a file imports."""
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    names = [a.name for node in nodes if isinstance(node, ast.Import) for a in node.names]
    names += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.split(".")[0] for name in names}


@pytest.mark.skipif(sys.version_info < (3, 10), reason="needs sys.stdlib_module_names")
def test_the_manifest_names_every_package_that_is_imported() -> None:
    files = [*ROOT.glob("ros2_pkg/**/*.py")]
    assert len(files) > 5
    modules = set.union(*map(imported, files)) - set(sys.stdlib_module_names) - FROM_PIP
    needed = {KEYS.get(name, name) for name in modules if not name.startswith("ramnas_")}
    declared = {element.text for element in MANIFEST.iter("exec_depend")}
    assert needed <= declared


def test_the_manifest_and_setup_have_the_same_version() -> None:
    version = MANIFEST.findtext("version")
    assert f'version="{version}"' in (ROOT / "setup.py").read_text(encoding="utf-8")
    assert MANIFEST.get("format") == "3"


def files_in(folder: Path) -> Set[str]:
    """Paths of the files below a folder, except hidden ones and what Python compiled."""
    found = (path for path in folder.rglob("[!.]*") if path.is_file())
    return {str(path.relative_to(folder)) for path in found if "__pycache__" not in path.parts}


def built(source: Path, folder: Path) -> Set[str]:
    """The files that `source`/setup.py puts into a package, gathered in `folder`."""
    pytest.importorskip("setuptools")
    command = [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=300)
    return files_in(folder)


def test_every_file_of_the_four_packages_is_packaged(tmp_path: Path) -> None:
    expected = {f"{name}/{file}" for name, path in PACKAGES.items() for file in files_in(path)}
    assert "ramnas_edge/board/clocks.py" in expected
    assert built(ROOT, tmp_path) == expected


def test_a_new_room_is_packaged_without_being_listed_anywhere(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name, path in PACKAGES.items():
        folder = source / path.relative_to(ROOT)
        for room in (folder, folder / "new_room", folder / "new_room/inner"):
            room.mkdir(parents=True)
            (room / "__init__.py").write_text(f'"""{name}"""\n')
            (room / "module.py").write_text("")
            (room / "data").mkdir()
            (room / "data/table.json").write_text("{}")
    for file in ("setup.py", "setup.cfg", "README.md", "package.xml"):
        shutil.copy(ROOT / file, source)
    (source / "ros2_pkg/tools").mkdir()  # not inside a package, so not packaged
    (source / "ros2_pkg/tools/__init__.py").write_text("")
    rooms = ("", "new_room/", "new_room/inner/")
    assert built(source, tmp_path / "built") == {
        f"{name}/{room}{file}"
        for name in PACKAGES
        for room in rooms
        for file in ("__init__.py", "module.py", "data/table.json")
    }
