from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, List

import cv2
import numpy as np
import pytest

from ramnas_edge.vision import sources
from ramnas_edge.vision.sources import Source, list_images
from ramnas_models.errors import SourceError


def an_image(path: Path, value: int = 7) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    ok, data = cv2.imencode(".png", np.full((3, 5, 3), value, np.uint8))
    assert ok
    path.write_bytes(data.tobytes())


def a_video(path: Path, frames: int = 5) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 30.0, (64, 48))
    for i in range(frames):
        writer.write(np.full((48, 64, 3), min(40 * i, 255), np.uint8))
    writer.release()


def test_a_folder_gives_every_image_below_it_ordered_by_path(tmp_path: Path) -> None:
    for name in ("b/2.png", "a/1.PNG"):
        an_image(tmp_path / name)
    (tmp_path / "a/notes.txt").write_text("no image")
    assert [p.name for p in list_images(str(tmp_path))] == ["1.PNG", "2.png"]
    source = Source(str(tmp_path), repeat=2)
    assert [(Path(name).name, frame.shape) for name, frame in source] == [
        ("1.PNG", (3, 5, 3)), ("2.png", (3, 5, 3)),
    ] * 2  # fmt: skip
    assert list_images(str(tmp_path / "b/2.png")) == [tmp_path / "b/2.png"]


def test_a_broken_image_is_counted_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    an_image(tmp_path / "1.png")
    an_image(tmp_path / "3.png")
    (tmp_path / "2.png").write_text("broken")
    source = Source(str(tmp_path))
    assert [Path(name).name for name, _ in source] == ["1.png", "3.png"]
    assert source.broken == 1
    assert "left out: " in caplog.text


def test_a_source_without_frames_is_named_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_text("no image")
    with pytest.raises(SourceError, match=r"x.png cannot be read as an image"):
        next(iter(Source(str(tmp_path))))
    with pytest.raises(SourceError, match="does not exist"):
        Source(str(tmp_path / "absent"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="holds no images"):
        Source(str(tmp_path / "empty"))
    (tmp_path / "x.mp4").write_text("no video")
    with pytest.raises(SourceError, match=r"x.mp4 cannot be opened as a video or camera"):
        next(iter(Source(str(tmp_path / "x.mp4"))))


def test_a_video_gives_its_frames_in_order(tmp_path: Path) -> None:
    a_video(tmp_path / "v.avi")
    source = Source(str(tmp_path / "v.avi"), repeat=2)
    found = [(name.rpartition("#")[2], round(float(frame.mean()) / 40)) for name, frame in source]
    assert found == [(str(i), i) for i in range(5)] * 2
    assert source.broken == 0


def test_the_missing_frames_of_a_video_that_is_cut_off_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    a_video(tmp_path / "v.avi", 40)
    data = (tmp_path / "v.avi").read_bytes()
    (tmp_path / "v.avi").write_bytes(data[: len(data) // 2])
    source = Source(str(tmp_path / "v.avi"))
    count = len(list(source))
    assert 0 < count < 40
    assert source.broken in (0, 40 - count)  # 0 if the cut took the index, which holds the number
    if source.broken:
        assert f"ended after {count} of 40 frames" in caplog.text


class Camera:
    """Stands in for OpenCV's capture of a camera that flickers and is finally unplugged."""

    opened: ClassVar[List[Any]] = []

    def __init__(self, device: Any) -> None:
        self.opened.append(device)
        self.count = 0

    def isOpened(self) -> bool:
        return True

    def set(self, which: int, value: float) -> None:
        assert (which, value) == (cv2.CAP_PROP_BUFFERSIZE, 1)

    def get(self, which: int) -> float:
        assert which == cv2.CAP_PROP_FPS
        return 90_000.0  # the time base, as some drivers say

    def read(self) -> Any:
        self.count += 1
        good = self.count % 3 != 0 and self.count < 10
        return good, np.zeros((4, 6, 3), np.uint8) if good else None

    def release(self) -> None:
        pass


@pytest.mark.parametrize(("text", "device"), [("camera", 0), ("2", 2), ("/dev/null", "/dev/null")])
def test_a_camera_survives_bad_frames_and_raises_an_error_when_it_is_gone(
    monkeypatch: pytest.MonkeyPatch, text: str, device: Any
) -> None:
    monkeypatch.setattr(sources.cv2, "VideoCapture", Camera)
    source, names = Source(text), []
    with pytest.raises(SourceError, match=f"camera {text} gave no frame 30 times"):
        names += [name for name, _ in source]
    assert Camera.opened[-1] == device
    assert source.broken == 2 + sources.PATIENCE


def test_a_missing_camera_is_named_in_the_error() -> None:
    with pytest.raises(SourceError, match="97 cannot be opened as a video or camera"):
        next(iter(Source("97")))
