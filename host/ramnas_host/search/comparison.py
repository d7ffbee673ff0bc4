"""A front found by MACs and one by latency, as measured -> which is the better one (Fig. 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from pymoo.indicators.hv import HV

from ramnas_edge.measuring.drift import corrected_ms
from ramnas_edge.measuring.record import OK, LatencyRecord
from ramnas_host.search.front import Candidate, Front
from ramnas_host.search.nsga2 import non_dominated
from ramnas_models.errors import DataError

if TYPE_CHECKING:
    from ramnas_host.search.nsga2 import Floats


class Point(msgspec.Struct, frozen=True):
    """A model: MACs at batch 1, drift-corrected median of a batch (ms), true top-1 (0 to 1)."""

    arch_id: str
    macs: int
    ms: float
    top1: float


class Comparison(msgspec.Struct, frozen=True):
    """Both fronts at one batch on one class of board.

    Hypervolumes are in the box around the points of both, latency in log, reference 1.1. `*_beaten`
    is the share of a front's models that a model of the other one dominates. `macs_tau`: Kendall's,
    of MACs and latency over the models of both; None where there is no order. `unmeasured` models
    have no valid record and are left out.
    """

    batch: int
    device_class: str
    by_macs: tuple[Point, ...]
    by_latency: tuple[Point, ...]
    hypervolume_by_macs: float
    hypervolume_by_latency: float
    by_macs_beaten: float
    by_latency_beaten: float
    macs_tau: float | None
    unmeasured: int


def chosen(front: Front, top1: Mapping[str, float]) -> list[Candidate]:
    """The front by its own cost, as predicted, and the true top-1 (by arch id)."""
    cost = front.cost.name
    values = np.array([[c.predicted[cost].value, -top1[c.arch_id]] for c in front.candidates])
    return [front.candidates[i] for i in non_dominated(values)]


def compare(
    batch: int,
    by_macs: Sequence[Candidate],
    by_latency: Sequence[Candidate],
    top1: Mapping[str, float],
    records: Sequence[LatencyRecord],
) -> Comparison:
    """`records` are of all these models, of one run on one class of board; DataError if none is
    valid for one of the fronts."""
    valid = [record for record in records if record.validity == OK]
    ms = corrected_ms(valid) if valid else {}
    known = {record.arch_id for record in valid}

    def points(models: Sequence[Candidate]) -> tuple[Point, ...]:
        found = [
            Point(c.arch_id, c.macs, ms[c.arch_id], top1[c.arch_id])
            for c in models
            if c.arch_id in known
        ]
        return tuple(sorted(found, key=lambda p: p.ms))

    one, other = points(by_macs), points(by_latency)
    if not (one and other):
        raise DataError(
            f"batch {batch}: no valid record of a front; ramnas records show says why, measure "
            "again on a quieter board"
        )
    a, b = _values(one), _values(other)
    both = np.concatenate([a, b])
    low, extent = both.min(0), np.maximum(np.ptp(both, axis=0), 1e-12)
    volume = HV(ref_point=np.array([1.1, 1.1]))
    models = {c.arch_id for c in (*by_macs, *by_latency)}
    return Comparison(
        batch,
        valid[0].device_class,
        one,
        other,
        float(volume((a - low) / extent)),
        float(volume((b - low) / extent)),
        _beaten(a, b),
        _beaten(b, a),
        _macs_tau({*one, *other}),
        len(models - known),
    )


def table(found: Sequence[Comparison]) -> str:
    """Markdown, one row a batch."""
    lines = [
        "| batch | hypervolume, MACs-driven | latency-driven | ratio "
        "| MACs-driven models dominated by latency-driven ones | the other way "
        "| tau of MACs and latency | unmeasured |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for c in found:
        ratio = c.hypervolume_by_latency / c.hypervolume_by_macs
        tau = "-" if c.macs_tau is None else f"{c.macs_tau:.2f}"
        lines.append(
            f"| {c.batch} | {c.hypervolume_by_macs:.3f} | {c.hypervolume_by_latency:.3f} "
            f"| {ratio:.3f} | {c.by_macs_beaten:.0%} of {len(c.by_macs)} "
            f"| {c.by_latency_beaten:.0%} of {len(c.by_latency)} | {tau} | {c.unmeasured} |"
        )
    return "\n".join(lines)


def _macs_tau(points: Set[Point]) -> float | None:
    from scipy.stats import kendalltau

    macs, ms = [p.macs for p in points], [p.ms for p in points]
    if min(len(set(macs)), len(set(ms))) < 2:
        return None
    return float(kendalltau(macs, ms).statistic)


def _values(points: Sequence[Point]) -> Floats:
    """To minimise; what the drift's correction rounds off differently is as fast."""
    return np.array([[round(np.log(p.ms), 9), -p.top1] for p in points])


def _beaten(values: Floats, others: Floats) -> float:
    """Share of the rows that a row of `others` dominates (all to minimise)."""
    beaten = [((others <= row).all(1) & (others < row).any(1)).any() for row in values]
    return float(np.mean(beaten))
