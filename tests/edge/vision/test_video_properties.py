"""A video's own rate and orientation are kept, and rates that are none become the usual one."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, Tuple

import cv2
import numpy as np
import pytest

from ramnas_edge.__main__ import main
from ramnas_edge.vision import sources
from ramnas_edge.vision.sinks import VIDEO_CODECS, saving
from ramnas_edge.vision.sources import USUAL_RATE, Source
from tests.edge.runtime.test_runtime import a_bundle
from tests.edge.vision.test_sources import Camera, an_image


def a_video(path: Path, rate: float, frames: int = 4) -> Path:
    codec = cv2.VideoWriter.fourcc(*VIDEO_CODECS[path.suffix])
    writer = cv2.VideoWriter(str(path), codec, rate, (64, 48))
    for i in range(frames):
        frame = np.zeros((48, 64, 3), np.uint8)
        frame[:24] = 255 - i  # bright above
        writer.write(frame)
    writer.release()
    return path


def turned(path: Path, matrix: Tuple[int, ...]) -> None:
    """Write an angle into the header of the track of an MP4, as phones do."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(data)


def rate_of(path: Path) -> float:
    return cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS)


@pytest.mark.parametrize("rate", [0.5, 7.5, 10.0, 23.976, 29.97, 60.0, 120.0])
@pytest.mark.parametrize("suffix", sorted(VIDEO_CODECS))
def test_a_video_is_saved_at_the_rate_of_its_source(
    tmp_path: Path, rate: float, suffix: str
) -> None:
    source = Source(str(a_video(tmp_path / "in.mkv", rate)))
    frames = iter(source)
    first = next(frames)
    assert source.rate == pytest.approx(rate, rel=0.01)
    sink = saving(tmp_path / f"out{suffix}", source.rate)
    for name, frame in [first, *frames]:
        sink.put(name, frame)
    sink.close()
    assert rate_of(tmp_path / f"out{suffix}") == pytest.approx(rate, rel=0.01)


def test_the_command_keeps_the_rate_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    a_bundle(tmp_path / "b")
    an_image(tmp_path / "x.png")
    a_video(tmp_path / "in.avi", 10)
    for source, rate in (("in.avi", 10), ("x.png", USUAL_RATE)):
        argv = ["run", "--bundle", f"{tmp_path}/b", "--source", f"{tmp_path}/{source}"]
        assert main([*argv, "--save", f"{tmp_path}/o.mp4", "--engine", "onnxruntime-cpu"]) == 0
        assert rate_of(tmp_path / "o.mp4") == pytest.approx(rate)


@pytest.mark.parametrize(
    ("said", "rate"),
    [
        (0.0, USUAL_RATE), (-1.0, USUAL_RATE), (float("nan"), USUAL_RATE), (1e-9, USUAL_RATE),
        (float("inf"), USUAL_RATE), (90_000.0, USUAL_RATE), (240.5, USUAL_RATE), (240.0, 240.0),
        (15.0, 15.0), (59.94, 59.94),
    ],
)  # fmt: skip
def test_a_rate_that_is_none_becomes_the_usual_one(
    monkeypatch: pytest.MonkeyPatch, said: float, rate: float
) -> None:
    monkeypatch.setattr(Camera, "get", lambda self, which: said)
    monkeypatch.setattr(sources.cv2, "VideoCapture", Camera)
    source = Source("0")
    next(iter(source))
    assert source.rate == rate


ONE = 1 << 16
QUARTERS = {
    90: (0, ONE, 0, -ONE, 0, 0, 48 << 16, 0, 1 << 30),
    180: (-ONE, 0, 0, 0, -ONE, 0, 64 << 16, 48 << 16, 1 << 30),
    270: (0, -ONE, 0, ONE, 0, 0, 0, 64 << 16, 1 << 30),
}


@pytest.mark.parametrize("degrees", sorted(QUARTERS))
def test_the_frames_of_a_turned_video_come_upright(tmp_path: Path, degrees: int) -> None:
    turned(a_video(tmp_path / "v.mp4", 30), QUARTERS[degrees])
    frames = [frame for _, frame in Source(str(tmp_path / "v.mp4"))]
    stored = np.zeros((48, 64), np.uint8)
    stored[:24] = 255
    upright = np.rot90(stored, -degrees // 90)
    assert [frame.shape[:2] for frame in frames] == [upright.shape] * 4
    for frame in frames:
        assert np.abs(frame.mean(2) - upright).mean() < 10


def test_a_video_is_turned_where_opencv_does_so_only_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turned(a_video(tmp_path / "v.mp4", 30), QUARTERS[90])
    opened = cv2.VideoCapture

    def unturned(path: Any) -> cv2.VideoCapture:
        capture = opened(path)
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
        return capture

    monkeypatch.setattr(sources.cv2, "VideoCapture", unturned)
    _, frame = next(iter(Source(str(tmp_path / "v.mp4"))))
    assert frame.shape == (64, 48, 3)
