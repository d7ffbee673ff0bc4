"""Names models of a front A0, A1, ... by rising cost and lists them beside published networks.

The published MACs count two operations per BatchNorm element, and the published accuracies are
those of ImageNet's validation images. Ours beside them are counted and measured in the same way.
"""

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

    Both ends of that front get a name. Costs are the measured ones if the front is verified, and
    else the predicted ones. Top-1 is that on the selection split, because names are chosen too.
    DataError if `n` is below 1 or above the number of models there.
    """
    costs = np.array([_value(c, front.cost.name).budgeted for c in front.candidates])
    top1 = np.array([_top1_to_choose_by(c) for c in front.candidates])
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
    """The named models in Table III's bands of MACs, with split, n and interval of their top-1.

    The published networks are listed too if the front is verified on ImageNet. Before that, top-1
    is on the selection split, which may be a part of train/, and on other images the published
    accuracies say nothing.
    """
    cost = front.cost
    rows = []
    verified = any(c.accuracy("report") for c in front.candidates)
    if front.dataset == "imagenet" and verified:
        images = "published, ImageNet's validation images"
        rows += [(float(macs), name, f"{top1:.1f}%", "", images) for name, macs, top1 in PUBLISHED]
    for c in front.candidates:
        if c.name:
            value = _value(c, cost.name).budgeted
            cost_cell = "" if cost.kind == MACS else f"{value:.3f} {UNITS[cost.kind]}"
            top1, images = _top1_and_images(c)
            macs = c.macs if c.macs_bn is None else c.macs_bn
            rows.append((macs / 1e6, f"{c.name} {c.arch_id}", f"{top1:.1%}", cost_cell, images))
    lines = [
        "MMACs with two operations per BatchNorm element, as the paper counts them",
        f"{'MMACs':>9}  {'model':18}  {'top-1':>6}  {cost.kind:12}  images of the top-1",
    ]
    for low, high in pairwise(BANDS):
        inside = sorted(row for row in rows if low <= row[0] < high)
        if inside:
            lines.append(f"-- {low:g} to {high:g} M" if high < BANDS[-1] else f"-- above {low:g} M")
        lines += [
            f"{macs:9.2f}  {name:18}  {top1:>6}  {cost_cell:12}  {images}".rstrip()
            for macs, name, top1, cost_cell, images in inside
        ]
    return "\n".join(lines)


def _top1_and_images(candidate: Candidate) -> tuple[float, str]:
    """The top-1 to show, and in words on which images: the report split if it was read."""
    for split in ("report", "selection"):
        if found := candidate.accuracy(split):
            return found.value, found.images
    return _value(candidate, TOP1).value, "images unknown (an older front)"


def _top1_to_choose_by(candidate: Candidate) -> float:
    selection = candidate.accuracy("selection")
    return selection.value if selection else _value(candidate, TOP1).value


def _value(candidate: Candidate, objective: str) -> ObjectiveValue:
    """The measured value if there is one, and else the predicted one."""
    return candidate.measured.get(objective) or candidate.predicted[objective]
