"""NSGA-II on two and three exact objectives of the space `micro`."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

pytest.importorskip("pymoo")

from pymoo.indicators.hv import HV

from ramnas_host.search.nsga2 import Seen, non_dominated, ranks, search, violation
from ramnas_models.plan import plan
from ramnas_models.space import load_space

SPACE = load_space("micro")
SETTINGS = {"population": 60, "parents": 30, "generations": 6}


def macs(rows: np.ndarray) -> np.ndarray:
    return np.array([plan(SPACE, SPACE.decode(row)).macs for row in rows], dtype=float)


def negative_depth(rows: np.ndarray) -> np.ndarray:
    """Lowest for the deepest networks, so that it conflicts with MACs."""
    return -rows[:, 10:17].sum(1).astype(float)


def test_every_arch_is_valid_and_evaluated_once() -> None:
    evaluated: list[tuple[int, ...]] = []

    def macs_of(rows: np.ndarray) -> np.ndarray:
        evaluated.extend(map(tuple, rows.tolist()))
        return macs(rows)

    rows, values = search(SPACE, [macs_of, negative_depth], **SETTINGS)
    assert len(rows) == len(values) == len({tuple(r) for r in rows.tolist()})
    assert sorted(evaluated) == sorted(tuple(r) for r in rows.tolist())
    for row in rows:
        SPACE.check(SPACE.decode(row))
    assert len(rows) > 5 * SETTINGS["population"]


def test_the_front_is_the_non_dominated_set_of_all_evaluated_archs() -> None:
    _, values = search(SPACE, [macs, negative_depth], **SETTINGS)
    front = set(non_dominated(values).tolist())
    for i, a in enumerate(values):
        dominated = ((values <= a).all(1) & (values < a).any(1)).any()
        assert dominated == (i not in front)


def test_the_search_reaches_both_ends_of_the_front() -> None:
    rows, values = search(SPACE, [macs, negative_depth], **SETTINGS)
    assert SPACE.decode(rows[values[:, 0].argmin()]) == SPACE.min()
    assert values[:, 1].min() == -SPACE.encode(SPACE.max())[10:17].sum()


def hypervolume(values: np.ndarray) -> float:
    points = np.column_stack([np.log(values[:, 0]), values[:, 1]])
    return float(HV(ref_point=np.array([np.log(2e7), 0.0]))(points))


def test_the_search_dominates_more_than_as_many_random_archs() -> None:
    for seed in range(3):
        rows, values = search(SPACE, [macs, negative_depth], seed=seed, **SETTINGS)
        random = SPACE.sample_rows(len(rows), np.random.default_rng(100 + seed))
        random_hypervolume = hypervolume(np.column_stack([macs(random), negative_depth(random)]))
        assert hypervolume(values) > 1.05 * random_hypervolume


def test_the_same_seed_gives_the_same_archs() -> None:
    runs = [search(SPACE, [macs, negative_depth], seed=s, **SETTINGS)[0] for s in (1, 1, 2)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert runs[0].shape != runs[2].shape or (runs[0] != runs[2]).any()


def test_three_objectives_work() -> None:
    def resolution(rows: np.ndarray) -> np.ndarray:
        return -rows[:, 0].astype(float)

    numbers: list[int] = []
    rows, values = search(
        SPACE, [macs, negative_depth, resolution], on_generation=numbers.append, **SETTINGS
    )
    assert values.shape == (len(rows), 3)
    assert numbers == list(range(1, SETTINGS["generations"] + 1))


def test_with_limits_more_archs_meet_them() -> None:
    limits = [2e6, -12.0]
    free = search(SPACE, [macs, negative_depth], seed=1, **SETTINGS)[1]
    bound = search(SPACE, [macs, negative_depth], seed=1, limits=limits, **SETTINGS)[1]
    within = [violation(values, np.array(limits)) == 0 for values in (free, bound)]
    assert within[1].sum() > 1.2 * within[0].sum()
    np.testing.assert_array_equal(within[1], (bound <= limits).all(1))


def test_a_limit_that_no_arch_meets_is_approached() -> None:
    rows, values = search(SPACE, [macs, negative_depth], limits=[1.0, np.inf], **SETTINGS)
    assert violation(values, np.array([1.0, np.inf])).min() > 0
    assert SPACE.decode(rows[values[:, 0].argmin()]) == SPACE.min()


def test_violations_are_relative_to_their_limits_and_summed() -> None:
    values = np.array([[1.0, -0.9], [3.0, -0.9], [1.0, -0.4], [3.0, -0.4]])
    np.testing.assert_allclose(violation(values, np.array([2.0, -0.8])), [0, 0.5, 0.5, 1])
    np.testing.assert_allclose(violation(values, np.array([np.inf, np.inf])), 0)


def test_seen_returns_new_rows_once_and_in_order() -> None:
    rows = SPACE.sample_rows(5000, np.random.default_rng(0))
    seen, previous = Seen(SPACE), set()
    for part in (rows[:2000], rows[1000:4000], rows[3000:], rows):
        expected = []
        for i, row in enumerate(map(tuple, part.tolist())):
            if row not in previous:
                previous.add(row)
                expected.append(i)
        assert seen.fresh(part).tolist() == expected


def test_the_search_ends_when_a_small_space_is_exhausted() -> None:
    stage = msgspec.structs.replace(
        SPACE.stages[0], widths=(8,), depths=(1, 2), kernels=(3, 5), expands=(1, 2)
    )
    small = msgspec.structs.replace(
        SPACE, name="small", resolutions=(32, 40), stages=(stage, stage)
    )
    rows, values = search(
        small, [lambda rows: rows.sum(1).astype(float)], population=50, parents=20, generations=200
    )
    assert small.size() / 2 < len(rows) <= small.size()
    assert len({tuple(row) for row in rows.tolist()}) == len(rows)
    assert small.decode(rows[values.argmin()]) == small.min()


def test_ranks_stop_when_they_hold_enough_rows() -> None:
    values = np.array([[1.0, 4.0], [2.0, 2.0], [2.0, 5.0], [3.0, 3.0], [4.0, 4.0]])
    assert [front.tolist() for front in ranks(values)] == [[0, 1], [2, 3], [4]]
    assert [front.tolist() for front in ranks(values, 3)] == [[0, 1], [2, 3]]
