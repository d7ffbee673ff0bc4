"""Accuracies carry their images and a 95 % interval that covers what it says."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from ramnas_models.accuracy import Accuracy, share, wilson


def test_wilsons_interval_is_that_of_the_literature() -> None:
    """Newcombe 1998, Table I, method 3: 81 of 263, 15 of 148, 0 of 20 and 1 of 29."""
    published = {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }
    for (hits, n), ends in published.items():
        assert wilson(hits / n, n) == pytest.approx(ends, abs=5e-5)


@pytest.mark.parametrize("n", [1, 7, 250, 50_000])
def test_the_interval_holds_the_value_and_stays_between_0_and_1(n: int) -> None:
    for hits in {0, 1, n // 2, n - 1, n}:
        low, high = wilson(hits / n, n)
        assert 0 <= low <= hits / n <= high <= 1
        assert low < high


@pytest.mark.parametrize("true", [0.5, 0.9, 0.98])
def test_the_interval_covers_the_true_share_about_95_times_in_100(true: float) -> None:
    n, draws = 250, 4000
    hits = np.random.default_rng(0).binomial(n, true, draws)
    covered = [low <= true <= high for low, high in (wilson(h / n, n) for h in hits)]
    assert 0.92 <= np.mean(covered) <= 0.98


def test_a_printed_accuracy_names_its_images() -> None:
    text = str(share("top1", 238 / 250, "report", 250))
    assert text == "top1 95.2 % (report split, n 250, 95 % interval 91.8 to 97.2 %)"
    assert str(Accuracy("mIoU", 0.5, "test")) == "mIoU 50.0 % (test split)"


def test_a_published_figure_says_whose_it_is_and_in_which_precision() -> None:
    measured = share("top1", 0.744, "ImageNet val", 50_000)
    one = msgspec.structs.replace(measured, precision="int8", source="tensorflow/tpu")
    assert str(one) == (
        "top1 in int8 74.4 % (published by tensorflow/tpu, ImageNet val split, n 50000, "
        "95 % interval 74.0 to 74.8 %)"
    )


def test_what_was_measured_here_in_fp32_is_written_as_in_earlier_versions() -> None:
    written = msgspec.to_builtins(share("top1", 0.9, "report", 10))
    assert [*written] == ["metric", "value", "split", "n", "interval"]
    assert msgspec.convert(written, Accuracy) == share("top1", 0.9, "report", 10)


@pytest.mark.parametrize(("value", "n"), [(0.5, 0), (1.01, 10), (-0.1, 10), (float("nan"), 10)])
def test_what_is_not_a_share_has_no_interval(value: float, n: int) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        wilson(value, n)
