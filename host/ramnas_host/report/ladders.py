"""A bundle, or the front it would be made of -> the models among which a budget picks, by board."""

from __future__ import annotations

import msgspec

from ramnas_edge.runtime.combinations import combinations
from ramnas_host.search import front_bundle
from ramnas_host.search.front import Front
from ramnas_host.search.objectives import ENERGY, LATENCY
from ramnas_models import bundle as bundles
from ramnas_models.bundle import Bundle, Cost, Latency, Model, Preprocessing
from ramnas_models.errors import DataError
from ramnas_models.onnx_graph import Normalisation


class Rung(msgspec.Struct, frozen=True):
    """One model: p90 and corrected median (ms) there; `value`: what the runtime ranks it by."""

    arch_id: str
    name: str
    accuracy: float | None
    value: float
    p90_ms: float
    median_ms: float
    macs: int
    energy_mj: float | None = None


class Ladder(msgspec.Struct, frozen=True):
    """The models of a task on one class of board, fast to slow, as measured under `conditions`.

    `whole_calls`: resize and decode included, which is what a budget is compared with. `unknown`:
    models without a figure there; a runtime would time them at its start.
    """

    device_class: str
    task: str
    metric: str
    conditions: str
    source: str
    whole_calls: bool
    unknown: int
    rungs: tuple[Rung, ...]


def of_bundle(bundle: Bundle, front: Front) -> list[Ladder]:
    """By the figures of the manifest; energy and names of models are those of `front`."""
    return _ladders(bundle.manifest.tasks, front, "of the bundle")


def of_front(front: Front) -> list[Ladder]:
    """By the models that `ramnas bundle` would choose: as measured, else as predicted."""
    source = "of the verified front"
    if not any(c.measured for c in front.candidates):
        source = "as predicted, not measured"
        front = _taken_as_measured(front)
    try:
        chosen = front_bundle.choose(front)
    except DataError:  # nothing was measured of all that it takes
        return []
    models = tuple(
        Model(
            entry.arch.id, entry.arch, "", "", (entry.arch.resolution,) * 2,
            (entry.accuracy,) if entry.accuracy else (), Cost(candidate.macs, 0, 0), entry.latency,
        )
        for candidate, entry in zip(chosen, front_bundle.entries(front, chosen), strict=True)
    )  # fmt: skip
    preprocessing = Preprocessing(Normalisation())
    made = bundles.TaskFront("classification", (), preprocessing, models)
    return _ladders((made,), front, source)


def _taken_as_measured(front: Front) -> Front:
    """A latency without a predicted p90 is left out: no budget can be compared with it."""
    timed = [
        one.name
        for one in front.objectives
        if one.kind != LATENCY or all(c.predicted[one.name].p90 for c in front.candidates)
    ]
    return msgspec.structs.replace(
        front,
        candidates=tuple(
            msgspec.structs.replace(c, measured={name: c.predicted[name] for name in timed})
            for c in front.candidates
        ),
    )


def _ladders(tasks: tuple[bundles.TaskFront, ...], front: Front, source: str) -> list[Ladder]:
    found = []
    for task in tasks:
        groups: dict[tuple[object, ...], list[Latency]] = {}
        for model in task.models:
            for latency in model.latency:
                groups.setdefault(bundles.setup_of(latency), []).append(latency)
        for key, (first, *_) in groups.items():
            rungs = _rungs(task, front, key)
            metric = next((m.accuracy.metric for m in task.models if m.accuracy), "")
            found.append(
                Ladder(
                    first.device_class, task.task, metric, _words(first), source,
                    first.frame_hw is not None, len(task.models) - len(rungs), rungs,
                )
            )  # fmt: skip
    return found


def _rungs(
    task: bundles.TaskFront, front: Front, conditions: tuple[object, ...]
) -> tuple[Rung, ...]:
    names = {c.arch_id: c.name for c in front.candidates}
    energy = _energy(front, task.task, str(conditions[0]))
    rungs = []
    for one in combinations([task]):  # the runtime's own order and values
        (model,) = one.models
        for latency in model.latency:
            if bundles.setup_of(latency) == conditions:
                rungs.append(
                    Rung(
                        model.arch_id, names.get(model.arch_id, ""),
                        model.accuracy.value if model.accuracy else None, one.value,
                        latency.p90_ms, latency.corrected_ms, model.cost.macs,
                        energy.get(model.arch_id),
                    )
                )  # fmt: skip
    return tuple(rungs)


def _energy(front: Front, task: str, device_class: str) -> dict[str, float]:
    """mJ by arch id, as measured of that task on that board."""
    for objective in front.objectives:
        target = objective.target
        if objective.kind == ENERGY and target and (target.task, objective.device_class) == (
            task, device_class,
        ):  # fmt: skip
            return {
                c.arch_id: c.measured[objective.name].value
                for c in front.candidates
                if objective.name in c.measured
            }
    return {}


def _words(latency: Latency) -> str:
    calls = "engine alone, no resize and decode"
    if latency.frame_hw:
        calls = f"whole calls on {latency.frame_hw[0]}x{latency.frame_hw[1]} frames"
    return (
        f"{calls}, batch {latency.batch}, {latency.engine} {latency.precision}, "
        f"{latency.threads} thread(s)"
    )
