"""Integers of archs -> features [n, f] for the regressors, as `int`, `onehot` or `layer`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ramnas_models.cost_table import COSTS, CostTable
from ramnas_models.space import Space

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rows = NDArray[np.int64]  # `Space.encode_all`
    Floats = NDArray[np.float64]
    Encoding = Callable[[Rows], Floats]


def integers(space: Space, table: CostTable) -> Encoding:
    """`int`: each integer, scaled to [-1, 1] between the smallest and the largest arch."""
    low, high = space.encode(space.min()), space.encode(space.max())
    return lambda rows: 2 * (rows - low) / np.maximum(high - low, 1) - 1.0


def one_hot(space: Space, table: CostTable) -> Encoding:
    """`onehot`: one column for each choice of each slot that has several choices.

    In a slot past the depth all columns are 0.
    """
    return _columns(space, slice(None))


def widths(space: Space) -> Encoding:
    """One-hot columns for the widths of stem, stages and head alone.

    Engines work on blocks of channels: 24 channels may take as long as 32, and no count of MACs
    shows that.
    """
    return _columns(space, slice(1, len(space.stages) + 3))


def _columns(space: Space, slots: slice) -> Encoding:
    chosen = list(enumerate(space.choices()))[slots]
    several = [(slot, np.array(choices)) for slot, choices in chosen if len(choices) > 1]
    return lambda rows: np.concatenate(
        [np.zeros((len(rows), 0)), *(rows[:, [slot]] == choices for slot, choices in several)],
        axis=1,
    )


def layers(space: Space, table: CostTable) -> Encoding:
    """`layer`: MACs, elements moved and layers of each stage and operator, scaled to [-1, 1].

    The scale comes from 1,000 uniformly drawn archs, the smallest and the largest. Columns in which
    these do not differ are left out.
    """

    def counted(rows: Rows) -> Floats:
        costs = dict(zip(COSTS, table(rows).transpose(2, 0, 1), strict=True))
        moved = costs["elements_in"] + costs["elements_out"]
        return np.concatenate([costs["macs"], moved, costs["layers"]], axis=1)

    ends = space.encode_all([space.min(), space.max()])
    seen = counted(np.concatenate([ends, space.sample_rows(1000, np.random.default_rng(0))]))
    low, high = seen.min(0), seen.max(0)
    differ = high > low
    middle, half = (high + low)[differ] / 2, (high - low)[differ] / 2
    return lambda rows: (counted(rows)[:, differ] - middle) / half


ENCODINGS: dict[str, Callable[[Space, CostTable], Encoding]] = {
    "int": integers,
    "onehot": one_hot,
    "layer": layers,
}
