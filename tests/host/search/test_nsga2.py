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


def depth_missing(rows: np.ndarray) -> np.ndarray:
    """Best for the deepest networks: conflicts with MACs."""
    return -rows[:, 10:17].sum(1).astype(float)


def test_every_arch_is_valid_and_evaluated_once() -> None:
    asked: list[tuple[int, ...]] = []

    def remember(rows: np.ndarray) -> np.ndarray:
        asked.extend(map(tuple, rows.tolist()))
        return macs(rows)

    rows, values = search(SPACE, [remember, depth_missing], **SETTINGS)
    assert len(rows) == len(values) == len({tuple(r) for r in rows.tolist()})
    assert set(asked) == {tuple(r) for r in rows.tolist()}
    for row in rows:
        SPACE.check(SPACE.decode(row))
    assert len(rows) > 5 * SETTINGS["population"]


def test_front_is_the_non_dominated_set_of_all_that_was_tried() -> None:
    _, values = search(SPACE, [macs, depth_missing], **SETTINGS)
    front = set(non_dominated(values).tolist())
    for i, a in enumerate(values):
        dominated = ((values <= a).all(1) & (values < a).any(1)).any()
        assert dominated == (i not in front)


def test_search_reaches_the_known_ends_of_the_front() -> None:
    rows, values = search(SPACE, [macs, depth_missing], **SETTINGS)
    assert SPACE.decode(rows[values[:, 0].argmin()]) == SPACE.min()
    assert values[:, 1].min() == -SPACE.encode(SPACE.max())[10:17].sum()


def hypervolume(values: np.ndarray) -> float:
    found = np.column_stack([np.log(values[:, 0]), values[:, 1]])
    return float(HV(ref_point=np.array([np.log(2e7), 0.0]))(found))


def test_search_dominates_more_than_as_many_random_archs() -> None:
    for seed in range(3):
        rows, values = search(SPACE, [macs, depth_missing], seed=seed, **SETTINGS)
        random = SPACE.sample_rows(len(rows), np.random.default_rng(100 + seed))
        by_chance = hypervolume(np.column_stack([macs(random), depth_missing(random)]))
        assert hypervolume(values) > 1.05 * by_chance


def test_same_seed_same_archs() -> None:
    runs = [search(SPACE, [macs, depth_missing], seed=s, **SETTINGS)[0] for s in (1, 1, 2)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert runs[0].shape != runs[2].shape or (runs[0] != runs[2]).any()


def test_three_objectives_work() -> None:
    def resolution(rows: np.ndarray) -> np.ndarray:
        return -rows[:, 0].astype(float)

    seen: list[int] = []
    rows, values = search(
        SPACE, [macs, depth_missing, resolution], on_generation=seen.append, **SETTINGS
    )
    assert values.shape == (len(rows), 3)
    assert seen == list(range(1, SETTINGS["generations"] + 1))


def test_archs_above_a_limit_are_left_behind() -> None:
    limits = [2e6, -12.0]
    free = search(SPACE, [macs, depth_missing], seed=1, **SETTINGS)[1]
    bound = search(SPACE, [macs, depth_missing], seed=1, limits=limits, **SETTINGS)[1]
    within = [violation(values, np.array(limits)) == 0 for values in (free, bound)]
    assert within[1].sum() > 1.2 * within[0].sum()
    np.testing.assert_array_equal(within[1], (bound <= limits).all(1))


def test_a_limit_below_all_is_approached() -> None:
    rows, values = search(SPACE, [macs, depth_missing], limits=[1.0, np.inf], **SETTINGS)
    assert violation(values, np.array([1.0, np.inf])).min() > 0
    assert SPACE.decode(rows[values[:, 0].argmin()]) == SPACE.min()


def test_violation_is_relative_and_summed() -> None:
    values = np.array([[1.0, -0.9], [3.0, -0.9], [1.0, -0.4], [3.0, -0.4]])
    np.testing.assert_allclose(violation(values, np.array([2.0, -0.8])), [0, 0.5, 0.5, 1])
    np.testing.assert_allclose(violation(values, np.array([np.inf, np.inf])), 0)


def test_seen_tells_new_rows_from_old_ones_in_their_order() -> None:
    rows = SPACE.sample_rows(5000, np.random.default_rng(0))
    seen, known = Seen(SPACE), set()
    for part in (rows[:2000], rows[1000:4000], rows[3000:], rows):
        expected = []
        for i, row in enumerate(map(tuple, part.tolist())):
            if row not in known:
                known.add(row)
                expected.append(i)
        assert seen.fresh(part).tolist() == expected


def test_a_space_with_fewer_archs_than_asked_for_ends_the_search() -> None:
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


def test_ranks_stop_when_they_hold_enough() -> None:
    values = np.array([[1.0, 4.0], [2.0, 2.0], [2.0, 5.0], [3.0, 3.0], [4.0, 4.0]])
    assert [front.tolist() for front in ranks(values)] == [[0, 1], [2, 3], [4]]
    assert [front.tolist() for front in ranks(values, 3)] == [[0, 1], [2, 3]]
