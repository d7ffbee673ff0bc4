"""Decoding and suppression against a plain reference that takes one box after the other."""

from __future__ import annotations

import math
from typing import List, Tuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramnas_edge.vision.detection import CHUNK, Limits, above_score, detect, suppress
from ramnas_models.anchors import Anchors, encode
from ramnas_models.errors import DataError

INPUT = (96, 160)
ANCHORS = Anchors(
    INPUT, ((6, 10), (3, 5)), ((20.0, 40.0), (40.0, 80.0)), ((1.0, 2.0, 0.5), (1.0,))
).boxes()
Box = Tuple[float, float, float, float]


def reference_detect(
    logits: np.ndarray, deltas: np.ndarray, frame_hw: Tuple[int, int], limits: Limits
) -> List[Tuple[Box, float, int]]:
    """Compute (box, score, class) straight from the definition, in Python floats."""
    found = []
    for row, delta, (cx, cy, w, h) in zip(
        logits.astype(float), deltas.astype(float).tolist(), ANCHORS.astype(float).tolist()
    ):
        softmax = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        x, y = cx + 0.1 * delta[0] * w, cy + 0.1 * delta[1] * h
        w, h = w * math.exp(0.2 * delta[2]), h * math.exp(0.2 * delta[3])
        sx, sy = frame_hw[1] / INPUT[1], frame_hw[0] / INPUT[0]
        corners = ((x - w / 2) * sx, (y - h / 2) * sy, (x + w / 2) * sx, (y + h / 2) * sy)
        box = tuple(min(max(v, 0.0), float(frame_hw[1 - i % 2])) for i, v in enumerate(corners))
        if box[2] <= box[0] or box[3] <= box[1]:
            continue
        found += [(box, p, k) for k, p in enumerate(softmax[1:]) if p >= limits.score]
    found.sort(key=lambda candidate: -candidate[1])
    return reference_suppress(found, limits)


def reference_suppress(
    found: List[Tuple[Box, float, int]], limits: Limits
) -> List[Tuple[Box, float, int]]:
    kept: List[Tuple[Box, float, int]] = []
    for box, score, index in found:
        if all(i != index or iou(box, b) <= limits.iou for b, _, i in kept):
            kept.append((box, score, index))
    return kept[: limits.count]


def iou(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    areas = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (a, b))
    return shared / (areas - shared)


@pytest.mark.parametrize("frame_hw", [(480, 640), (96, 160), (37, 211), (640, 100)])
@pytest.mark.parametrize("score", [0.05, 0.3, 0.6])
def test_boxes_match_the_reference_in_pixels_of_the_frame(
    frame_hw: Tuple[int, int], score: float
) -> None:
    rng = np.random.default_rng(0)
    limits = Limits(score, 0.5, 30)
    logits = rng.normal(0, 2, (len(ANCHORS), 4)).astype(np.float32)
    deltas = rng.normal(0, 1.5, (len(ANCHORS), 4)).astype(np.float32)
    boxes, scores, classes = detect(logits, deltas, ANCHORS, INPUT, frame_hw, limits)
    expected = reference_detect(logits, deltas, frame_hw, limits)
    assert 5 < len(expected) == len(boxes)
    np.testing.assert_allclose(boxes, [b for b, _, _ in expected], atol=1e-3)
    np.testing.assert_allclose(scores, [s for _, s, _ in expected], rtol=1e-5)
    assert classes.tolist() == [k for _, _, k in expected]
    assert (boxes.dtype, scores.dtype, classes.dtype) == (np.float32, np.float32, np.int64)


def test_an_object_comes_back_where_it_was_put() -> None:
    """A box is encoded as in training and decoded again from a perfect detector's outputs."""
    frame_hw, row, index = (480, 640), 77, 2
    box = np.array([100.0, 60.0, 333.0, 300.0], np.float32)
    scale = np.array([160 / 640, 96 / 480] * 2, np.float32)
    deltas = np.zeros((len(ANCHORS), 4), np.float32)
    deltas[row] = encode(box * scale, ANCHORS[row])
    logits = np.zeros((len(ANCHORS), 5), np.float32)
    logits[:, 0] = 20
    logits[row] = [0, 0, 0, 20, 0]
    boxes, scores, classes = detect(logits, deltas, ANCHORS, INPUT, frame_hw, Limits())
    np.testing.assert_allclose(boxes, [box], atol=0.01)
    assert scores[0] > 0.99
    assert classes.tolist() == [index]


def test_a_frame_without_objects_gives_empty_arrays() -> None:
    logits = np.zeros((len(ANCHORS), 5), np.float32)
    logits[:, 0] = 20
    boxes, scores, classes = detect(
        logits, np.zeros_like(ANCHORS), ANCHORS, INPUT, (48, 64), Limits()
    )
    assert (boxes.shape, scores.shape, classes.shape) == ((0, 4), (0,), (0,))


def test_boxes_outside_the_frame_are_dropped_and_boxes_across_its_edge_clipped() -> None:
    logits = np.tile(np.array([20.0, 0.0], np.float32), (len(ANCHORS), 1))
    deltas = np.zeros_like(ANCHORS)
    logits[:2] = [0.0, 20.0]
    deltas[0, 0] = -40  # four widths to the left of an anchor at the left edge
    boxes, _, _ = detect(logits, deltas, ANCHORS, INPUT, (96, 160), Limits())
    assert len(boxes) == 1
    assert boxes.min() == 0
    assert (boxes[0, 2:] > 0).all()


@given(
    st.lists(st.tuples(*[st.floats(-40, 40, width=32)] * 4), min_size=1, max_size=20),
    st.floats(0.01, 0.99),
)
def test_skipping_the_softmax_of_most_anchors_loses_no_candidate(
    rows: List[Tuple[float, ...]], score: float
) -> None:
    logits = np.array(rows, np.float32)
    softmax = np.exp(logits - logits.max(1, keepdims=True))
    softmax /= softmax.sum(1, keepdims=True)
    expected = np.nonzero(softmax[:, 1:] >= np.float32(score))
    found, classes, scores = above_score(logits, score)
    np.testing.assert_array_equal(found, expected[0])
    np.testing.assert_array_equal(classes, expected[1])
    np.testing.assert_array_equal(scores, softmax[:, 1:][expected])


corner, side = st.integers(0, 12), st.integers(1, 8)


@given(
    st.lists(
        st.tuples(corner, corner, side, side, st.integers(1, 20), st.integers(0, 2)), max_size=60
    ),
    st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]),  # exact in float, like whole pixels
    st.integers(1, 20),
)
def test_suppression_is_greedy_within_each_class(
    drawn: List[Tuple[int, ...]], limit: float, count: int
) -> None:
    limits = Limits(0.5, limit, count)
    boxes = np.array([(x, y, x + w, y + h) for x, y, w, h, _, _ in drawn], np.float32)
    scores = np.array([s / 20 for *_, s, _ in drawn], np.float32)
    classes = np.array([k for *_, k in drawn], np.int64)
    kept = suppress(boxes.reshape(-1, 4), scores, classes, limits)
    found = [(tuple(b), float(s), int(k)) for b, s, k in zip(boxes, scores, classes)]
    found.sort(key=lambda candidate: -candidate[1])
    expected = reference_suppress(found, limits)  # type: ignore[arg-type]
    assert [(tuple(boxes[i]), float(scores[i]), int(classes[i])) for i in kept] == expected


def test_boxes_in_different_chunks_suppress_each_other() -> None:
    rng = np.random.default_rng(0)
    n = 5 * CHUNK + 7
    low = rng.integers(0, 60, (n, 2))
    boxes = np.concatenate([low, low + rng.integers(4, 30, (n, 2))], 1).astype(np.float32)
    scores, classes = rng.random(n, np.float32), rng.integers(0, 3, n)
    found = [(tuple(b.tolist()), float(s), int(k)) for b, s, k in zip(boxes, scores, classes)]
    found.sort(key=lambda candidate: -candidate[1])
    for count in (3, 1000):
        limits = Limits(0.5, 0.5, count)
        kept = suppress(boxes, scores, classes, limits)
        expected = reference_suppress(found, limits)  # type: ignore[arg-type]
        assert [tuple(boxes[i].tolist()) for i in kept] == [box for box, _, _ in expected]
    assert CHUNK < len(expected) < n


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ((0.0, 0.5, 1), "score 0: it must be above 0 and below 1"),
        ((1.5, 0.5, 1), "score 1.5: it must be above 0 and below 1"),
        ((float("nan"), 0.5, 1), "score nan: it must be above 0 and below 1"),
        ((0.5, -0.1, 1), "iou -0.1: it must lie between 0 and 1"),
        ((0.5, 0.5, 0), "count 0: it must be 1 or more"),
    ],
)
def test_limits_out_of_range_are_refused(bad: Tuple[float, float, int], reason: str) -> None:
    with pytest.raises(DataError) as error:
        Limits(*bad)
    assert str(error.value) == reason
