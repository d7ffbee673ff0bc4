from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("pymoo")

from ramnas_host.search import non_dominated, search
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


def test_search_beats_random_sampling() -> None:
    """Fewest MACs at full depth: the search finds a cheaper one than as many random archs."""
    rows, values = search(SPACE, [macs, depth_missing], **SETTINGS)
    random = SPACE.sample_rows(len(rows), np.random.default_rng(1))
    deep = depth_missing(random).min()
    found = values[values[:, 1] <= deep, 0].min()
    assert found < macs(random)[depth_missing(random) <= deep].min()


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
