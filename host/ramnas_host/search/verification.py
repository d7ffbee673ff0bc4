"""A front + true accuracies + records of its candidates -> the front as it was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from ramnas_edge.measuring.drift import corrected_ms
from ramnas_edge.measuring.record import OK, LatencyRecord, Target
from ramnas_edge.measuring.store import Store
from ramnas_host.search.front import Front, ObjectiveValue
from ramnas_host.search.objectives import LATENCY, MACS, TOP1, Objective, energy_mj
from ramnas_models.errors import DataError

MIN_TAU = 0.8  # below it the order that was predicted is a poor guide


def runs(objectives: Sequence[Objective], run: str) -> dict[str, Target]:
    """What to measure: a run for each target, `run` itself for the first."""
    targets = dict.fromkeys(one.target for one in objectives if one.target)
    return {run if i == 0 else f"{run}-{i + 1}": target for i, target in enumerate(targets)}


def verification_records(store: Store, front: Front, run: str) -> dict[str, list[LatencyRecord]]:
    """The valid records of each objective that a board measures, by its name.

    DataError if no board of its class has measured it.
    """
    return records_by_objective(store, front.objectives, front.space_hash, run)


def records_by_objective(
    store: Store, objectives: Sequence[Objective], space_hash: str, run: str
) -> dict[str, list[LatencyRecord]]:
    """The same of the objectives of a search that has no front yet."""
    run_of = {target: name for name, target in runs(objectives, run).items()}
    found = {}
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
            classes = ", ".join(sorted({r.device_class for r in store.records(name)})) or "none"
            raise DataError(
                f"no board has measured {objective.name}; in run '{name}' of {store.path} are "
                f"records of {classes}: connect a board of that class and say the same command "
                "again, what is measured stays"
            )
        found[objective.name] = [r for r in records if r.validity == OK]
    return found


def verified(
    front: Front, top1: Sequence[float], records: Mapping[str, Sequence[LatencyRecord]]
) -> Front:
    """The same front with measured figures, `top1` in the order of the candidates.

    A candidate without a valid record of an objective has no figure of it.
    """
    figures = {
        objective.name: _figures(objective, records[objective.name])
        for objective in front.objectives
        if objective.target is not None
    }
    candidates = []
    for candidate, value in zip(front.candidates, top1, strict=True):
        measured = {
            name: of[candidate.arch_id] for name, of in figures.items() if candidate.arch_id in of
        }
        measured[TOP1] = ObjectiveValue(value)
        if MACS in candidate.predicted:
            measured[MACS] = candidate.predicted[MACS]
        candidates.append(msgspec.structs.replace(candidate, measured=measured))
    return msgspec.structs.replace(front, candidates=tuple(candidates))


def _figures(objective: Objective, records: Sequence[LatencyRecord]) -> dict[str, ObjectiveValue]:
    """By arch id."""
    if objective.kind != LATENCY:
        return {arch_id: ObjectiveValue(mj) for arch_id, mj in energy_mj(records).items()}
    median = corrected_ms(records)
    return {
        r.arch_id: ObjectiveValue(median[r.arch_id], r.p90_ms)
        for r in records
        if r.p90_ms is not None
    }


def unmeasured(front: Front) -> dict[str, list[str]]:
    """Objective -> the arch ids of candidates that have no figure of it, where there are any."""
    found = {
        one.name: [c.arch_id for c in front.candidates if one.name not in c.measured]
        for one in front.objectives
        if one.target is not None
    }
    return {name: arch_ids for name, arch_ids in found.items() if arch_ids}


def agreement(front: Front) -> dict[str, tuple[float | None, int]]:
    """Objective -> Kendall tau of predicted and measured values, and over how many candidates.

    None where there is no order: fewer than two, or all alike. MACs are exact and left out.
    """
    from scipy.stats import kendalltau

    found: dict[str, tuple[float | None, int]] = {}
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
        found[name] = (tau, len(pairs))
    return found
