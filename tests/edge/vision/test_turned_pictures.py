"""Pictures that carry an EXIF orientation: turned upright, or as stored where asked."""

from __future__ import annotations

from pathlib import Path
from typing import Tuple

import cv2
import numpy as np
import pytest

from ramnas_edge.vision.preprocessing import read_image


def turned(path: Path, orientation: int, hw: Tuple[int, int]) -> np.ndarray:
    """Write a JPEG with stored pixels of the size `hw`, and return them as OpenCV decodes them."""
    pixels = np.random.default_rng(0).integers(0, 255, (*hw, 3), dtype=np.uint8)
    jpeg = cv2.imencode(".jpg", cv2.blur(pixels, (9, 9)))[1].tobytes()
    tiff = (
        b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0" + bytes([orientation, 0, 0, 0]) + bytes(4)
    )
    exif = b"Exif\0\0" + tiff
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    path.write_bytes(jpeg[:2] + segment + jpeg[2:])
    stored = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    return np.asarray(stored)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_upright_unless_only_its_stored_pixels_have_the_size(
    orientation: int, tmp_path: Path
) -> None:
    file = tmp_path / "a.jpg"
    stored = turned(file, orientation, (24, 40))
    upright = (40, 24) if orientation >= 5 else (24, 40)
    assert read_image(str(file)).shape[:2] == upright
    assert read_image(str(file), upright).shape[:2] == upright
    np.testing.assert_array_equal(read_image(str(file), upright=False), stored)
    if orientation >= 5:
        np.testing.assert_array_equal(read_image(str(file), (24, 40)), stored)
    elif orientation > 1:  # the size tells nothing, so the picture is turned as its EXIF says
        assert not np.array_equal(read_image(str(file), (24, 40)), stored)


def test_a_picture_of_another_size_is_left_upright(tmp_path: Path) -> None:
    turned(tmp_path / "a.jpg", 6, (24, 40))
    assert read_image(str(tmp_path / "a.jpg"), (99, 40)).shape[:2] == (40, 24)
    turned(tmp_path / "b.jpg", 1, (24, 40))
    assert read_image(str(tmp_path / "b.jpg"), (40, 24)).shape[:2] == (24, 40)
