"""The costs of encodings are compared with the plan of each network."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ramnas_models.cost_table import COSTS, CostTable
from ramnas_models.plan import PartCost, plan
from ramnas_models.space import Space, load_space
from tests.models.generated import spaces

SPACES = ["micro", "table1", "ofa_mbv3", "mobilenet_v3", "lite", "lite2"]


@pytest.mark.parametrize("name", SPACES)
def test_macs_equal_those_of_the_plan(name: str) -> None:
    space = load_space(name)
    table = CostTable(space)
    for seed in range(2):  # the second time, most parts are already counted
        rows = space.sample_rows(60, np.random.default_rng(seed))
        rows[0], rows[1] = space.encode(space.min()), space.encode(space.max())
        expected = [plan(space, space.decode(row)).macs for row in rows]
        np.testing.assert_array_equal(table.macs(rows), expected)
        np.testing.assert_array_equal(table(rows)[:, :, COSTS.index("macs")].sum(1), expected)


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("input_hw", [None, (96, 160)])
def test_costs_equal_those_of_the_plans_table(name: str, input_hw: tuple[int, int] | None) -> None:
    space = load_space(name)
    table = CostTable(space, input_hw=input_hw)
    rows = space.sample_rows(20, np.random.default_rng(2))
    for row, costs in zip(rows, table(rows)):
        found: dict[tuple[str, str], np.ndarray] = {}
        for (part, operator), figures in zip(table.columns, costs):
            # the table splits by kernel and by pooled pixel; their sums must be the plan's figures
            plain = operator.rstrip("0123456789").replace("pooled", "pointwise")
            found[part, plain] = found.get((part, plain), np.zeros(len(COSTS))) + figures
        expected = plan(space, space.decode(row), input_hw=input_hw).table()
        for key, cost in expected.items():
            wanted = (cost.layers, cost.macs, cost.params, cost.elements_in, cost.elements_out)
            assert tuple(found.pop(key)) == wanted
        assert not any(rest.any() for rest in found.values())


@settings(max_examples=25)
@given(spaces(), st.integers(0, 2**32 - 1))
def test_costs_of_any_space_equal_the_sums_of_its_plans(space: Space, seed: int) -> None:
    table = CostTable(space)
    rows = space.sample_rows(8, np.random.default_rng(seed))
    for row, costs in zip(rows, table(rows).sum(1)):
        expected = sum(plan(space, space.decode(row)).table().values(), PartCost())
        assert tuple(costs) == dataclasses.astuple(expected)
    np.testing.assert_array_equal(table.macs(rows), table(rows)[:, :, 1].sum(1))


def test_depthwise_costs_are_split_by_kernel() -> None:
    space = load_space("ofa_mbv3")
    layers = CostTable(space)(space.encode(space.min())[None])[0, :, 0]
    count = dict(zip(CostTable(space).columns, layers))
    assert (count["stage2", "depthwise3"], count["stage2", "depthwise7"]) == (2, 0)


@pytest.mark.parametrize("name", SPACES)
def test_every_column_costs_some_arch_something(name: str) -> None:
    """A head without its second 1x1 has no pooled pixel to count."""
    space = load_space(name)
    costs = CostTable(space)(space.sample_rows(400, np.random.default_rng(0)))
    columns = CostTable(space).columns
    assert (("head", "pooled") in columns) == (space.head.expand is not None)
    assert [c for c, paid in zip(columns, costs.any((0, 2))) if not paid] == []


def test_an_empty_population_gives_empty_costs() -> None:
    space = load_space("micro")
    none = space.sample_rows(0, np.random.default_rng(0))
    assert CostTable(space).macs(none).shape == (0,)
    assert len(CostTable(space)(none)) == 0
