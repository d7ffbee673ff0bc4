"""The archs that every board measures first are far apart in cost."""

from __future__ import annotations

import numpy as np
import pytest

from ramnas_edge.measuring.record import Target
from ramnas_host.fleet.first_archs import first_archs, first_request
from ramnas_models.cost_table import CostTable
from ramnas_models.errors import SpaceError
from ramnas_models.space import load_space

SPACES = {name: load_space(name) for name in ("micro", "table1", "ofa_mbv3", "lite")}
TABLES = {
    name: CostTable(space) for name, space in SPACES.items()
}  # made once, because counting costs is slow


@pytest.mark.parametrize(
    ("name", "n"), [("micro", 60), ("micro", 2), ("table1", 10), ("ofa_mbv3", 10)]
)
def test_min_and_max_come_first_and_all_archs_differ(name: str, n: int) -> None:
    space = SPACES[name]
    archs = first_archs(space, TABLES[name], n, np.random.default_rng(0))
    assert archs[:2] == [space.min(), space.max()]
    assert len(set(archs)) == n
    assert all(space.check(arch) for arch in archs)


def test_they_spread_over_more_macs_than_archs_drawn_uniformly() -> None:
    space, table = SPACES["table1"], TABLES["table1"]
    chosen = first_archs(space, table, 20, np.random.default_rng(0))
    uniform = space.sample_rows(20, np.random.default_rng(0))
    ours, theirs = (
        np.sort(np.log(table.macs(rows))) for rows in (space.encode_all(chosen), uniform)
    )
    ends = np.log(table.macs(space.encode_all([space.min(), space.max()])))
    in_bins = [len(np.unique(np.digitize(m, np.linspace(*ends, 11)))) for m in (ours, theirs)]
    assert in_bins[0] >= in_bins[1] + 3


def test_the_same_seed_gives_the_same_archs_and_a_longer_list_begins_with_them() -> None:
    space, table = SPACES["micro"], TABLES["micro"]
    ten, again, twenty = (
        first_archs(space, table, n, np.random.default_rng(3)) for n in (10, 10, 20)
    )
    assert ten == again == twenty[:10]


def test_a_space_that_is_too_small_is_named() -> None:
    space = SPACES["micro"]
    for n in (1, space.size() + 1):
        with pytest.raises(SpaceError, match=f"cannot draw {n} different archs from space micro"):
            first_request("run", space, Target(), n, rounds=8, seed=0)
