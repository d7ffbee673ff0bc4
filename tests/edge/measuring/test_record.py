"""Keys and statistics of records."""

from __future__ import annotations

import numpy as np
import pytest

from ramnas_edge.measuring.drift import corrected_ms
from ramnas_edge.measuring.record import Target, Visit, record_key, statistics
from ramnas_models.space import load_space

SPACE = load_space("micro")


def test_no_records_have_no_corrected_latencies() -> None:
    assert corrected_ms([]) == {}


def test_every_difference_in_what_was_measured_gives_another_key() -> None:
    arch = SPACE.min()
    base = Target()
    others = [
        Target(task="detection"), Target(input_hw=(8, 8)), Target(engine="tensorrt"),
        Target(precision="fp16"), Target(threads=2), Target(batch=8),
    ]  # fmt: skip
    keys = {record_key("run", target, arch, "dev") for target in [base, *others]}
    keys |= {record_key("other", base, arch, "dev"), record_key("run", base, arch, "dev2")}
    keys |= {record_key("run", base, SPACE.max(), "dev")}
    assert len(keys) == 10


@pytest.mark.parametrize("explicit", [None, (11, 13)])
def test_input_size_defaults_to_the_archs_resolution(explicit: tuple[int, int] | None) -> None:
    target = Target(input_hw=explicit)
    assert target.hw(SPACE.min()) == (explicit or (24, 24))


def visits_of(times_ms: np.ndarray) -> list[Visit]:
    """Each row of `times_ms` becomes a visit."""
    return [Visit("a", "b", i, 0, tuple(row)) for i, row in enumerate(times_ms.tolist())]


@pytest.mark.parametrize(
    ("visits", "runs", "p95", "p99"),
    [(8, 6, False, False), (9, 10, True, False), (9, 51, True, True)],
)
def test_percentiles_that_too_few_runs_cannot_bound_are_absent(
    visits: int, runs: int, p95: bool, p99: bool
) -> None:
    times = np.random.default_rng(0).lognormal(0, 0.1, (visits, runs))
    found = statistics(visits_of(times))
    assert (found["p95_ms"] is not None, found["p99_ms"] is not None) == (p95, p99)
    assert found["p50_ms"] == pytest.approx(np.median(times))
    assert found["p90_ms"] == pytest.approx(np.percentile(times, 90))


def test_p90_bound_sees_that_runs_of_one_visit_are_not_independent() -> None:
    rng = np.random.default_rng(0)
    alike = rng.lognormal(0, 0.1, (8, 50))
    by_visit = np.sort(alike.ravel()).reshape(8, 50)  # the same runs, but each visit has its level
    rng.shuffle(by_visit)
    bounds = [statistics(visits_of(times))["p90_bound_ms"] for times in (alike, by_visit)]
    assert np.percentile(alike, 90) < bounds[0] < bounds[1]


def test_p90_bound_holds_about_as_often_as_it_claims() -> None:
    rng = np.random.default_rng(1)
    truth = np.percentile(rng.lognormal(0, 0.1, 10**6), 90)
    draws = [statistics(visits_of(rng.lognormal(0, 0.1, (12, 20)))) for _ in range(30)]
    held = np.mean([found["p90_bound_ms"] >= truth for found in draws])
    assert held >= 0.85  # it would be 0.975 with endlessly many visits, and 12 are few
