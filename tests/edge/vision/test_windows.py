"""A window ends the run when it is closed, and pictures stay in it; stand-ins replace the GUI."""

from __future__ import annotations

from pathlib import Path
from typing import Any, List, Sequence, Union

import cv2
import numpy as np
import pytest

from ramnas_edge.__main__ import main
from ramnas_edge.vision import sinks
from ramnas_edge.vision.sinks import Window
from ramnas_models.errors import SourceError
from tests.edge.runtime.test_runtime import a_bundle
from tests.edge.vision.test_sources import a_video, an_image

FRAME = np.zeros((4, 4, 3), np.uint8)
CLOSED: Sequence[Union[float, cv2.error]] = (0.0, -1.0, cv2.error("NULL window"))


class Display:
    """Stands in for OpenCV's windows: what it says of one, and the keys, call by call.

    The last of `visible` and of `keys` is said for ever.
    """

    def __init__(self, visible: Sequence[Any], keys: Sequence[int] = (-1,)) -> None:
        self.visible, self.keys = [*visible], [*keys]
        self.shown = self.waits = 0

    def imshow(self, title: str, frame: Any) -> None:
        self.shown += 1

    def waitKey(self, wait_ms: int) -> int:
        assert wait_ms > 0  # 0 would wait for ever, and no signal could end it
        self.waits += 1
        assert self.waits < 1000, "nobody ends it"
        return self.keys.pop(0) if len(self.keys) > 1 else self.keys[0]

    def getWindowProperty(self, title: str, which: int) -> float:
        assert which == cv2.WND_PROP_VISIBLE
        said = self.visible.pop(0) if len(self.visible) > 1 else self.visible[0]
        if isinstance(said, cv2.error):
            raise said
        return float(said)

    def destroyWindow(self, title: str) -> None:
        pass


def display(monkeypatch: pytest.MonkeyPatch, visible: Sequence[Any], *keys: int) -> Display:
    fake = Display(visible, keys or (-1,))
    for name in ("imshow", "waitKey", "getWindowProperty", "destroyWindow"):
        monkeypatch.setattr(cv2, name, getattr(fake, name))
    monkeypatch.setattr(sinks, "check_window", lambda: None)
    return fake


@pytest.mark.parametrize("closed", CLOSED)
def test_closing_the_window_ends_the_run(monkeypatch: pytest.MonkeyPatch, closed: Any) -> None:
    display(monkeypatch, [1.0, 1.0, closed])
    window = Window("ramnas")
    assert [window.put("a", FRAME) for _ in range(3)] == [True, True, False]
    window.close()


@pytest.mark.parametrize("never", [-1.0, 0.0, cv2.error("not supported")])
def test_a_window_of_which_opencv_knows_nothing_stays(
    monkeypatch: pytest.MonkeyPatch, never: Any
) -> None:
    display(monkeypatch, [never], -1, -1, -1, ord("x"))
    window = Window("ramnas")
    assert all(window.put("a", FRAME) for _ in range(3))
    window.hold()  # until the key


def test_a_window_that_appears_late_is_not_taken_for_a_closed_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    display(monkeypatch, [0.0, 0.0, 1.0, 0.0])
    window = Window("ramnas")
    assert [window.put("a", FRAME) for _ in range(4)] == [True, True, True, False]


@pytest.mark.parametrize("key", [ord("q"), 27, ord("q") + 0x100000])
def test_keys_end_the_run(monkeypatch: pytest.MonkeyPatch, key: int) -> None:
    display(monkeypatch, [1.0], -1, key)
    window = Window("ramnas")
    assert [window.put("a", FRAME) for _ in range(2)] == [True, False]


@pytest.mark.parametrize("closed", [*CLOSED, None])
def test_the_last_picture_stays_until_a_key_or_the_closing_of_its_window(
    monkeypatch: pytest.MonkeyPatch, closed: Any
) -> None:
    if closed is None:
        fake = display(monkeypatch, [1.0], *[-1] * 20, ord(" "))
    else:
        fake = display(monkeypatch, [*[1.0] * 20, closed])
    window = Window("ramnas")
    window.hold()  # nothing was shown
    assert fake.waits == 0
    assert window.put("a", FRAME)
    window.hold()
    assert fake.waits >= 18


def test_the_toolkit_is_quoted_in_the_same_words_as_when_it_is_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def headless(*arguments: Any) -> None:
        raise cv2.error("The function is not implemented. Rebuild the library")

    for name in ("imshow", "waitKey"):
        display(monkeypatch, [1.0])
        monkeypatch.setattr(cv2, name, headless)
        with pytest.raises(SourceError, match="install opencv-python in place of opencv-python-"):
            Window("ramnas").put("a", FRAME)


def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> List[str]:
    """What the command does with a source: "held" where it waits for a key at its end."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    done: List[str] = []
    monkeypatch.setattr(Window, "hold", lambda self: done.append("held"))
    argv = ["run", "--bundle", f"{tmp_path}/b", "--source", f"{tmp_path}/{source}", "--show"]
    assert main([*argv, "--engine", "onnxruntime-cpu"]) == 0
    return done


def test_pictures_stay_and_videos_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_bundle(tmp_path / "b")
    an_image(tmp_path / "in/1.png")
    an_image(tmp_path / "in/2.png")
    a_video(tmp_path / "v.avi")
    for source, frames, held in (
        ("in/1.png", 1, ["held"]), ("in", 2, ["held"]), ("in/*.png", 2, ["held"]), ("v.avi", 5, []),
    ):  # fmt: skip
        fake = display(monkeypatch, [1.0])
        assert shown(tmp_path, monkeypatch, source) == held
        assert fake.shown == frames
    fake = display(monkeypatch, [1.0], ord("q"))
    assert shown(tmp_path, monkeypatch, "in") == []
    assert fake.shown == 1
