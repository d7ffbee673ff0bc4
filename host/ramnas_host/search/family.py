"""Names models of a front A0, A1, ... by rising cost and lists them beside published networks."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import numpy as np

from ramnas_host.search.front import Candidate, Front, ObjectiveValue
from ramnas_host.search.infill import spread
from ramnas_host.search.labels import labels_of
from ramnas_host.search.nsga2 import non_dominated
from ramnas_host.search.objectives import MACS, TOP1, UNITS
from ramnas_models.errors import DataError

# Table III of the paper: millions of MACs, ImageNet top-1 (%)
PUBLISHED = (
    ("MobileNetV3 1.0", 217, 75.2),
    ("OFA", 230, 76.0),
    ("FBNetV2-F4", 238, 76.0),
    ("BigNAS-S", 242, 76.5),
    ("MNASNet-A1", 312, 75.2),
    ("ProxylessNAS", 320, 74.6),
    ("FBNetV2-L1", 325, 77.2),
    ("FBNetV3", 343, 78.0),
    ("MobileNetV3 1.25", 356, 76.6),
    ("EfficientNet-B0", 390, 77.1),
    ("MNASNet-A3", 403, 76.7),
    ("BigNAS-M", 418, 78.9),
    ("FBNetV2-L2", 422, 78.1),
    ("BigNAS-L", 586, 79.5),
    ("EfficientNet-B1", 700, 79.1),
    ("EfficientNet-B2", 1000, 80.1),
)
# Millions of MACs. The paper's table begins at 200; the band below it is ours.
BANDS = (0, 200, 400, 600, 800, float("inf"))


def name_candidates(front: Front, n: int) -> Front:
    """Name `n` candidates, evenly spread in log cost along the front of top-1 and cost.

    Both ends of that front get a name. Values are the measured ones if the front is verified, and
    else the predicted ones. DataError if `n` is below 1 or above the number of models there.
    """
    costs = np.array([_value(c, front.cost.name).budgeted for c in front.candidates])
    top1 = np.array([_value(c, TOP1).value for c in front.candidates])
    best = non_dominated(np.column_stack([costs, -top1]))
    if not 1 <= n <= len(best):
        cost = labels_of([front.cost]).objectives[front.cost.name]
        raise DataError(
            f"--family {n}: the front of top-1 and {cost} has {len(best)} models; ask for 1 to "
            f"{len(best)}, or search with more --candidates"
        )
    log_costs = np.log(costs[best])
    members = best[spread(np.column_stack([log_costs, -log_costs]), n)[0]]
    name_of = {int(i): f"A{rank}" for rank, i in enumerate(members[np.argsort(costs[members])])}
    candidates = tuple(
        msgspec.structs.replace(candidate, name=name_of.get(i, ""))
        for i, candidate in enumerate(front.candidates)
    )
    return msgspec.structs.replace(front, candidates=candidates)


def table(front: Front) -> str:
    """The named models in Table III's bands of MACs, among the published networks.

    The top-1 of published networks is on ImageNet, that of the named models on the validation split
    of the front.
    """
    cost = front.cost
    rows = [(float(macs), name, f"{top1:.1f}%", "") for name, macs, top1 in PUBLISHED]
    for c in front.candidates:
        if c.name:
            value = _value(c, cost.name).budgeted
            cost_cell = "" if cost.kind == MACS else f"{value:.3f} {UNITS[cost.kind]}"
            top1 = f"{100 * _value(c, TOP1).value:.1f}%"
            rows.append((c.macs / 1e6, f"{c.name} {c.arch_id}", top1, cost_cell))
    lines = [f"{'MMACs':>9}  {'model':18}  {'top-1':>6}  {cost.kind}"]
    for low, high in pairwise(BANDS):
        inside = sorted(row for row in rows if low <= row[0] < high)
        if inside:
            lines.append(f"-- {low:g} to {high:g} M" if high < BANDS[-1] else f"-- above {low:g} M")
        lines += [
            f"{macs:9.2f}  {name:18}  {top1:>6}  {cost_cell}".rstrip()
            for macs, name, top1, cost_cell in inside
        ]
    return "\n".join(lines)


def _value(candidate: Candidate, objective: str) -> ObjectiveValue:
    """The measured value if there is one, and else the predicted one."""
    return candidate.measured.get(objective) or candidate.predicted[objective]
