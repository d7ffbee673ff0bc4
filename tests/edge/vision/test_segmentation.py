from __future__ import annotations

from typing import Tuple

import numpy as np
import pytest

from ramnas_edge.vision.segmentation import class_map


@pytest.mark.parametrize("hw", [(48, 64), (7, 5), (30, 41), (6, 8), (4, 101), (480, 640)])
def test_every_pixel_has_the_class_of_the_nearest_cell(hw: Tuple[int, int]) -> None:
    cells = np.random.default_rng(0).integers(0, 19, (6, 8), np.uint8)
    rows, columns = (
        np.floor((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(hw, cells.shape)
    )
    found = class_map(cells, hw)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, cells[rows][:, columns])


def test_logits_give_the_map_of_their_largest_class() -> None:
    logits = np.random.default_rng(0).integers(-3, 4, (19, 6, 8)).astype(np.float32)  # with ties
    np.testing.assert_array_equal(
        class_map(logits, (60, 80)), class_map(logits.argmax(0).astype(np.uint8), (60, 80))
    )
