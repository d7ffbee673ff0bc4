"""Compares a front searched by MACs with one searched by latency, both as measured (Fig. 4)."""

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
from ramnas_host.search.objectives import TOP1
from ramnas_models.accuracy import Accuracy
from ramnas_models.errors import DataError

if TYPE_CHECKING:
    from ramnas_host.search.nsga2 import Floats


class Point(msgspec.Struct, frozen=True):
    """A model: MACs at batch 1, drift-corrected median of a batch in ms, true top-1 (0 to 1).

    `interval` is the 95 % interval of top-1.
    """

    arch_id: str
    macs: int
    ms: float
    top1: float
    interval: tuple[float, float] | None


class Comparison(msgspec.Struct, frozen=True):
    """Both fronts at one batch size on one device class.

    The hypervolumes are in units of the box around the points of both fronts, with logarithmic
    latency and the reference point at 1.1. `*_beaten` is the share of a front's models that a model
    of the other front dominates. `macs_tau` is Kendall's tau between MACs and latency over all
    models, or None if all have the same MACs or the same latency. `unmeasured` counts the models
    that are left out because they have no valid record. `images` says which images top-1 comes
    from.
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
    images: str


def own_front(front: Front) -> list[Candidate]:
    """The candidates that are non-dominated by the front's own cost, as predicted, and true top-1.

    Top-1 is that on the selection split, because this is a choice.
    """
    cost = front.cost.name
    values = np.array([[c.predicted[cost].value, -c.to_choose_by(TOP1)] for c in front.candidates])
    return [front.candidates[i] for i in non_dominated(values)]


def compare(
    batch: int,
    by_macs: Sequence[Candidate],
    by_latency: Sequence[Candidate],
    top1: Mapping[str, Accuracy],
    records: Sequence[LatencyRecord],
) -> Comparison:
    """Compare two sets of models at one batch size.

    `top1` is that on the report split, by arch id. `records` hold the measurements of all these
    models in one run on one device class. DataError if one of the two sets has no valid record.
    """
    valid = [record for record in records if record.validity == OK]
    ms = corrected_ms(valid) if valid else {}
    measured = {record.arch_id for record in valid}

    def points(models: Sequence[Candidate]) -> tuple[Point, ...]:
        unsorted = [
            Point(c.arch_id, c.macs, ms[c.arch_id], accuracy.value, accuracy.interval)
            for c in models
            if c.arch_id in measured
            for accuracy in [top1[c.arch_id]]
        ]
        return tuple(sorted(unsorted, key=lambda p: p.ms))

    macs_points, latency_points = points(by_macs), points(by_latency)
    for driver, front in (("MACs", macs_points), ("latency", latency_points)):
        if not front:
            raise DataError(
                f"batch {batch}: no model of the front searched by {driver} has a valid record; "
                "ramnas records show says why. Measure again on a quieter board"
            )
    macs_values, latency_values = _values(macs_points), _values(latency_points)
    all_values = np.concatenate([macs_values, latency_values])
    low, extent = all_values.min(0), np.maximum(np.ptp(all_values, axis=0), 1e-12)
    hypervolume = HV(ref_point=np.array([1.1, 1.1]))
    models = {c.arch_id for c in (*by_macs, *by_latency)}
    return Comparison(
        batch=batch,
        device_class=valid[0].device_class,
        by_macs=macs_points,
        by_latency=latency_points,
        hypervolume_by_macs=float(hypervolume((macs_values - low) / extent)),
        hypervolume_by_latency=float(hypervolume((latency_values - low) / extent)),
        by_macs_beaten=_beaten(macs_values, latency_values),
        by_latency_beaten=_beaten(latency_values, macs_values),
        macs_tau=_macs_tau({*macs_points, *latency_points}),
        unmeasured=len(models - measured),
        images=_images([top1[arch_id] for arch_id in models]),
    )


def table(comparisons: Sequence[Comparison]) -> str:
    """A Markdown table with one row for each batch size."""
    lines = [
        "| batch | hypervolume, MACs-driven | hypervolume, latency-driven | ratio "
        "| MACs-driven models dominated by latency-driven ones "
        "| latency-driven models dominated by MACs-driven ones "
        "| tau of MACs and latency | unmeasured |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for c in comparisons:
        ratio = c.hypervolume_by_latency / c.hypervolume_by_macs
        tau = "-" if c.macs_tau is None else f"{c.macs_tau:.2f}"
        lines.append(
            f"| {c.batch} | {c.hypervolume_by_macs:.3f} | {c.hypervolume_by_latency:.3f} "
            f"| {ratio:.3f} | {c.by_macs_beaten:.0%} of {len(c.by_macs)} "
            f"| {c.by_latency_beaten:.0%} of {len(c.by_latency)} | {tau} | {c.unmeasured} |"
        )
    lines += [""] + [f"batch {c.batch}: top-1 on the {c.images}" for c in comparisons]
    return "\n".join(lines)


def _images(accuracies: Sequence[Accuracy]) -> str:
    """The images of all accuracies in words; `n` differs only if images could not be read."""
    splits = sorted({a.split for a in accuracies})
    counts = sorted({a.n for a in accuracies if a.n is not None})
    return f"{' and '.join(splits)} split, n {' or '.join(map(str, counts)) or 'unknown'}"


def _macs_tau(points: Set[Point]) -> float | None:
    from scipy.stats import kendalltau

    macs, ms = [p.macs for p in points], [p.ms for p in points]
    if min(len(set(macs)), len(set(ms))) < 2:
        return None
    return float(kendalltau(macs, ms).statistic)


def _values(points: Sequence[Point]) -> Floats:
    """Log latency and negative top-1, [n, 2], to be minimised.

    Latencies that differ only by the rounding errors of the drift correction become equal.
    """
    return np.array([[round(np.log(p.ms), 9), -p.top1] for p in points])


def _beaten(values: Floats, others: Floats) -> float:
    """The share of the rows of `values` that a row of `others` dominates; all are minimised."""
    beaten = [((others <= row).all(1) & (others < row).any(1)).any() for row in values]
    return float(np.mean(beaten))
