"""Which candidates of a verified front go into the bundle."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from ramnas_edge.record import LatencyRecord, Target, Visit
from ramnas_host.bundling import MIN_RATIO, choose, entries
from ramnas_host.front import Candidate, Figures, Front, Settings, spread, table, verified
from ramnas_models.errors import DataError
from ramnas_models.space import load_space

SPACE = load_space("micro")


def front(*figures: tuple[float, float]) -> Front:
    """A front of (p90 in ms, top-1) pairs."""
    archs = SPACE.sample_by_macs(np.random.default_rng(0), len(figures) + 2)
    candidates = tuple(
        Candidate(arch, arch.id, 1, Figures(0.9, ms, ms), Figures(top1, ms / 1.2, ms))
        for arch, (ms, top1) in zip(archs, figures, strict=False)
    )
    return Front("micro", SPACE.hash, "run", "dev", Target(), {}, Settings(), candidates)


def p90(chosen: list[Candidate]) -> list[float]:
    return [c.measured.p90_ms for c in chosen if c.measured]


def test_dominated_candidates_stay_out() -> None:
    chosen = choose(front((1, 0.90), (2, 0.89), (3, 0.95), (3, 0.93), (9, 0.99)))
    assert p90(chosen) == [1, 3, 9]


def test_of_models_too_close_to_tell_apart_the_most_accurate_is_kept() -> None:
    chosen = choose(front((1, 0.90), (1.05, 0.93), (2, 0.95), (2.1, 0.96), (4, 0.97), (8, 0.98)))
    assert p90(chosen) == [1.05, 2.1, 4, 8]
    ratios = np.array(p90(chosen)[1:]) / np.array(p90(chosen)[:-1])
    assert (ratios >= MIN_RATIO).all()


def test_a_gap_in_the_front_does_not_cost_the_models_beyond_it() -> None:
    found = [(0.065, 0.964), (0.190, 0.968), (0.212, 0.98), (0.414, 0.982), (0.45, 0.996)]
    assert p90(choose(front(*found))) == [0.065, 0.190, 0.212, 0.45]


def test_closer_models_are_taken_when_there_would_be_fewer_than_four() -> None:
    chosen = choose(front((1, 0.90), (1.08, 0.91), (1.16, 0.92), (1.24, 0.93), (1.3, 0.94)))
    assert 4 <= len(chosen) <= 5


def test_at_most_eight_spread_over_the_range() -> None:
    many = [(1.05**i, 0.5 + i / 200) for i in range(80)]
    chosen = choose(front(*many))
    assert 4 <= len(chosen) <= 8
    assert p90(chosen)[-1] == 1.05**79
    assert p90(chosen)[0] < 2


def test_a_front_without_figures_makes_no_bundle() -> None:
    bare = front((1, 0.9))
    candidate = msgspec.structs.replace(bare.candidates[0], measured=None)
    with pytest.raises(DataError, match="ramnas verify"):
        choose(msgspec.structs.replace(bare, candidates=(candidate,)))
    with pytest.raises(DataError, match="is not verified"):
        entries(bare, [candidate])


def test_a_candidate_without_a_valid_record_stays_unmeasured() -> None:
    bare = front((1, 0.9), (2, 0.95))
    empty = [msgspec.structs.replace(c, measured=None) for c in bare.candidates]
    arch = empty[0].arch
    visit = Visit(arch.id, "b", 0, 0, (3.0, 3.0))
    record = LatencyRecord(
        "run", Target(), arch, arch.id, SPACE.hash, (24, 24), "dev", "1", (), "ok",
        visits=(visit,), p90_ms=3.5,
    )  # fmt: skip
    found = verified(msgspec.structs.replace(bare, candidates=tuple(empty)), [0.8, 0.9], [record])
    first, second = (c.measured for c in found.candidates)
    assert first == Figures(0.8, pytest.approx(3.0), 3.5)
    assert second is None
    assert table(found).splitlines()[2].split()[-1] == "-"


def test_spread_takes_both_ends_and_even_steps_in_log() -> None:
    latency = np.geomspace(1, 100, 1000)
    chosen = spread(latency, 5)
    np.testing.assert_allclose(latency[chosen], [1, 3.16, 10, 31.6, 100], rtol=0.01)
    assert spread(latency[:3], 5) == [0, 1, 2]
