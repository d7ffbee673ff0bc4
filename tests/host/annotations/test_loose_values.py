"""Values as other people's label files have them; masks are held against pycocotools."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")
mask = pytest.importorskip("pycocotools.mask")

from ramnas_host.annotations.loose_values import box_around, flag, identity_of, short, side


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_the_box_around_a_mask_is_that_of_pycocotools(
    height: int, width: int, seed: int, share: float
) -> None:
    pixels = (np.random.default_rng(seed).random((height, width)) < share).astype(np.uint8)
    encoded = mask.encode(np.asfortranarray(pixels))
    text = {"size": [height, width], "counts": encoded["counts"].decode()}
    flat = pixels.ravel(order="F")
    ends = [*np.flatnonzero(np.diff(flat, prepend=0)).tolist(), height * width]
    runs = {"size": [height, width], "counts": np.diff(ends, prepend=0).tolist()}
    expected = mask.toBbox(encoded).tolist() if pixels.any() else None
    assert box_around(text) == expected
    assert box_around(runs) == expected


@given(st.text(max_size=9), st.lists(st.integers()), st.integers(), st.integers())
def test_damaged_masks_have_no_box_or_some_box(
    text: str, runs: list[int], height: int, width: int
) -> None:
    for counts in (text, runs):
        found = box_around({"size": [height, width], "counts": counts})
        assert found is None or len(found) == 4
    assert box_around({"size": [0, 0], "counts": [0, 1]}) is None
    assert box_around({"size": 5, "counts": None}) is None


def test_an_id_is_the_same_as_a_number_and_as_a_text() -> None:
    assert [identity_of(v) for v in (7, 7.0, "7", " 7 ", "7.0", "-7")] == [7, 7, 7, 7, 7, -7]
    assert [identity_of(v) for v in ("007", "a.jpg", "", 1.5)] == ["007", "a.jpg", "", 1.5]
    assert [identity_of(v) for v in (None, True, [1], {})] == [None] * 4


def test_sides_and_flags_are_read_as_they_are_meant() -> None:
    assert [side(v) for v in (640, "640", 640.0, "640.0")] == [640] * 4
    odd = (None, 0, -1, "", "?", float("nan"), 1.5, [], float("inf"))
    assert [side(v) for v in odd] == [None] * len(odd)
    assert [flag(v) for v in (None, 0, False, "0", "false", "False", "")] == [False] * 7
    assert [flag(v) for v in (1, True, "1", "true", 1.0)] == [True] * 5
    assert [flag(v) for v in ("perhaps", [], {})] == [None] * 3


def test_a_value_in_a_message_is_short_and_of_one_line() -> None:
    assert short("a\nb") == r"'a\nb'"
    assert len(short([1] * 999)) < 210
