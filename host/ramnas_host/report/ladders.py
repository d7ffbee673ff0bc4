"""A bundle, or a front -> for each board the models among which a latency budget picks."""

from __future__ import annotations

import msgspec

from ramnas_edge.runtime.combinations import combinations
from ramnas_host.search import front_bundle
from ramnas_host.search.front import Front
from ramnas_host.search.objectives import ENERGY, LATENCY
from ramnas_models import bundle as bundles
from ramnas_models.accuracy import Accuracy
from ramnas_models.bundle import Bundle, Cost, Latency, Model, Preprocessing
from ramnas_models.errors import DataError
from ramnas_models.onnx_graph import Normalisation


class Rung(msgspec.Struct, frozen=True):
    """One model of a ladder: its p90 and drift-corrected median on that board, in ms.

    `value` is what the runtime ranks models by.
    """

    arch_id: str
    name: str
    accuracy: Accuracy | None
    value: float
    p90_ms: float
    median_ms: float
    macs: int
    energy_mj: float | None = None


class Ladder(msgspec.Struct, frozen=True):
    """The models of a task on one class of board, fast to slow, as measured in one `setup`.

    `whole_calls` says that resize and decode were timed too, as in the p90 that a budget is
    compared with. `unknown` counts the models without a latency here, which a runtime would time
    when it starts. `source` says in words where the latencies come from.
    """

    device_class: str
    task: str
    metric: str
    setup: str
    source: str
    whole_calls: bool
    unknown: int
    rungs: tuple[Rung, ...]


def of_bundle(bundle: Bundle, front: Front) -> list[Ladder]:
    """The ladders of a bundle, from the latencies in its manifest.

    The energies and the names of the models come from `front`.
    """
    return _ladders(bundle.manifest.tasks, front, "from the bundle")


def of_front(front: Front) -> list[Ladder]:
    """The ladders of the models that `ramnas bundle` would choose from this front.

    Latencies are the measured ones; for a front that is not verified, the predicted ones.
    """
    source = "from the verified front"
    if not any(c.measured for c in front.candidates):
        source = "predicted, not measured"
        front = _taken_as_measured(front)
    try:
        chosen = front_bundle.choose(front)
    except DataError:  # no candidate has both top-1 and the cost
        return []
    preprocessing = Preprocessing(Normalisation())  # the ladders do not look at it
    models = tuple(
        Model(
            entry.arch.id, entry.arch.id, "", entry.arch, "", "", (entry.arch.resolution,) * 2,
            preprocessing, entry.accuracies, Cost(candidate.macs, 0, 0), entry.latency,
        )
        for candidate, entry in zip(chosen, front_bundle.entries(front, chosen), strict=True)
    )  # fmt: skip
    made = bundles.TaskFront("classification", (), models)
    return _ladders((made,), front, source)


def _taken_as_measured(front: Front) -> Front:
    """The front with its predictions in place of measurements.

    A latency without a predicted p90 is left out, because no budget can be compared with it.
    """
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
                    first.device_class, task.task, metric, _setup_text(first), source,
                    first.frame_hw is not None, len(task.models) - len(rungs), rungs,
                )
            )  # fmt: skip
    return found


def _rungs(task: bundles.TaskFront, front: Front, setup: tuple[object, ...]) -> tuple[Rung, ...]:
    names = {c.arch_id: c.name for c in front.candidates}
    energy = _energy(front, task.task, str(setup[0]))
    rungs = []
    for one in combinations([task]):  # in the runtime's order and with its values
        (model,) = one.models
        for latency in model.latency:
            if bundles.setup_of(latency) == setup:
                rungs.append(
                    Rung(
                        model.arch_id, _own_name(model) or names.get(model.arch_id, ""),
                        model.reported, one.value,
                        latency.p90_ms, latency.corrected_ms, model.cost.macs,
                        energy.get((model.arch_id, model.input_hw)),
                    )
                )  # fmt: skip
    return tuple(rungs)


def _own_name(model: Model) -> str:
    """The name of a model that shares its arch with another one in the bundle, or else nothing."""
    return "" if model.name == model.arch_id else model.name


def _energy(front: Front, task: str, device_class: str) -> dict[tuple[str, tuple[int, int]], float]:
    """Arch id and input size -> energy in mJ, as measured for this task on this board."""
    for objective in front.objectives:
        target = objective.target
        if objective.kind == ENERGY and target and (target.task, objective.device_class) == (
            task, device_class,
        ):  # fmt: skip
            return {
                (c.arch_id, target.hw(c.arch)): c.measured[objective.name].value
                for c in front.candidates
                if objective.name in c.measured
            }
    return {}


def _setup_text(latency: Latency) -> str:
    calls = "engine alone, without resize and decode"
    if latency.frame_hw:
        calls = f"whole calls on {latency.frame_hw[0]}x{latency.frame_hw[1]} frames"
    return (
        f"{calls}, batch {latency.batch}, {latency.engine} {latency.precision}, "
        f"{latency.threads} thread(s)"
    )
