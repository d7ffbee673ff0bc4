"""Made-up visits whose true latencies are known: the fit must find them in spite of the drift."""

from __future__ import annotations

from typing import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ramnas_edge.measuring.drift import fit, spread, standard_error
from ramnas_edge.measuring.record import Visit

TRUE_MS = np.geomspace(20, 40, 26)
Drift = Callable[[np.ndarray], np.ndarray]


def visits(drift: Drift, noise: float, seed: int, blocks: int = 2) -> list[Visit]:
    """Blocks of eight rounds: networks 0 and 1 are the anchors, the others are split among them."""
    rng = np.random.default_rng(seed)
    made, now = [], 0.0
    for block, members in enumerate(np.array_split(np.arange(2, len(TRUE_MS)), blocks)):
        for number in range(8):
            order = [0, 1, *rng.permutation(members), 1, 0]
            for position, i in enumerate(order):
                ms = TRUE_MS[i] * np.exp(drift(np.array(now)) + rng.normal(0, noise))
                runs = ms * np.array([1.2, 1.01, 1.0, 0.99, 1.0, 1.02])
                made.append(Visit(str(i), str(block), number, position, tuple(runs), now, now + 1))
                now += 0.3
    return made


def error(level: dict[str, float]) -> float:
    """Standard deviation of the log ratio to the truth, which ignores a factor common to all."""
    return float(np.std([level[str(i)] - np.log(ms) for i, ms in enumerate(TRUE_MS)]))


def plain_levels(visits: list[Visit]) -> dict[str, float]:
    """What one gets without a fit: the median of each network's visits."""
    return {
        name: float(np.log(np.median([v.median_ms for v in visits if v.arch_id == name])))
        for name in {v.arch_id for v in visits}
    }


def walk(seed: int, sigma: float) -> Drift:
    """A random walk of the log speed: `sigma` per square root of a second."""
    steps = np.cumsum(np.random.default_rng(seed).normal(0, sigma, 1000))
    return lambda now: np.interp(now, np.arange(1000.0), steps - steps.mean())


def bursts(now: np.ndarray) -> np.ndarray:
    """15 % slower for five seconds out of ten."""
    return 0.15 * (now % 10 < 5)


@settings(max_examples=25)
@given(st.integers(0, 1000))
def test_a_wandering_speed_is_taken_out(seed: int) -> None:
    measured = visits(walk(seed, 0.02), 0.002, seed)
    assert error(fit(measured).level) < 0.005


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["wandering", "bursts"])
def test_the_fit_is_closer_to_the_truth_than_the_plain_medians(name: str, seed: int) -> None:
    measured = visits(bursts if name == "bursts" else walk(seed, 0.02), 0.01, seed)
    assert error(fit(measured).level) < 0.5 * error(plain_levels(measured))


def test_a_network_disturbed_half_of_the_time_is_not_taken_for_a_slow_one() -> None:
    measured = [
        Visit(v.arch_id, v.block, v.round, v.position,
              tuple(t * (1.17 if v.arch_id == "5" and v.round % 2 else 1) for t in v.times_ms),
              v.start_s, v.end_s)
        for v in visits(walk(3, 0.01), 0.003, 3)
    ]  # fmt: skip
    level = fit(measured).level
    assert level["5"] == pytest.approx(
        np.log(TRUE_MS[5]) + level["0"] - np.log(TRUE_MS[0]), abs=0.02
    )
    assert spread(measured)["5"] > 0.05
    assert spread(measured)["6"] < 0.02


def test_levels_are_those_of_median_runs() -> None:
    level = fit(visits(lambda now: 0 * now, 0.0, 0)).level
    found = np.exp([level[str(i)] for i in range(len(TRUE_MS))])
    np.testing.assert_allclose(found, 1.005 * TRUE_MS, rtol=1e-3)  # the median of the six runs


def test_blocks_at_different_speeds_are_linked_by_their_anchors() -> None:
    measured = visits(lambda now: 0.1 * (now > 8 * 16 * 0.3), 0.002, 0)
    assert error(plain_levels(measured)) > 0.04
    assert error(fit(measured).level) < 0.01


@pytest.mark.parametrize("noise", [0.01, 0.04])
def test_the_standard_error_is_how_far_the_levels_are_from_the_truth(noise: float) -> None:
    passes = [visits(walk(seed, 0.005), noise, seed, blocks=1) for seed in range(10)]
    true = np.sqrt(np.mean([error(fit(measured).level) ** 2 for measured in passes]))
    claimed = np.sqrt(np.mean([standard_error(measured) ** 2 for measured in passes]))
    assert 0.8 * true < claimed < 1.4 * true


def test_the_standard_error_of_fewer_than_two_networks_is_infinite() -> None:
    assert standard_error([]) == float("inf")
    assert standard_error([Visit("a", "b", n, 0, (2.0,), n, n + 1) for n in range(4)]) == float(
        "inf"
    )


def test_one_visit_is_its_own_level_and_no_visit_has_none() -> None:
    assert fit([]).level == {}
    alone = fit([Visit("a", "b", 0, 0, (2.0, 2.0), 1.0, 2.0)]).level
    assert np.exp(alone["a"]) == pytest.approx(2.0)
