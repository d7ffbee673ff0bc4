"""Encodings of archs for the regressors: `int`, `onehot`, `layer` -> float [n, features]."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ramnas_models.cost_table import FIGURES, CostTable
from ramnas_models.space import Space

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rows = NDArray[np.int64]  # `Space.encode_all`
    Floats = NDArray[np.float64]
    Encoding = Callable[[Rows], Floats]


def integers(space: Space, table: CostTable) -> Encoding:
    """Each integer scaled to [-1, 1] over its choices."""
    low, high = space.encode(space.min()), space.encode(space.max())
    return lambda rows: 2 * (rows - low) / np.maximum(high - low, 1) - 1.0


def one_hot(space: Space, table: CostTable) -> Encoding:
    """A column for each choice of each slot that has several; all 0 in a slot past the depth."""
    several = [(slot, c) for slot, c in enumerate(space.choices()) if len(c) > 1]
    return lambda rows: np.concatenate(
        [(rows[:, [slot]] == np.array(choices)) for slot, choices in several], axis=1
    ).astype(float)


def layers(space: Space, table: CostTable) -> Encoding:
    """MACs, elements moved and layers of each stage and operator, scaled to [-1, 1].

    The scale is that of 1,000 uniform archs and the ends; what never differs is left out.
    """

    def counted(rows: Rows) -> Floats:
        costs = dict(zip(FIGURES, table(rows).transpose(2, 0, 1), strict=True))
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
