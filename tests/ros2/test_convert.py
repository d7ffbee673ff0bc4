from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from ramnas_models.errors import SourceError
from ramnas_ros.convert import fill_image, to_bgr

BGR = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)


def message(image: Any, encoding: str, padding: int = 0) -> SimpleNamespace:
    """The fields of a sensor_msgs/Image, with `padding` bytes after each row."""
    height, width = image.shape[:2]
    rows = image.reshape(height, -1)
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=99)
    return SimpleNamespace(
        height=height, width=width, encoding=encoding, is_bigendian=0,
        step=padded.shape[1], data=padded.tobytes(),
    )  # fmt: skip


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(
    ("encoding", "conversion"),
    [
        ("bgr8", None),
        ("rgb8", cv2.COLOR_BGR2RGB),
        ("bgra8", cv2.COLOR_BGR2BGRA),
        ("rgba8", cv2.COLOR_BGR2RGBA),
    ],
)
def test_colour_encodings_become_bgr(encoding: str, conversion: Any, padding: int) -> None:
    image = BGR if conversion is None else cv2.cvtColor(BGR, conversion)
    np.testing.assert_array_equal(to_bgr(message(image, encoding, padding)), BGR)


def test_grey_becomes_three_equal_channels() -> None:
    grey = BGR[..., 0]
    np.testing.assert_array_equal(
        to_bgr(message(grey, "mono8", 3)), np.repeat(grey[..., None], 3, 2)
    )


def test_bgr_is_not_copied() -> None:
    source = message(BGR, "bgr8")
    assert np.shares_memory(to_bgr(source), np.frombuffer(source.data, np.uint8))


@pytest.mark.parametrize("encoding", ["bgr8", "mono8"])
def test_an_image_survives_the_message(encoding: str) -> None:
    image = BGR if encoding == "bgr8" else BGR[..., 0]
    filled = fill_image(SimpleNamespace(), image, encoding)
    assert (filled.height, filled.width, filled.encoding) == (5, 7, encoding)
    expected = BGR if encoding == "bgr8" else np.repeat(BGR[..., :1], 3, 2)
    np.testing.assert_array_equal(to_bgr(filled), expected)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"encoding": "yuv999"}, "image encoding 'yuv999' is not one of bgr8"),
        ({"data": b"short"}, "does not fit its 5 bytes"),
        ({"step": 3}, "with step 3 does not fit"),
        ({"height": 0}, "image of 7x0"),
    ],
)
def test_broken_images_are_named(change: dict, text: str) -> None:  # type: ignore[type-arg]
    broken = message(BGR, "bgr8")
    for key, value in change.items():
        setattr(broken, key, value)
    with pytest.raises(SourceError, match=text):
        to_bgr(broken)
