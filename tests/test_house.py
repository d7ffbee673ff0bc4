"""The dependency rule: models <- edge <- {host, ros2_pkg}; heavy packages only where allowed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {
    "ramnas_models": ROOT / "models/ramnas_models",
    "ramnas_edge": ROOT / "edge/ramnas_edge",
    "ramnas_host": ROOT / "host/ramnas_host",
    "ramnas_ros": ROOT / "ros2_pkg/ramnas_ros",
}
MAY_IMPORT = {
    "ramnas_models": {"ramnas_models"},
    "ramnas_edge": {"ramnas_models", "ramnas_edge"},
    "ramnas_host": {"ramnas_models", "ramnas_edge", "ramnas_host"},
    "ramnas_ros": {"ramnas_models", "ramnas_edge", "ramnas_ros"},
}
# heavy package -> files outside host that may import it
HEAVY = {
    "torch": ("supernet.py", "heads.py", "importers"),
    "kornia": (),
    "pymoo": (),
    "sklearn": (),
    "rclpy": ("perception_node.py", "image_player.py"),
    "tensorrt": ("backend_trt.py",),
    "pycuda": ("device_memory.py",),
    "cuda": ("device_memory.py",),
    "jtop": ("jtop_monitor.py",),
}
FILES = sorted(f for room in ROOMS.values() for f in room.rglob("*.py"))
DEVICE = [f for f in FILES if ROOMS["ramnas_host"] not in f.parents and "importers" not in f.parts]


def room_of(file: Path) -> str:
    return next(name for name, folder in ROOMS.items() if folder in file.parents)


def imports(file: Path) -> set[str]:
    """Top-level package names that the file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found.add((node.module or "").split(".")[0])
    return found


def test_all_rooms_are_looked_at() -> None:
    assert {room_of(f) for f in FILES} == set(ROOMS)
    assert len(FILES) > 20


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_file_keeps_the_dependency_rule(file: Path) -> None:
    found = imports(file)
    assert found & set(ROOMS) <= MAY_IMPORT[room_of(file)]
    if room_of(file) != "ramnas_host":
        for package, allowed in HEAVY.items():
            if package in found:
                assert any(part in allowed for part in file.parts), f"{file} imports {package}"
    assert not found & {"pickle", "cloudpickle", "joblib", "dill", "shelve", "marshal"}


@pytest.mark.parametrize("file", DEVICE, ids=lambda f: str(f.relative_to(ROOT)))
def test_device_file_parses_as_python_3_8(file: Path) -> None:
    ast.parse(file.read_text(), feature_version=(3, 8))


def test_device_packages_import_without_torch_pymoo_and_rclpy() -> None:
    modules = [
        f"{room_of(f)}.{'.'.join(f.relative_to(ROOMS[room_of(f)]).with_suffix('').parts)}"
        for f in DEVICE
        if f.name not in ("__init__.py", "__main__.py")
        and not any(f.name in allowed for allowed in HEAVY.values())
    ]
    code = f"""
import importlib, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {tuple(HEAVY)!r}:
            raise ImportError(f"{{name}} is blocked")
sys.meta_path.insert(0, Blocked())
for name in {modules!r}:
    importlib.import_module(name)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("room", ROOMS.values(), ids=ROOMS)
def test_init_imports_nothing(room: Path) -> None:
    assert not imports(room / "__init__.py")
