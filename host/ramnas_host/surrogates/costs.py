"""A space, a Python function or a CSV file -> what each part of an arch costs.

This is all that the family `cost` needs to know of a search space. So networks that no space of
ramnas describes, such as FBNet's, MnasNet's or those of a cell space, can be calibrated too.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ramnas_host.surrogates.encodings import widths
from ramnas_models.cost_table import COSTS, CostTable
from ramnas_models.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rows = NDArray[np.int64]  # encodings [n, slots]: the integers of n archs
    Floats = NDArray[np.float64]

ARCH, PART = "arch", "part"
MOST = 1e18  # a greater cost is a mistake, and its square is too large for single precision


def no_choices(rows: Rows) -> Floats:
    """No column at all, [n, 0]."""
    return np.zeros((len(rows), 0))


def one_group(rows: Rows) -> Rows:
    """The same group for every arch, [n]."""
    return np.zeros(len(rows), dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Costs:
    """What the parts of networks cost, from the integers [n, slots] that describe the networks.

    `table` returns costs [n, columns, COSTS], not negative and exact at batch 1. COSTS are layers
    with weights, MACs, parameters, elements read and elements written. A column is any part that
    may take its time in its own way: a stage, an operator, or an operator of a stage. A network
    without that part has 0 there.

    `choices` returns columns [n, c] that are 1 where a network made a choice whose effect no count
    shows, such as a width that an engine runs well. `groups` returns a number [n] for each network;
    networks of one group, such as those of one resolution, share what the counts do not explain.
    `listed` holds the encodings of all archs of the space, if they can be listed.
    """

    table: Callable[[Rows], Floats]
    choices: Callable[[Rows], Floats] = no_choices
    groups: Callable[[Rows], Rows] = one_group
    listed: Rows | None = None

    def __call__(self, rows: Rows) -> Floats:
        """The costs [n, columns, COSTS] of encodings; DataError if `table` returned no such."""
        found = np.asarray(self.table(rows), dtype=float)
        if found.ndim != 3 or found.shape[::2] != (len(rows), len(COSTS)):
            raise DataError(
                f"the table of costs returned an array of shape {found.shape} for {len(rows)} "
                f"archs; it must be [{len(rows)}, columns, {len(COSTS)}], and the last axis holds "
                f"{', '.join(COSTS)}"
            )
        sound = ((found >= 0) & (found <= MOST)).all((1, 2))
        if not sound.all():
            raise DataError(
                f"the table of costs has a cost that is not between 0 and {MOST:g} for arch "
                f"{_name(rows[~sound][0])}"
            )
        lacking = found.sum(1) == 0
        if lacking.any():
            i, cost = np.argwhere(lacking)[0]
            raise DataError(
                f"the costs of arch {_name(rows[i])} have 0 {COSTS[cost]} in all parts together; "
                "count stem and head too, which every network has"
            )
        return found


def costs_of(table: CostTable) -> Costs:
    """The costs of a space of ramnas, with its widths as choices and its resolutions as groups."""
    return Costs(table, widths(table.space), lambda rows: rows[:, 0])


def read_costs(path: Path) -> Costs:
    """Read the costs of a space that can be listed from a CSV file.

    The file has the columns arch, part and COSTS, and a line for each part of each arch. An arch is
    written as its integers with spaces between them. A part without a line costs an arch nothing.
    DataError names the line of a fault, and later every arch that the file does not have.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.DictReader(file)
            header, columns = list(lines.fieldnames or ()), (ARCH, PART, *COSTS)
            missing = [name for name in columns if name not in header]
            if missing:
                raise DataError(
                    f"{path} lacks the column {', '.join(missing)}; a table of costs has the "
                    f"columns {', '.join(columns)}"
                )
            twice = [name for name in columns if header.count(name) > 1]
            if twice:
                raise DataError(f"{path}, line 1: the column {', '.join(twice)} is there twice")
            return _read(path, lines)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a readable CSV file: {error}") from error


def _read(path: Path, lines: csv.DictReader[str]) -> Costs:
    costs: dict[tuple[int, ...], dict[str, list[float]]] = {}
    slots = 0
    for line in lines:
        where = f"{path}, line {lines.line_num}"
        if None in line:  # `csv` keeps there what stands beyond the last column
            raise DataError(f"{where}: it has more cells than there are columns")
        arch, part = _integers(line[ARCH], where), line[PART]
        slots = slots or len(arch)
        if len(arch) != slots:
            raise DataError(
                f"{where}: arch '{line[ARCH]}' has {len(arch)} integers, and the first one {slots}"
            )
        if not part:
            raise DataError(f"{where}: the part has no name")
        parts = costs.setdefault(arch, {})
        if part in parts:
            raise DataError(f"{where}: part '{part}' of arch '{line[ARCH]}' is there twice")
        parts[part] = [_cost(line[name], name, where) for name in COSTS]
    if not costs:
        raise DataError(f"{path} has no arch")
    columns = {
        part: i for i, part in enumerate(dict.fromkeys(p for c in costs.values() for p in c))
    }
    values = np.zeros((len(costs), len(columns), len(COSTS)))
    for i, parts in enumerate(costs.values()):
        for part, own in parts.items():
            values[i, columns[part]] = own
    index = {arch: i for i, arch in enumerate(costs)}

    def table(rows: Rows) -> Floats:
        try:
            found: Floats = values[[index[tuple(row)] for row in rows.tolist()]]
        except KeyError as error:
            raise DataError(
                f"{path} has no arch {_name(error.args[0])}; add its lines to the file"
            ) from None
        return found

    return Costs(table, listed=np.array(list(costs), dtype=np.int64))


def _integers(text: str | None, where: str) -> tuple[int, ...]:
    try:
        found = tuple(np.array((text or "").split(), dtype=np.int64).tolist())
    except (ValueError, OverflowError):
        found = ()
    if not found:
        raise DataError(
            f"{where}: '{text or ''}' is not an arch; write its integers, below 2^63, with spaces "
            "between them"
        )
    return found


def _cost(text: str | None, name: str, where: str) -> float:
    try:
        found = float(text or "")
    except ValueError:
        found = math.nan
    if not 0 <= found <= MOST:
        raise DataError(f"{where}: {name} is '{text or ''}'; it must lie between 0 and {MOST:g}")
    return found


def _name(arch: Iterable[int]) -> str:
    return f"'{' '.join(str(int(one)) for one in arch)}'"
