"""Completes a front with true accuracies and with the records of its candidates on the boards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from ramnas_edge.measuring.drift import corrected_ms
from ramnas_edge.measuring.record import OK, LatencyRecord, Target
from ramnas_edge.measuring.store import Store
from ramnas_host.search.front import Front, ObjectiveValue
from ramnas_host.search.labels import labels_of
from ramnas_host.search.objectives import LATENCY, MACS, TOP1, Objective, energy_mj
from ramnas_models.accuracy import Accuracy
from ramnas_models.errors import DataError

MIN_TAU = 0.8  # below this tau the predicted order is a poor guide


def runs(objectives: Sequence[Objective], run: str) -> dict[str, Target]:
    """The runs to measure, with a target each: `run` for the first target, `run`-2 for the second.

    Objectives that share a target share its run.
    """
    targets = dict.fromkeys(objective.target for objective in objectives if objective.target)
    return {run if i == 0 else f"{run}-{i + 1}": target for i, target in enumerate(targets)}


def verification_records(store: Store, front: Front, run: str) -> dict[str, list[LatencyRecord]]:
    """The valid records of each objective that a board measures, by the name of the objective.

    `run` is the name that was given to `runs`. DataError if no board of the objective's device
    class has measured it.
    """
    return records_by_objective(store, front.objectives, front.space_hash, run)


def records_by_objective(
    store: Store, objectives: Sequence[Objective], space_hash: str, run: str
) -> dict[str, list[LatencyRecord]]:
    """`verification_records` for a search that has no front yet."""
    run_of = {target: name for name, target in runs(objectives, run).items()}
    by_objective = {}
    for objective in objectives:
        if objective.target is None:
            continue
        name = run_of[objective.target]
        records = [
            r
            for r in store.records(name, objective.device_class)
            if r.space_hash == space_hash and r.target == objective.target
        ]
        if not records:
            measured = {r.device_class for r in store.records(name)}
            labels = labels_of([objective], sorted(measured))
            boards = "; ".join(labels.boards[device_class] for device_class in sorted(measured))
            raise DataError(
                f"no board has measured {labels.objectives[objective.name]}. Run '{name}' of "
                f"{store.path} has records of these boards: {boards or 'none'}. Connect a board "
                "of the missing class and give the same command again; it keeps what is measured"
            )
        by_objective[objective.name] = [r for r in records if r.validity == OK]
    return by_objective


def with_selection(front: Front, top1: Sequence[Accuracy]) -> Front:
    """The front with top-1 on the selection split, which a front of format 3 lacks.

    `top1` is in the order of the candidates. Without it, models would be chosen by the report split
    as soon as that is known.
    """
    candidates = tuple(
        msgspec.structs.replace(candidate, accuracies=(seen,))
        for candidate, seen in zip(front.candidates, top1, strict=True)
    )
    return msgspec.structs.replace(front, candidates=candidates)


def verified(
    front: Front, top1: Sequence[Accuracy], records: Mapping[str, Sequence[LatencyRecord]]
) -> Front:
    """The front with its candidates' measured values.

    `top1` is that on the report split, in the order of the candidates. A candidate without a valid
    record for an objective has no measured value of it.
    """
    values = {
        objective.name: _measured(objective, records[objective.name])
        for objective in front.objectives
        if objective.target is not None
    }
    candidates = []
    for candidate, true_top1 in zip(front.candidates, top1, strict=True):
        measured = {
            name: by_arch[candidate.arch_id]
            for name, by_arch in values.items()
            if candidate.arch_id in by_arch
        }
        measured[TOP1] = ObjectiveValue(true_top1.value)
        if MACS in candidate.predicted:
            measured[MACS] = candidate.predicted[MACS]
        others = [a for a in candidate.accuracies if a.split != true_top1.split]
        accuracies = (*others, true_top1)  # the selection split first, by which models are chosen
        candidates.append(
            msgspec.structs.replace(candidate, measured=measured, accuracies=accuracies)
        )
    return msgspec.structs.replace(front, candidates=tuple(candidates))


def _measured(objective: Objective, records: Sequence[LatencyRecord]) -> dict[str, ObjectiveValue]:
    """Arch id -> the measured value."""
    if objective.kind != LATENCY:
        return {arch_id: ObjectiveValue(mj) for arch_id, mj in energy_mj(records).items()}
    median = corrected_ms(records)
    return {
        r.arch_id: ObjectiveValue(median[r.arch_id], r.p90_ms)
        for r in records
        if r.p90_ms is not None
    }


def unmeasured(front: Front) -> dict[str, list[str]]:
    """The objectives that lack measured values, each with the ids of candidates that have none."""
    missing = {
        objective.name: [c.arch_id for c in front.candidates if objective.name not in c.measured]
        for objective in front.objectives
        if objective.target is not None
    }
    return {name: arch_ids for name, arch_ids in missing.items() if arch_ids}


def agreement(front: Front) -> dict[str, tuple[float | None, int]]:
    """Objective -> Kendall's tau between predicted and measured values, and the number of pairs.

    tau is None if there is no order to compare: fewer than two values, or all of them equal. MACs
    are left out, because they are exact.
    """
    from scipy.stats import kendalltau

    agreements: dict[str, tuple[float | None, int]] = {}
    for objective in front.objectives:
        if objective.kind == MACS:
            continue
        name = objective.name
        pairs = [
            (c.predicted[name].value, c.measured[name].value)
            for c in front.candidates
            if name in c.measured
        ]
        sides = [set(side) for side in zip(*pairs, strict=True)]
        ordered = bool(sides) and min(map(len, sides)) > 1
        tau = float(kendalltau(*zip(*pairs, strict=True)).statistic) if ordered else None
        agreements[name] = (tau, len(pairs))
    return agreements
