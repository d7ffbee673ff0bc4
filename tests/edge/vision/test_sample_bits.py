"""Pictures with samples of other sizes than 8 bits: nearly black ones are named, others refused."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from ramnas_edge.vision import preprocessing
from ramnas_edge.vision.preprocessing import decode_image
from ramnas_models.errors import SourceError


def encoded(suffix: str, image: NDArray[Any]) -> NDArray[np.uint8]:
    ok, data = cv2.imencode(suffix, image)
    assert ok
    return np.asarray(data, np.uint8)


@pytest.mark.parametrize("largest", [0, 255, 1023, 4095])
@pytest.mark.parametrize("suffix", [".png", ".tiff", ".pgm"])
def test_pictures_of_few_bits_in_16_are_said_to_be_dark_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, suffix: str, largest: int
) -> None:
    monkeypatch.setattr(preprocessing, "_dark", [])
    data = encoded(suffix, np.linspace(0, largest, 64).astype(np.uint16).reshape(8, 8))
    for name in ("first", "second"):
        decode_image(data, name)
    (record,) = caplog.records
    below = 256 * (largest // 256 + 1)
    assert f"first is nearly black: all values are below {below} of 65535" in record.getMessage()


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".pgm", ".jpg", ".bmp"])
def test_nothing_is_said_of_dark_pictures_of_8_bits_and_of_bright_ones_of_16(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr(preprocessing, "_dark", [])
    decode_image(encoded(suffix, np.ones((8, 8), np.uint8)), "dark")
    if suffix in (".png", ".tiff"):
        decode_image(encoded(suffix, np.full((8, 8, 3), 9000, np.uint16)), "bright")
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("dtype", "reason"),
    [
        (np.float32, "floating-point samples of 32 bits"),
        (np.float64, "floating-point samples of 64 bits"),
        (np.int32, "samples of 32 bits"),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_tiff_whose_samples_are_not_read_is_told_from_a_damaged_one(
    dtype: Any, reason: str, channels: int
) -> None:
    data = encoded(".tiff", np.ones((8, 9, channels), dtype))
    with pytest.raises(SourceError, match=f"its TIFF data has {reason}; convert it to 8 or 16"):
        decode_image(data, "a.tif")


def test_a_pnm_that_is_cut_off_is_refused_as_such() -> None:
    data = encoded(".ppm", np.ones((9, 9, 3), np.uint8))
    with pytest.raises(SourceError, match="its PNM data is cut off"):
        decode_image(data[:50], "a.ppm")
