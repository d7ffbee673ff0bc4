"""The house keeps its rules: rooms import only from rooms below, heavy packages stay where they
are allowed, the device runs on Python 3.8."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, Set

import pytest

from tests import house

# heavy package -> files outside host that may import it
HEAVY = {
    "torch": ("supernet.py", "recalibration.py", "heads.py", "importers"),
    "pymoo": (),
    "sklearn": (),
    "rclpy": ("perception_node.py", "image_player.py"),
    "tensorrt": ("backend_trt.py",),
    "pycuda": ("device_memory.py",),
    "cuda": ("device_memory.py",),
    "jtop": ("jtop_monitor.py",),
}
FILES = house.files()
DEVICE = [
    file
    for file in FILES
    if house.PACKAGES["ramnas_host"] not in file.parents and "importers" not in file.parts
]


def outside(file: Path) -> Set[str]:
    """Top-level package names that the file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative import"
            found.add((node.module or "").split(".")[0])
    return found


def test_every_file_stands_in_a_room_of_the_list() -> None:
    rooms = {house.room_of(house.module_of(file)) for file in FILES}
    assert rooms - {None} == set(house.ROOMS)


def test_a_room_imports_only_from_rooms_below_it() -> None:
    assert house.upward(house.all_imports()) == []


def test_an_upward_import_is_told_by_file_line_and_both_rooms() -> None:
    clocks = house.PACKAGES["ramnas_edge"] / "board/clocks.py"
    worker = house.PACKAGES["ramnas_ros"] / "worker.py"
    assert house.upward(
        [
            house.Import(clocks, 7, "ramnas_edge.fleet.wire"),
            house.Import(worker, 9, "ramnas_host.config"),
            house.Import(worker, 9, "ramnas_edge.runtime.runtime"),
        ]
    ) == [
        "edge/ramnas_edge/board/clocks.py:7: edge.board imports edge.fleet "
        "(ramnas_edge.fleet.wire)",
        "ros2_pkg/ramnas_ros/worker.py:9: ros imports host.config (ramnas_host.config)",
    ]


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert house.circles(house.all_imports()) == []


def test_a_circle_is_found() -> None:
    models = house.PACKAGES["ramnas_models"]
    there = house.Import(models / "plan.py", 1, "ramnas_models.space")
    back = house.Import(models / "space.py", 1, "ramnas_models.plan")
    assert house.circles([there, back]) == [["ramnas_models.plan", "ramnas_models.space"]]
    assert house.circles([there]) == []


def test_a_class_name_means_one_thing() -> None:
    places: Dict[str, List[str]] = {}
    for file in FILES:
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(f"{file.relative_to(house.ROOT)}")
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(house.ROOT)))
def test_a_file_imports_only_packages_that_it_may(file: Path) -> None:
    found = outside(file)
    if house.PACKAGES["ramnas_host"] not in file.parents:
        for package, allowed in HEAVY.items():
            if package in found:
                assert any(part in allowed for part in file.parts), f"{file} imports {package}"
    assert not found & {"pickle", "cloudpickle", "joblib", "dill", "shelve", "marshal"}


@pytest.mark.parametrize("file", DEVICE, ids=lambda f: str(f.relative_to(house.ROOT)))
def test_device_file_parses_as_python_3_8(file: Path) -> None:
    ast.parse(file.read_text(encoding="utf-8"), feature_version=(3, 8))


def run_python(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)


def test_device_packages_import_without_torch_pymoo_and_rclpy() -> None:
    modules = [
        house.module_of(file)
        for file in DEVICE
        if file.name not in ("__init__.py", "__main__.py")
        and not any(file.name in allowed for allowed in HEAVY.values())
    ]
    run_python(f"""
import importlib, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {tuple(HEAVY)!r}:
            raise ImportError(f"{{name}} is blocked")
sys.meta_path.insert(0, Blocked())
for name in {modules!r}:
    importlib.import_module(name)
""")


def test_importing_a_package_loads_nothing_heavy() -> None:
    packages = [house.module_of(file) for file in FILES if file.name == "__init__.py"]
    light = [name for name in packages if "importers" not in name]
    run_python(f"""
import importlib, sys
for name in {light!r}:
    importlib.import_module(name)
heavy = {{"numpy", "cv2", "onnx", "onnxruntime", "torch", "zmq", "msgspec", "yaml"}}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
""")


def test_the_public_door_gives_runtime_and_perception() -> None:
    run_python("""
import ramnas_edge
from ramnas_edge import Perception, Runtime
from ramnas_edge.runtime import Perception as P, Runtime as R
assert (P, R) == (Perception, Runtime)
try:
    ramnas_edge.nothing
except AttributeError as error:
    assert "no attribute 'nothing'" in str(error)
else:
    raise AssertionError("a name that does not exist was found")
""")
