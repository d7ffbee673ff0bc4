"""A run folder, or a front file -> what the report shows, as plain data."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import msgspec

from ramnas_edge.measuring.record import LatencyRecord, Target
from ramnas_edge.measuring.store import Store
from ramnas_host.report import ladders
from ramnas_host.report.ladders import Ladder
from ramnas_host.search import front as fronts
from ramnas_host.search import verification
from ramnas_host.search.front import Candidate, Front, ObjectiveValue, Settings
from ramnas_host.search.objectives import MACS, UNITS
from ramnas_host.surrogates.surrogate import Score
from ramnas_models.bundle import Bundle, open_bundle
from ramnas_models.errors import DataError
from ramnas_models.space import Arch

FRONTS, RECORDS, BUNDLE, STEPS = (
    ("verified.json", "front.json"), "records.sqlite", "bundle", "steps.json",
)  # fmt: skip


class Axis(msgspec.Struct, frozen=True):
    """An objective as the page names it; `unit` is that of its figures but MACs, which are raw."""

    name: str
    kind: str
    unit: str
    device_class: str


class ReportModel(msgspec.Struct, frozen=True):
    """A candidate; figures by the name of their objective, as the front file has them."""

    arch_id: str
    name: str
    arch: str
    macs: int
    bundled: bool
    predicted: dict[str, ObjectiveValue]
    measured: dict[str, ObjectiveValue]


class Scatter(msgspec.Struct, frozen=True):
    """One surrogate: (truth, prediction) of the samples, held out, and of the verified front."""

    objective: str
    family: str
    scores: dict[str, Score]
    held_out: tuple[tuple[float, float], ...]
    front: tuple[tuple[float, float], ...]
    front_tau: float | None


class RecordedRun(msgspec.Struct, frozen=True):
    """Records of one run and target on a board, counted by validity."""

    name: str
    what: str
    counts: dict[str, int]


class ReportBoard(msgspec.Struct, frozen=True):
    device_class: str
    facts: dict[str, str]
    runs: tuple[RecordedRun, ...]


class DoneCommand(msgspec.Struct, frozen=True):
    """A command that made the run, and how long it took."""

    argv: tuple[str, ...]
    seconds: float


class Report(msgspec.Struct, frozen=True):
    title: str
    space: str
    verified: bool
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
    """All that is known of `run`: a folder such as runs/demo, or the file of a front.

    Of a folder its own store and bundle are taken where none is named. DataError if there is no
    front, or if what is named is not there.
    """
    front = fronts.load(front_of(run))
    if run.is_dir():
        store = store or _there(run / RECORDS)
        bundle = bundle or _there(run / BUNDLE)
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
    """The verified front of a folder, else the one that was searched; a file is itself."""
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
    """The same from what was read. The models that budgets pick are those of the bundle, or those
    that `ramnas bundle` would take."""
    steps_of = ladders.of_bundle(bundle, front) if bundle else ladders.of_front(front)
    bundled = {rung.arch_id for ladder in steps_of for rung in ladder.rungs}
    classes = [one.device_class for one in front.objectives if one.device_class]
    classes += [ladder.device_class for ladder in steps_of]
    classes += [record.device_class for record in records]
    return Report(
        title=title,
        space=front.space,
        verified=any(c.measured for c in front.candidates),
        axes=tuple(
            Axis(one.name, one.kind, UNITS[one.kind], one.device_class) for one in front.objectives
        ),
        models=tuple(_model(c, c.arch_id in bundled) for c in front.candidates),
        ladders=tuple(steps_of),
        scatters=_scatters(front),
        boards=tuple(
            _board(name, [r for r in records if r.device_class == name])
            for name in dict.fromkeys(classes)
        ),
        constraints=tuple(
            f"{c.objective} {'>=' if c.objective == 'top1' else '<='} {c.limit:g}"
            for c in front.constraints
        ),
        settings=front.settings,
        hypervolumes=front.hypervolumes,
        steps=steps,
    )


def arch_text(arch: Arch) -> str:
    """`48 px; stem 16; 16x1 k3 e1, ...; head 512`: per stage width x depth, kernel, expansion."""
    stages = []
    for stage in arch.stages:
        kernels, expands = (
            "/".join(str(v) for v in of if v) for of in (stage.kernels, stage.expands)
        )
        stages.append(f"{stage.width}x{stage.depth} k{kernels} e{expands}")
    return f"{arch.resolution} px; stem {arch.stem}; {', '.join(stages)}; head {arch.head}"


def _there(path: Path) -> Path | None:
    return path if path.exists() else None


def _model(c: Candidate, bundled: bool) -> ReportModel:
    return ReportModel(
        c.arch_id, c.name, arch_text(c.arch), c.macs, bundled, c.predicted, c.measured
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
    """What was measured, in words."""
    size = "x".join(map(str, target.input_hw)) if target.input_hw else "the size of the arch"
    what = f"engine alone at {size}"
    if target.frame_hw:
        what = f"whole calls on frames of {'x'.join(map(str, target.frame_hw))}"
    return (
        f"{target.task}, {what}, batch {target.batch}, {target.engine} {target.precision}, "
        f"{target.threads} thread(s)"
    )


def _facts(records: list[LatencyRecord]) -> dict[str, str]:
    """Of the board, and of how it was while it measured; only what is known."""
    device = next((r.device for r in records if r.device), None)
    seen = [r.conditions for r in records if r.conditions]
    facts: dict[str, str | None] = {}
    if device:
        locked = {True: "locked", False: "free", None: None}[device.clocks_locked]
        facts = {
            "module": device.module, "CPU": device.cpu, "GPU": device.gpu,
            "cores": f"{device.cores}", "memory": f"{device.memory_gib} GiB",
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
    """What the demo did, if it made the folder."""
    try:
        done = json.loads(path.read_bytes())
        return tuple(DoneCommand(tuple(step["argv"]), step["seconds"]) for step in done.values())
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return ()
