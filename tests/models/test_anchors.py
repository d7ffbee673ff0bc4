from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ramnas_models.anchors import Anchors, decode, encode

ANCHORS = Anchors((90, 160), ((6, 10), (3, 5)), ((48, 100), (100, 150)), ((1, 2, 0.5), (1,)))


def test_boxes_are_ordered_by_level_row_column_and_shape() -> None:
    boxes = ANCHORS.boxes()
    assert boxes.shape == (6 * 10 * 4 + 3 * 5 * 2, 4) == (ANCHORS.count, 4)
    assert boxes.dtype == np.float32
    step_y, step_x = 90 / 6, 160 / 10
    for row, column in ((0, 0), (0, 9), (3, 7), (5, 9)):
        place = boxes[(row * 10 + column) * 4 :][:4]
        np.testing.assert_allclose(place[:, 0], (column + 0.5) * step_x, rtol=1e-6)
        np.testing.assert_allclose(place[:, 1], (row + 0.5) * step_y, rtol=1e-6)
    sides = boxes[:4, 2:]
    root, between = 48 * math.sqrt(2), math.sqrt(48 * 100)
    expected = [[48, 48], [root, root / 2], [root / 2, root], [between, between]]
    np.testing.assert_allclose(sides, expected, rtol=1e-6)
    np.testing.assert_allclose(boxes[240, :2], [160 / 10, 90 / 6], rtol=1e-6)
    np.testing.assert_allclose(boxes[240:242, 2], [100, math.sqrt(15000)], rtol=1e-6)


def test_centres_are_symmetric_in_inputs_that_the_stride_does_not_divide() -> None:
    anchors = Anchors((37, 53), ((3, 4),), ((10, 20),), ((1,),))
    x, y = anchors.boxes()[:, 0], anchors.boxes()[:, 1]
    np.testing.assert_allclose(x + x[::-1], 53, rtol=1e-6)
    np.testing.assert_allclose(y + y[::-1], 37, rtol=1e-6)


deltas = arrays(np.float32, (5, 4), elements=st.floats(-10, 10, width=32))


@given(deltas)
def test_encode_is_the_inverse_of_decode(given_deltas: np.ndarray) -> None:
    anchors = ANCHORS.boxes()[::57][:5]
    found = encode(decode(given_deltas, anchors), anchors)
    np.testing.assert_allclose(found, given_deltas, atol=2e-3)


def test_zero_deltas_give_the_anchor_and_the_variances_are_those_of_ssd() -> None:
    anchor = np.array([[50, 40, 20, 10]], np.float32)
    np.testing.assert_allclose(decode(np.zeros((1, 4), np.float32), anchor), [[40, 35, 60, 45]])
    moved = decode(np.array([[1, -2, math.log(2) / 0.2, 0]], np.float32), anchor)
    np.testing.assert_allclose(moved, [[32, 33, 72, 43]], rtol=1e-6)


def test_wild_deltas_decode_to_finite_boxes() -> None:
    wild = np.full((1, 4), 1e4, np.float32)
    assert np.isfinite(decode(wild, ANCHORS.boxes()[:1])).all()


def test_anchors_survive_json() -> None:
    data = msgspec.json.encode(ANCHORS)
    assert msgspec.json.decode(data, type=Anchors) == ANCHORS


@pytest.mark.parametrize(
    "change",
    [{"sizes": ((48, 100),)}, {"feature_hw": ((6, 0), (3, 5))}, {"ratios": ((1, -2), (1,))}],
)
def test_anchors_that_do_not_fit_together_are_refused(change: Any) -> None:
    with pytest.raises(ValueError, match="anchors need"):
        Anchors(**{**msgspec.structs.asdict(ANCHORS), **change})
    manifest = {**msgspec.to_builtins(ANCHORS), **msgspec.to_builtins(change)}
    with pytest.raises(msgspec.ValidationError, match="anchors need"):
        msgspec.convert(manifest, Anchors)
