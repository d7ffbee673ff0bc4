"""A run's folder, or the file of a front -> what the report shows, as plain data."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import msgspec

from ramnas_edge.measuring.record import LatencyRecord, Target
from ramnas_edge.measuring.store import Store
from ramnas_host.report import ladders
from ramnas_host.report.ladders import Ladder
from ramnas_host.report.tables import top1_label
from ramnas_host.search import front as fronts
from ramnas_host.search import verification
from ramnas_host.search.front import Candidate, Front, ObjectiveValue, Settings
from ramnas_host.search.labels import labels_of
from ramnas_host.search.objectives import MACS, TOP1, UNITS
from ramnas_host.surrogates.surrogate import Score
from ramnas_models.accuracy import Accuracy
from ramnas_models.bundle import Bundle, open_bundle
from ramnas_models.errors import DataError
from ramnas_models.space import Arch

FRONTS, RECORDS, BUNDLE, STEPS = (
    ("verified.json", "front.json"), "records.sqlite", "bundle", "steps.json",
)  # fmt: skip


class Axis(msgspec.Struct, frozen=True):
    """An objective: `name` is its key in the data, and `label` is what people read.

    `unit` is the unit of its values, except that MACs are not stored in millions.
    """

    name: str
    label: str
    kind: str
    unit: str
    device_class: str


class ReportModel(msgspec.Struct, frozen=True):
    """A candidate of the front, with its values by the name of the objective.

    `bundled` says that a budget may pick it. `accuracies` are top-1 on the selection and on the
    report split.
    """

    arch_id: str
    name: str
    arch: str
    macs: int
    bundled: bool
    accuracies: tuple[Accuracy, ...]
    predicted: dict[str, ObjectiveValue]
    measured: dict[str, ObjectiveValue]


class Scatter(msgspec.Struct, frozen=True):
    """One surrogate, with (truth, prediction) of its held-out samples and of the verified front.

    `front_tau` is Kendall's tau on the verified front, None where there is no order to compare.
    """

    objective: str
    family: str
    scores: dict[str, Score]
    held_out: tuple[tuple[float, float], ...]
    front: tuple[tuple[float, float], ...]
    front_tau: float | None


class RecordedRun(msgspec.Struct, frozen=True):
    """The records of one run and target on a board, counted by validity.

    `what` says in words what was measured.
    """

    name: str
    what: str
    counts: dict[str, int]


class ReportBoard(msgspec.Struct, frozen=True):
    """A class of boards, and what is known of it and its records."""

    device_class: str
    facts: dict[str, str]
    runs: tuple[RecordedRun, ...]


class DoneCommand(msgspec.Struct, frozen=True):
    """A verb of `ramnas` that made a part of the run, with its arguments and its duration."""

    argv: tuple[str, ...]
    seconds: float


class Report(msgspec.Struct, frozen=True):
    """All that the page shows; `short_names` maps each device class to the name people read.

    `top1` names the axis of top-1 with the split and the number of images.
    """

    title: str
    space: str
    verified: bool
    top1: str
    short_names: dict[str, str]
    axes: tuple[Axis, ...]
    models: tuple[ReportModel, ...]
    ladders: tuple[Ladder, ...]
    scatters: tuple[Scatter, ...]
    boards: tuple[ReportBoard, ...]
    constraints: tuple[str, ...]
    settings: Settings
    hypervolumes: tuple[float, ...]
    steps: tuple[DoneCommand, ...]


def read(run: Path, store: Path | None = None, bundle: Path | None = None) -> Report:
    """Collect all that is known of `run`, a folder such as runs/demo or the file of a front.

    For a folder, its own store and bundle are used where none is given. DataError if there is no
    front, or if a file that was given does not exist.
    """
    front = fronts.load(front_of(run))
    if run.is_dir():
        store = store or _if_exists(run / RECORDS)
        bundle = bundle or _if_exists(run / BUNDLE)
    if store and not store.is_file():
        raise DataError(f"{store} does not exist; ramnas calibrate makes it")
    return build(
        front,
        title=run.resolve().name,
        records=_records(store) if store else [],
        bundle=open_bundle(bundle) if bundle else None,
        steps=_steps(run / STEPS),
    )


def front_of(run: Path) -> Path:
    """The file of the front: `run` itself, or the verified or else the searched one in a folder.

    DataError if a folder has neither.
    """
    if not run.is_dir():
        return run
    for name in FRONTS:
        if (run / name).is_file():
            return run / name
    raise DataError(f"{run} has neither {' nor '.join(FRONTS)}: ramnas search makes a front")


def build(
    front: Front,
    *,
    title: str,
    records: list[LatencyRecord],
    bundle: Bundle | None = None,
    steps: tuple[DoneCommand, ...] = (),
) -> Report:
    """Put the report together from what was read.

    Budgets pick among the models of the bundle. Without a bundle they pick among those that
    `ramnas bundle` would choose.
    """
    found = ladders.of_bundle(bundle, front) if bundle else ladders.of_front(front)
    bundled = {rung.arch_id for ladder in found for rung in ladder.rungs}
    classes = [ladder.device_class for ladder in found]
    classes += [record.device_class for record in records]
    labels = labels_of(front.objectives, classes)
    return Report(
        title=title,
        space=front.space,
        verified=any(c.measured for c in front.candidates),
        top1=top1_label(front),
        short_names=labels.boards,
        axes=tuple(
            Axis(one.name, labels.objectives[one.name], one.kind, UNITS[one.kind], one.device_class)
            for one in front.objectives
        ),
        models=tuple(_model(c, c.arch_id in bundled) for c in front.candidates),
        ladders=tuple(found),
        scatters=_scatters(front),
        boards=tuple(
            _board(name, [r for r in records if r.device_class == name]) for name in labels.boards
        ),
        constraints=tuple(
            f"{labels.objectives[c.objective]} {'>=' if c.objective == TOP1 else '<='} {c.limit:g}"
            for c in front.constraints
        ),
        settings=front.settings,
        hypervolumes=front.hypervolumes,
        steps=steps,
    )


def arch_text(arch: Arch) -> str:
    """The arch in words, such as `48 px; stem 16; 16x1 k3 e1, 24x2 k3/5 e4/6; head 512`.

    Each stage is width x depth, followed by the kernels (k) and the expansions (e) of its blocks,
    and by `se` if it has chosen squeeze-and-excite.
    """
    stages = []
    for stage in arch.stages:
        kernels, expands = (
            "/".join(str(v) for v in values if v) for values in (stage.kernels, stage.expands)
        )
        se = " se" if stage.se else ""
        stages.append(f"{stage.width}x{stage.depth} k{kernels} e{expands}{se}")
    return f"{arch.resolution} px; stem {arch.stem}; {', '.join(stages)}; head {arch.head}"


def _if_exists(path: Path) -> Path | None:
    return path if path.exists() else None


def _model(c: Candidate, bundled: bool) -> ReportModel:
    return ReportModel(
        c.arch_id, c.name, arch_text(c.arch), c.macs, bundled, c.accuracies, c.predicted, c.measured
    )


def _scatters(front: Front) -> tuple[Scatter, ...]:
    tau = verification.agreement(front)
    return tuple(
        Scatter(
            name,
            chosen.family,
            chosen.scores,
            chosen.held_out,
            tuple(
                (c.measured[name].value, c.predicted[name].value)
                for c in front.candidates
                if name in c.measured
            ),
            tau[name][0],
        )
        for name, chosen in front.surrogates.items()
        if name != MACS
    )


def _records(path: Path) -> list[LatencyRecord]:
    store = Store(path)
    records = [record for run in store.runs() for record in store.records(run)]
    store.close()
    return records


def _board(device_class: str, records: list[LatencyRecord]) -> ReportBoard:
    groups: dict[tuple[str, Target], Counter[str]] = {}
    for record in records:
        groups.setdefault((record.run, record.target), Counter())[record.validity] += 1
    return ReportBoard(
        device_class,
        _facts(records),
        tuple(
            RecordedRun(run, target_text(t), dict(counts)) for (run, t), counts in groups.items()
        ),
    )


def target_text(target: Target) -> str:
    """What was measured, in words: the task, the input, the batch, the engine and its threads."""
    size = "x".join(map(str, target.input_hw)) if target.input_hw else "the arch's own resolution"
    what = f"engine alone at {size}"
    if target.frame_hw:
        what = f"whole calls on frames of {'x'.join(map(str, target.frame_hw))}"
    return (
        f"{target.task}, {what}, batch {target.batch}, {target.engine} {target.precision}, "
        f"{target.threads} thread(s)"
    )


def _facts(records: list[LatencyRecord]) -> dict[str, str]:
    """What is known of the board, and of its state while it measured."""
    device = next((r.device for r in records if r.device), None)
    seen = [r.conditions for r in records if r.conditions]
    facts: dict[str, str | None] = {}
    if device:
        locked = {True: "locked", False: "free", None: None}[device.clocks_locked]
        facts = {
            "module": device.module, "CPU": device.cpu, "GPU": device.gpu,
            "cores": f"{device.cores}", "memory": f"{device.memory_gib} GiB",
            "CPU quota": f"{device.cpu_quota:.3g} cores" if device.is_throttled else None,
            "system": device.system, "JetPack": device.jetpack, "power mode": device.power_mode,
            "clocks": locked,
        }  # fmt: skip
    if seen:
        hot = max((t for c in seen for t in c.temperature_c.values()), default=None)
        watts = [c.power_mw["total"] / 1000 for c in seen if "total" in c.power_mw]
        facts["hottest while measuring"] = None if hot is None else f"{hot:.0f} °C"
        facts["power while measuring"] = (
            f"{min(watts):.1f} to {max(watts):.1f} W" if watts else None
        )
        facts["held back by"] = ", ".join(sorted({limit for c in seen for limit in c.limits}))
        facts["sensors"] = ", ".join(sorted({c.source for c in seen}))
        modes = sorted({c.power_mode for c in seen if c.power_mode})
        facts["power modes seen"] = ", ".join(modes)
    return {name: value for name, value in facts.items() if value}


def _steps(path: Path) -> tuple[DoneCommand, ...]:
    """The steps of the demo, if it made the folder; none if the file is missing or unreadable."""
    try:
        done = json.loads(path.read_bytes())
        return tuple(DoneCommand(tuple(step["argv"]), step["seconds"]) for step in done.values())
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return ()
