from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import Image

from ramnas_ros.convert import to_bgr
from tests.ros2.real.station import LIMIT_S, Station, process, stamp_s, until

PLAYER = "ramnas_ros.image_player"
FRAMES = [np.full((48, 64, 3), (40 * i, 255 - 40 * i, 9), np.uint8) for i in range(6)]


def parameters(**values: object) -> list[str]:
    named = (("-p", f"{name}:={value}") for name, value in values.items())
    return ["--ros-args", *(part for pair in named for part in pair)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of six images and, between them, a file that is not an image."""
    path = tmp_path_factory.mktemp("images")
    for i, frame in enumerate(FRAMES):
        assert cv2.imwrite(str(path / f"{i}.png"), frame)
    (path / "3a.png").write_bytes(b"not an image")
    return path


def shown(messages: list[Image]) -> list[int]:
    """For each message the index of the most similar of FRAMES."""
    pixels = [to_bgr(message).astype(float) for message in messages]
    return [min(range(6), key=lambda i: float(np.abs(FRAMES[i] - p).mean())) for p in pixels]


@pytest.mark.timeout(300)
def test_a_folder_is_published_in_order_and_repeated(fresh_station: Station, folder: Path) -> None:
    start_s = time.time()
    with process(PLAYER, *parameters(source=folder, rate_hz=40, frame_id="front")):
        found = fresh_station.listen(Image, "/image")
        until(lambda: len(found) >= 15, "15 images")
        qos = fresh_station.node.get_publishers_info_by_topic("/image")[0].qos_profile
    order = shown(found)
    assert order == [(order[0] + i) % 6 for i in range(len(order))]
    assert qos.reliability == ReliabilityPolicy.RELIABLE
    np.testing.assert_array_equal(to_bgr(found[0]), FRAMES[order[0]])
    assert {message.header.frame_id for message in found} == {"front"}
    stamps = [stamp_s(message) for message in found]
    assert start_s < stamps[0]
    assert stamps[-1] < time.time()
    # after a delay it does not catch up: the mean rate stays at most 40 Hz
    assert (stamps[-1] - stamps[0]) * 40 > 0.9 * (len(stamps) - 1)


@pytest.mark.timeout(300)
def test_a_video_is_published_best_effort(fresh_station: Station, tmp_path: Path) -> None:
    path = tmp_path / "six.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 30, (64, 48))
    for frame in FRAMES:
        writer.write(frame)
    writer.release()
    with process(PLAYER, *parameters(source=path, rate_hz=40, reliability="best_effort")):
        found = fresh_station.listen(Image, "/image", reliability=ReliabilityPolicy.BEST_EFFORT)
        until(lambda: set(shown(found)) == set(range(6)), "every frame of the video")
        qos = fresh_station.node.get_publishers_info_by_topic("/image")[0].qos_profile
    assert qos.reliability == ReliabilityPolicy.BEST_EFFORT
    assert {(m.height, m.width, m.encoding) for m in found} == {(48, 64, "bgr8")}


def played(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", PLAYER, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)


def test_without_loop_the_player_ends_after_the_last_image(folder: Path) -> None:
    done = played(*parameters(source=folder, rate_hz=100, loop="false"))
    assert done.returncode == 0
    assert "3a.png cannot be read as an image" in done.stderr


@pytest.mark.timeout(300)
def test_the_player_ends_when_the_images_vanish(
    fresh_station: Station, folder: Path, tmp_path: Path
) -> None:
    images = shutil.copytree(folder, tmp_path / "images")
    command = [sys.executable, "-m", PLAYER, *parameters(source=images)]
    player = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        found = fresh_station.listen(Image, "/image")
        until(lambda: found, "an image")
        shutil.rmtree(images)
        _, errors = player.communicate(timeout=LIMIT_S)
    finally:
        player.kill()
        player.wait()
    assert player.returncode == 2
    assert errors.splitlines()[-1].startswith("error: ")
    assert str(images) in errors.splitlines()[-1]


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"source": "/nowhere"}, "/nowhere does not exist"),
        ({"source": ".", "rate_hz": -1.0}, "rate_hz -1.0 is not a number above 0"),
        ({"source": ".", "reliability": "some"}, "'some' is not reliable or best_effort"),
        ({"source": ".", "loop": 3}, "expecting type 'BOOL'"),
    ],
)
def test_a_bad_parameter_is_one_line_and_exit_code_2(values: dict[str, object], error: str) -> None:
    done = played(*parameters(**values))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert error in done.stderr
    assert done.stderr.count("\n") == 1
