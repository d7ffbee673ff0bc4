from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from ament_index_python.packages import get_package_share_directory
from catkin_pkg.package import parse_package
from rcl_interfaces.srv import GetParameters
from sensor_msgs.msg import Image

from ramnas_ros.transport import SEGMENT_BYTES, VARIABLES
from tests import house
from tests.ros2.real.station import Station, until
from tests.ros2.recorded_launch import record

ROOT = Path(__file__).parents[3]
EXECUTABLES = {"perception_node", "image_player", "ramnas", "ramnas-edge"}


def sourced(install: Path, *command: str) -> list[str]:
    """Run `command` in a shell that has sourced the workspace; exec replaces the shell."""
    return ["bash", "-c", f'source "{install}/setup.bash" && exec "$@"', "bash", *command]


@pytest.fixture(scope="module", params=[(), ("--symlink-install",)], ids=["plain", "symlinks"])
def install(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a workspace with a copy of this repository; returns its install folder."""
    workspace = tmp_path_factory.mktemp("workspace")
    ignored = shutil.ignore_patterns(".*", "runs", "build", "install", "log", "__pycache__",
                                      "*.egg-info", "tests", "docs")  # fmt: skip
    shutil.copytree(ROOT, workspace / "src" / "ramnas", ignore=ignored)
    command = [sys.executable, "-m", "colcon", "build", *request.param]
    # with ROS 2 from PyPI the virtual environment plays the part of /opt/ros
    environment = {"AMENT_PREFIX_PATH": sys.prefix, **os.environ}
    done = subprocess.run(
        command, cwd=workspace, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return workspace / "install"


@contextmanager
def started(command: list[str], **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command outside of the repository until the end of the block."""
    child = subprocess.Popen(command, cwd="/", env={**os.environ, **environment})
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def test_the_executables_are_where_ros2_run_looks_for_them(install: Path) -> None:
    folder = install / "ramnas/lib/ramnas"
    assert {path.name for path in folder.iterdir() if os.access(path, os.X_OK)} >= EXECUTABLES


def test_the_ament_index_finds_the_package_and_its_files(
    install: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(install / "ramnas"))
    share = Path(get_package_share_directory("ramnas"))
    assert parse_package(str(share / "package.xml")).package_format == 3
    for folder in ("launch", "config"):
        ours = {path.name for path in (ROOT / "ros2_pkg" / folder).iterdir() if path.is_file()}
        assert ours
        assert {path.name for path in (share / folder).iterdir()} == ours


@pytest.mark.skipif(not shutil.which("ros2"), reason="the ros2 command is not on PyPI")
def test_ros2_pkg_lists_the_executables(install: Path) -> None:
    command = sourced(install, "ros2", "pkg", "executables", "ramnas")
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert {line.split()[1] for line in listed.splitlines()} >= EXECUTABLES


def test_every_module_of_every_room_is_imported_from_the_installed_package(install: Path) -> None:
    code = (
        "import sys, os, importlib.util\n"
        "for name in sys.argv[1:]:\n"
        "    spec = importlib.util.find_spec(name)\n"
        "    print(os.path.realpath(spec.origin) if spec else name)"
    )
    modules = [house.module_of(file) for file in house.files()]
    command = sourced(install, sys.executable, "-c", code, *modules)
    done = subprocess.run(command, cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = done.stdout.splitlines()
    assert len(found) == len(modules) > 100
    elsewhere = [m for m in found if not Path(m).is_relative_to(install.parent.resolve())]
    assert elsewhere == []


@pytest.mark.timeout(300)
def test_the_installed_image_player_publishes(
    install: Path, fresh_station: Station, tmp_path: Path
) -> None:
    assert cv2.imwrite(str(tmp_path / "0.png"), np.zeros((48, 64, 3), np.uint8))
    player = install / "ramnas/lib/ramnas/image_player"
    with started(sourced(install, str(player), "--ros-args", "-p", f"source:={tmp_path}")):
        found = fresh_station.listen(Image, "/image")
        until(lambda: len(found) >= 3, "three images")


def largest_segment(pid: int) -> int:
    """The size in bytes of the largest shared-memory segment of Fast DDS in that process."""
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    segments = {line.split()[-1] for line in maps if "/dev/shm/fastrtps_" in line}
    return max((os.stat(name).st_size for name in segments), default=0)


@pytest.mark.timeout(300)
def test_the_installed_node_starts_with_the_command_line_of_the_launch_file(
    install: Path, fresh_station: Station, tmp_path: Path
) -> None:
    share = install / "ramnas/share/ramnas"
    context = record(
        share / "launch/perception.launch.py", share,
        namespace="robot1", image_topic="/front/image_raw", latency_budget_ms="20",
        autostart="false",
    )  # fmt: skip
    (process,) = context.processes
    node = install / "ramnas/lib" / process.package / process.executable
    command = sourced(install, str(node), *process.arguments(tmp_path))
    with started(command, **process.environment) as child:
        assert fresh_station.state("/robot1/perception") == "unconfigured"
        request = GetParameters.Request(names=["latency_budget_ms", "task", "autostart"])
        budget, task, autostart = fresh_station.ask(
            GetParameters, "/robot1/perception/get_parameters", request
        ).values
        segment = largest_segment(child.pid)
    assert budget.double_value == 20.0
    assert task.string_value == "detection"
    assert autostart.bool_value is False
    # the profile is in force, unless this machine has no room for it or sets its own profile
    assert segment >= SEGMENT_BYTES or context.messages or VARIABLES[0] in os.environ
