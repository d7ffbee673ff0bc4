from __future__ import annotations

from pathlib import Path
from typing import Any, Tuple

import cv2
import numpy as np
import pytest

from ramnas_edge.vision import preprocessing
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
def test_a_broken_frame_raises_an_error_that_says_what_is_wrong(frame: Any, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        preprocessing.check_frame(frame)


def test_views_are_resized_to_the_requested_size() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    flipped = frame[:, ::-1]
    assert preprocessing.prepare(flipped, WHOLE, (24, 32)).shape == (24, 32, 3)
    np.testing.assert_array_equal(
        preprocessing.prepare(flipped, WHOLE, (24, 32)),
        preprocessing.prepare(flipped.copy(), WHOLE, (24, 32)),
    )
    assert preprocessing.prepare(frame, WHOLE, (50, 70)) is frame
    same = preprocessing.prepare(flipped, WHOLE, (50, 70))  # engines need contiguous memory
    assert same.flags.c_contiguous
    np.testing.assert_array_equal(same, flipped)


@pytest.mark.parametrize("hw", [(300, 500), (500, 300), (100, 120), (256, 256), (3, 400)])
def test_imagenet_preprocessing_keeps_the_centre(hw: Tuple[int, int]) -> None:
    how = Preprocessing(Normalisation(), "bicubic", resize_short=256, crop=224)
    frame = np.zeros((*hw, 3), np.uint8)
    height, width = hw
    frame[height // 3 : -(height // 3) or None, width // 3 : -(width // 3) or None] = 255
    image = preprocessing.prepare(frame, how, (192, 192))
    assert image.shape == (192, 192, 3)
    assert image[96, 96].min() > 250


def test_label_is_the_class_of_largest_softmax_at_any_scale() -> None:
    assert preprocessing.label(np.array([1.0, 1001.0, 3.0], np.float32)) == (1, 1.0)
    assert preprocessing.label(np.zeros(4, np.float32))[1] == pytest.approx(0.25)


def test_a_cut_off_jpeg_is_refused_and_a_padded_one_is_read(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    whole = cv2.imencode(".jpg", noise)[1].tobytes()
    for name, data in (("whole", whole), ("padded", whole + bytes(100))):
        (tmp_path / name).write_bytes(data)
        assert preprocessing.read_image(str(tmp_path / name)).shape == (64, 64, 3)
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match="cut is cut off: its JPEG data has no end marker"):
        preprocessing.read_image(str(tmp_path / "cut"))
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(SourceError, match="empty cannot be read as an image"):
        preprocessing.read_image(str(tmp_path / "empty"))
