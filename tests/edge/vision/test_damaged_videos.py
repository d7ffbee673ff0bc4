"""Videos with damaged frames, without an end, and of containers that only know a length."""

from __future__ import annotations

from pathlib import Path
from typing import List, Tuple

import cv2
import numpy as np
import pytest

from ramnas_edge.vision import sources
from ramnas_edge.vision.sources import Source
from ramnas_models.errors import SourceError

STEP = 6  # how much brighter each frame is than the one before


def a_video(path: Path, frames: int = 20, codec: str = "MJPG") -> bytes:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 30.0, (64, 48))
    assert writer.isOpened()
    for i in range(frames):
        writer.write(np.full((48, 64, 3), STEP * i, np.uint8))
    writer.release()
    return path.read_bytes()


def frame_places(video: bytes) -> List[int]:
    """Where the JPEG of each frame begins."""
    return [i for i in range(len(video)) if video.startswith(b"\xff\xd8\xff", i)]


def without(path: Path, *damaged: int) -> None:
    """Overwrite the content of some frames of an MJPG video with zeros."""
    video = bytearray(path.read_bytes())
    starts = frame_places(video)
    for number in damaged:
        start, end = starts[number], [*starts, len(video)][number + 1] - 40
        video[start:end] = bytes(end - start)
    path.write_bytes(video)


def played(path: Path) -> Tuple[List[Tuple[int, int]], int]:
    """(number in the name, number by the brightness) of each frame, and how many were broken."""
    source = Source(str(path))
    frames = [(int(n.rpartition("#")[2]), round(float(f.mean()) / STEP)) for n, f in source]
    return frames, source.broken


@pytest.mark.parametrize("container", [".avi", ".mkv"])
@pytest.mark.parametrize("damaged", [(8,), (0,), (3, 4, 11), (18,)])
def test_the_frames_after_a_damaged_one_are_played_and_it_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, container: str, damaged: Tuple[int, ...]
) -> None:
    path = tmp_path / f"v{container}"
    a_video(path)
    without(path, *damaged)
    frames, broken = played(path)
    assert frames == [(i, i) for i in range(20) if i not in damaged]
    assert broken == len(damaged)
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"left out: {path}#{i} cannot be decoded" for i in damaged]


def test_a_damaged_frame_of_mpeg4_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    video = bytearray(a_video(path, codec="mp4v"))
    start = video.index(b"mdat") + 4
    size = (int.from_bytes(video[start - 8 : start - 4], "big") - 8) // 20
    video[start + 8 * size : start + 9 * size] = bytes(size)
    path.write_bytes(video)
    frames, broken = played(path)
    assert len(frames) + broken == 20
    assert broken <= 2
    assert [number for number, _ in frames][-1] == 19


def test_a_damaged_last_frame_is_missing_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "v.avi"
    a_video(path)
    without(path, 19)
    assert played(path) == ([(i, i) for i in range(19)], 1)
    assert f"{path} ended after 19 of 20 frames" in caplog.text


@pytest.mark.parametrize("container", [".avi", ".mkv"])
def test_a_video_that_is_cut_off_says_how_many_frames_are_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, container: str
) -> None:
    path = tmp_path / f"v{container}"
    video = a_video(path, 40)
    path.write_bytes(video[: frame_places(video)[25]])
    frames, broken = played(path)
    assert len(frames) in (24, 25)
    assert broken == 40 - len(frames)
    assert f"{path} ended after {len(frames)} of 40 frames" in caplog.text


class Capture:
    """Stands in for OpenCV's reader of a container, with a count of frames as some have it."""

    reads: int
    count: float
    seconds: float  # where each frame begins

    def __init__(self, path: str) -> None:
        self.at = 0

    def isOpened(self) -> bool:
        return True

    def set(self, which: int, value: float) -> None:
        assert (which, value) == (cv2.CAP_PROP_ORIENTATION_AUTO, 1)

    def get(self, which: int) -> float:
        values = {
            cv2.CAP_PROP_FRAME_COUNT: self.count,
            cv2.CAP_PROP_FPS: 30.0,
            cv2.CAP_PROP_POS_MSEC: (self.at - 1) * self.seconds * 1e3,
        }
        return values[which]

    def read(self) -> object:
        if self.at == self.reads:
            raise cv2.error("no more data")  # as OpenCV's own reader of AVI does
        self.at += 1
        return True, np.zeros((4, 6, 3), np.uint8)

    def release(self) -> None:
        pass


@pytest.mark.parametrize("count", [0.0, -1.0, -9.2e18, 300.0, 50.0, 104.0])
def test_a_container_that_only_estimates_its_frames_ends_and_has_no_broken_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: float
) -> None:
    """300: a video of 10 s with 100 frames, whose rate varies; 104: its sound is a bit longer."""
    (tmp_path / "v.mkv").write_bytes(b"\x1aE\xdf\xa3")
    seconds = count / 30 / 100 if count == 300 else 1 / 30
    for name, value in (("reads", 100), ("count", count), ("seconds", seconds)):
        monkeypatch.setattr(Capture, name, value, raising=False)
    monkeypatch.setattr(sources.cv2, "VideoCapture", Capture)
    source = Source(str(tmp_path / "v.mkv"))
    assert len(list(source)) == 100
    assert source.broken == 0


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"just text", "does not know its format or codec, or it is damaged"),
        (b"version https://git-lfs.github.com/spec/v1\n", "run git lfs pull"),
        (b"<html>404</html>", "it is an HTML page; download the file itself"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "it is HEIC, not a video"),
        (
            b"\0\0\0\x14ftypisom\0\0\0\0isom" + b"\0\0\x10\0mdat" + bytes(99),
            "it is cut off: an MP4",
        ),
    ],
)
def test_a_file_that_is_no_video_is_refused_with_its_reason(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    (tmp_path / "v.mp4").write_bytes(content)
    with pytest.raises(SourceError) as error:
        next(iter(Source(str(tmp_path / "v.mp4"))))
    assert f"{tmp_path}/v.mp4 cannot be opened as a video or camera: " in str(error.value)
    assert reason in str(error.value)


def test_an_mp4_of_a_camera_that_lost_power_is_cut_off(tmp_path: Path) -> None:
    video = a_video(tmp_path / "v.mp4", codec="mp4v")
    (tmp_path / "v.mp4").write_bytes(video[: len(video) // 2])
    with pytest.raises(SourceError, match=r"v\.mp4 cannot be opened .*: it is cut off: an MP4 has"):
        next(iter(Source(str(tmp_path / "v.mp4"))))
