"""Encodings of a whole population -> their costs: count each part once, then add up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Dict, Iterator, List, Optional, Tuple

import numpy as np

from ramnas_models.plan import Conv, Layer, operator_of, part_of, plan
from ramnas_models.space import sections

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ramnas_models.space import Rows, Space, Stage

    Floats = NDArray[np.float64]
    Bools = NDArray[np.bool_]
    Column = Tuple[str, str]

COSTS = ("layers", "macs", "params", "elements_in", "elements_out")
_MACS = COSTS.index("macs")


class CostTable:
    """The costs of the parts of a space's networks: the stem, each block and the head.

    The costs of a part depend on only a few choices. When a combination of choices comes up for
    the first time, `plan` lays out one network that has it, and all parts of that network are
    counted.

    `columns` names what is counted separately: (part, operator) as in `plan(...).table()`, except
    that depthwise convolutions are split by kernel (`depthwise5`), and that the head's pointwise
    convolution on the pooled pixel, if the space has one, is called `pooled`. With `input_hw` every
    network gets that input size, without it each has its own resolution.
    """

    def __init__(self, space: Space, *, input_hw: Optional[Tuple[int, int]] = None) -> None:
        self.space, self._input_hw = space, input_hw
        columns: List[Column] = []
        self._parts: Dict[str, _Part] = {}

        def add(names: List[str], own: List[Column]) -> None:
            where = slice(len(columns), len(columns) + len(own))
            self._parts.update({name: _Part(own, where) for name in names})
            columns.extend(own)

        add(["stem"], [("stem", "pointwise" if space.stem.kernel == 1 else "conv")])
        for i, stage in enumerate(space.stages):
            blocks = [f"stages.{i}.{j}" for j in range(max(stage.depths))]
            add(blocks, [(f"stage{i + 1}", operator) for operator in _operators(space, stage)])
        pooled = [] if space.head.expand is None else ["pooled"]
        add(["head"], [("head", operator) for operator in ("pointwise", *pooled, "linear")])
        self.columns = tuple(columns)

    def __call__(self, rows: Rows) -> Floats:
        """int64 [n, slots] -> float64 [n, columns, COSTS]: exact sums over the layers at batch 1.

        COSTS are the layers with weights, MACs, parameters, elements read and elements written.
        """
        total = np.zeros((len(rows), len(self.columns), len(COSTS)))
        for part, where, keys in self._chosen(rows):
            if where.all():
                total[:, part.columns] += part.costs(keys)
            else:
                total[where, part.columns] += part.costs(keys[where])
        return total

    def macs(self, rows: Rows) -> Floats:
        """int64 [n, slots] -> MACs [n] at batch 1, the same as `plan(space, arch).macs`."""
        total = np.zeros(len(rows))
        for part, where, keys in self._chosen(rows):
            total[where] += part.macs(keys[where])
        return total

    def _chosen(self, rows: Rows) -> List[Tuple[_Part, Bools, Rows]]:
        """(part, the rows that have it, their choices as keys [n]) for every part.

        Counts the costs of the keys that are new.
        """
        chosen = [
            (self._parts[name], where, _joined(choices))
            for name, where, choices in _choices(self.space, rows)
        ]
        for part, where, keys in chosen:
            new = np.flatnonzero(where)[part.unknown(keys[where])]
            for row in new[np.unique(keys[new], return_index=True)[1]]:
                self._count(rows[row], [(p, int(k[row])) for p, has, k in chosen if has[row]])
        return chosen

    def _count(self, row: Rows, parts: List[Tuple[_Part, int]]) -> None:
        """Lay out the network of the encoding `row` and keep what each of its parts costs."""
        layout = plan(self.space, self.space.decode(row), input_hw=self._input_hw)
        layers: Dict[str, List[Layer]] = {}
        for layer in layout.layers():
            layers.setdefault(_part_name(layer.key), []).append(layer)
        # `parts` and `layers` are both in order of execution
        for (part, key), own in zip(parts, layers.values()):
            part.learn(key, own)


class _Part:
    """The stem, the head or one place for a block, with the costs [columns, COSTS] of each key."""

    def __init__(self, own: List[Column], columns: slice) -> None:
        self.columns = columns
        self._own = {operator: i for i, (_, operator) in enumerate(own)}
        self._keys = np.zeros(0, dtype=np.int64)
        self._costs = np.zeros((0, len(own), len(COSTS)))
        self._macs = np.zeros(0)

    def costs(self, keys: Rows) -> Floats:
        found: Floats = self._costs[np.searchsorted(self._keys, keys)]
        return found

    def macs(self, keys: Rows) -> Floats:
        found: Floats = self._macs[np.searchsorted(self._keys, keys)]
        return found

    def unknown(self, keys: Rows) -> Bools:
        if not len(self._keys):
            return np.ones(len(keys), dtype=bool)
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        unknown: Bools = self._keys[at] != keys
        return unknown

    def learn(self, key: int, layers: List[Layer]) -> None:
        if not self.unknown(np.array([key]))[0]:
            return
        costs = np.zeros((1, *self._costs.shape[1:]))
        for layer in layers:
            figures = (1, layer.macs, layer.params, layer.elements_in, layer.elements)
            costs[0, self._own[_operator(layer)]] += figures
        at = int(np.searchsorted(self._keys, key))
        self._keys = np.insert(self._keys, at, key)
        self._costs = np.insert(self._costs, at, costs, axis=0)
        self._macs = self._costs[:, :, _MACS].sum(1)


def _operators(space: Space, stage: Stage) -> List[str]:
    operators = ["pointwise", *(f"depthwise{k}" for k in stage.kernels)]
    operators += ["se"] if any(stage.se_choices) else []
    # a shortcut that is the identity has no layer
    return operators + (["shortcut"] if space.shortcut == "projected" else [])


def _operator(layer: Layer) -> str:
    if layer.key == "head.mix":
        return "pooled"
    if isinstance(layer, Conv) and layer.depthwise:
        return f"depthwise{layer.kernel}"
    return operator_of(layer)


def _part_name(key: str) -> str:
    """`stages.2.1.expand` -> `stages.2.1`; outside the stages `stem` or `head`."""
    return ".".join(key.split(".")[:3]) if key.startswith("stages.") else part_of(key)


def _choices(space: Space, rows: Rows) -> Iterator[Tuple[str, Bools, Rows]]:
    """(name, the rows that have it, the choices [n, k] that its costs depend on) for every part."""
    n = len(space.stages)
    resolution = rows[:, 0]
    widths, depths, kernels, expands, chosen = (rows[:, at] for at in sections(space))
    chosen_se = iter(chosen.T)
    everywhere = np.ones(len(rows), dtype=bool)
    yield "stem", everywhere, np.column_stack([resolution, widths[:, 0]])
    slot = 0
    for i, stage in enumerate(space.stages):
        slots = 1 if space.granularity == "stage" else max(stage.depths)
        se = next(chosen_se) if isinstance(stage.se, tuple) else int(stage.se)
        for j in range(max(stage.depths)):
            own = slot + min(j, slots - 1)
            c_in, c_out = widths[:, i + (j > 0)], widths[:, i + 1]
            # one number for two choices, since a key has room for five numbers
            choices = (resolution, c_in, c_out, 2 * kernels[:, own] + se, expands[:, own])
            yield f"stages.{i}.{j}", depths[:, i] > j, np.column_stack(choices)
        slot += slots
    yield "head", everywhere, np.column_stack([resolution, widths[:, n], widths[:, n + 1]])


def _joined(choices: Rows) -> Rows:
    """Choices [n, k], each below 4096 -> keys [n], one number for each combination."""
    joined: Rows = choices @ 4096 ** np.arange(choices.shape[1])
    return joined
