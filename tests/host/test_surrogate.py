from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn")

from ramnas_host.surrogate import FAMILIES, fit, fit_best, score
from ramnas_models.errors import DataError
from ramnas_models.plan import plan
from ramnas_models.space import load_space

SPACE = load_space("micro")
ARCHS = SPACE.sample_by_macs(np.random.default_rng(0), 150)
ROWS = SPACE.encode_all(ARCHS)
# smooth in the choices, and with a little noise, as latency is
MS = np.array([0.02 * len(plan(SPACE, a).blocks) + plan(SPACE, a).macs / 2e7 for a in ARCHS])
MS *= np.exp(np.random.default_rng(1).normal(0, 0.02, len(MS)))


@pytest.mark.parametrize(
    ("family", "least"), [("gp", 0.85), ("rbf", 0.85), ("mlp", 0.7), ("cart", 0.4)]
)
def test_each_family_ranks_archs_it_has_not_seen(family: str, least: float) -> None:
    surrogate = fit(SPACE, ROWS[:100], MS[:100], family, log=True)
    mean, std = surrogate.predict(ROWS[100:])
    assert score(MS[100:], mean).tau > least
    assert surrogate.score.tau > least - 0.1
    assert (std > 0).all()
    assert mean.shape == std.shape == (50,)


def test_best_family_by_cross_validated_tau_is_taken() -> None:
    best, scores = fit_best(SPACE, ROWS, MS, log=True)
    assert set(scores) == set(FAMILIES)
    assert best.score.tau == max(s.tau for s in scores.values())


def test_std_is_about_the_error_on_new_archs() -> None:
    surrogate = fit(SPACE, ROWS[:100], MS[:100], "rbf", log=True)
    mean, std = surrogate.predict(ROWS[100:])
    error = np.sqrt(np.mean(((mean - MS[100:]) / std) ** 2))
    assert 0.4 < error < 2.5


def test_score_of_a_perfect_and_a_reversed_order() -> None:
    truth = np.arange(1.0, 11.0)
    assert score(truth, truth).tau == pytest.approx(1.0)
    assert score(truth, truth).mape == 0.0
    assert score(truth, -truth).rho == pytest.approx(-1.0)


def test_same_data_same_prediction() -> None:
    first, second = (fit(SPACE, ROWS, MS, "gp", log=True).predict(ROWS)[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("rows", "y", "message"),
    [
        (ROWS[:19], MS[:19], "needs 20 records or more, there are 19"),
        (ROWS, np.full(len(ROWS), 2.0), "all 150 targets are 2"),
        (ROWS, np.where(np.arange(len(ROWS)) == 3, np.nan, MS), "finite targets"),
        (ROWS, np.where(np.arange(len(ROWS)) == 3, 0.0, MS), "latencies above 0"),
    ],
    ids=["too few", "constant", "nan", "zero"],
)
def test_targets_nothing_can_be_learnt_from_are_named(
    rows: np.ndarray, y: np.ndarray, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        fit(SPACE, rows, y, "gp", log=True)
