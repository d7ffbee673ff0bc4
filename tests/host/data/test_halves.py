"""A split in two halves: fixed, apart, and together the whole."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramnas_host.data.halves import halves
from ramnas_models.errors import DataError


@given(st.lists(st.text("abc", max_size=4), min_size=2, max_size=40, unique=True), st.randoms())
def test_every_image_is_in_one_half_whatever_their_order(names: list[str], random: object) -> None:
    shuffled = list(names)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    found = []
    for listed in (names, shuffled):
        selection, report = halves(listed, "val", "a test split")
        assert sorted([*selection, *report]) == list(range(len(names)))
        assert 0 <= len(selection) - len(report) <= 1
        found.append([[listed[i] for i in half] for half in (selection, report)])
    assert found[0] == found[1] == [sorted(names)[::2], sorted(names)[1::2]]


def test_the_log_says_how_many_images_each_half_has(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        halves(["c", "a", "b"], "data/val", "instances_test.json")
    assert caplog.messages == [
        "without instances_test.json, every second image of data/val is for the report: 2 images "
        "for selection, 1 for the report"
    ]


def test_one_image_cannot_be_halved() -> None:
    with pytest.raises(DataError, match=r"val has one image.*it needs two or more; or add a test"):
        halves(["a"], "val", "a test split")
    assert [half.tolist() for half in halves(["b", "a"], "val", "x")] == [[1], [0]]
    assert all(half.dtype == np.int64 for half in halves(["b", "a"], "val", "x"))
