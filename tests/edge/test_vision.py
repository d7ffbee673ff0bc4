from __future__ import annotations

from pathlib import Path
from typing import Any, Tuple

import cv2
import numpy as np
import pytest

from ramnas_edge import vision
from ramnas_edge.sources import batches, list_images
from ramnas_models.bundle import Preprocessing
from ramnas_models.errors import SourceError
from ramnas_models.onnx_graph import Normalisation

WHOLE = Preprocessing(Normalisation())


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (None, "uint8 array, not NoneType"),
        (np.zeros((4, 4, 3), np.float32), "uint8 array, not float32"),
        (np.zeros((4, 4), np.uint8), r"not \[4, 4\]"),
        (np.zeros((4, 4, 4), np.uint8), r"not \[4, 4, 4\]"),
        (np.zeros((0, 4, 3), np.uint8), r"not \[0, 4, 3\]"),
    ],
)
def test_broken_frames_are_named(frame: Any, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        vision.check_frame(frame)


def test_resize_takes_views_and_gives_the_asked_size() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    flipped = frame[:, ::-1]
    assert vision.prepare(flipped, WHOLE, (24, 32)).shape == (24, 32, 3)
    np.testing.assert_array_equal(
        vision.prepare(flipped, WHOLE, (24, 32)), vision.prepare(flipped.copy(), WHOLE, (24, 32))
    )
    assert vision.prepare(frame, WHOLE, (50, 70)) is frame


@pytest.mark.parametrize("hw", [(300, 500), (500, 300), (100, 120), (256, 256), (3, 400)])
def test_imagenet_preprocessing_keeps_the_centre(hw: Tuple[int, int]) -> None:
    how = Preprocessing(Normalisation(), "bicubic", resize_short=256, crop=224)
    frame = np.zeros((*hw, 3), np.uint8)
    height, width = hw
    frame[height // 3 : -(height // 3) or None, width // 3 : -(width // 3) or None] = 255
    image = vision.prepare(frame, how, (192, 192))
    assert image.shape == (192, 192, 3)
    assert image[96, 96].min() > 250


def test_label_is_the_softmax_maximum_at_any_scale() -> None:
    logits = np.array([1.0, 1001.0, 3.0], np.float32)
    found = vision.label(logits, ["a", "b", "c"])
    assert (found.index, found.name, found.score) == (1, "b", 1.0)
    even = vision.label(np.zeros(4, np.float32), ["a", "b", "c", "d"])
    assert even.score == pytest.approx(0.25)


def test_sources_list_images_below_a_folder(tmp_path: Path) -> None:
    for name in ("b/2.png", "a/1.PNG", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        ok, data = cv2.imencode(".png", np.full((3, 5, 3), 7, np.uint8))
        assert ok
        (tmp_path / name).write_bytes(data.tobytes())
    images = list_images(str(tmp_path))
    assert [p.name for p in images] == ["1.PNG", "2.png"]
    assert [[frame.shape for _, frame in b] for b in batches(images)] == [[(3, 5, 3)] * 2]
    (tmp_path / "b/0.png").write_text("broken")
    left = [[p.name for p, _ in b] for b in batches(list_images(str(tmp_path)), size=1)]
    assert left == [["1.PNG"], ["2.png"]]
    assert list_images(str(tmp_path / "b/2.png")) == [tmp_path / "b/2.png"]


def test_a_source_that_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_text("no image")
    with pytest.raises(SourceError, match=r"x.png cannot be read as an image"):
        next(batches(list_images(str(tmp_path))))
    with pytest.raises(SourceError, match="does not exist"):
        list_images(str(tmp_path / "absent"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="holds no image"):
        list_images(str(tmp_path / "empty"))


def test_a_cut_off_jpeg_is_refused_and_a_padded_one_is_read(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    whole = cv2.imencode(".jpg", noise)[1].tobytes()
    for name, data in (("whole", whole), ("padded", whole + bytes(100))):
        (tmp_path / name).write_bytes(data)
        assert vision.read_image(str(tmp_path / name)).shape == (64, 64, 3)
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match="cut is cut off: its JPEG data has no end"):
        vision.read_image(str(tmp_path / "cut"))
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(SourceError, match="empty cannot be read as an image"):
        vision.read_image(str(tmp_path / "empty"))
