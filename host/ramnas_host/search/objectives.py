"""Turns `latency@DEVICE:TASK` and the like into objectives, with the records that measured them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from ramnas_edge.measuring import drift
from ramnas_edge.measuring.record import OK, LatencyRecord, Target
from ramnas_edge.measuring.store import Store
from ramnas_host.surrogates.noise_floor import floor_ms
from ramnas_models.errors import DataError
from ramnas_models.head_plan import CLASSIFICATION
from ramnas_models.space import Arch, Space

TOP1, MACS, LATENCY, ENERGY = "top1", "macs", "latency", "energy"
UNITS = {TOP1: "top-1", MACS: "MMACs", LATENCY: "ms", ENERGY: "mJ"}
_OBJECTIVE = re.compile(rf"({TOP1}|{MACS})|({LATENCY}|{ENERGY})(?:@([^@:]*))?(?::(\w+))?")
_CONSTRAINT = re.compile(r"(.+?)\s*(<=|>=)\s*([0-9.eE+-]+)")


class Objective(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a search optimises: top-1 (0 to 1, maximised), MACs, latency (ms) or energy (mJ).

    A latency or an energy belongs to a board. `target` says what was measured there; its task is
    the task of the network around the arch. `runs` are the runs of the store whose records the
    surrogate learns from.
    """

    kind: str
    device_class: str = ""
    target: Target | None = None
    runs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The objective as written on the command line, with the full device class."""
        if self.target is None:
            return self.kind
        task = "" if self.target.task == CLASSIFICATION else f":{self.target.task}"
        return f"{self.kind}@{self.device_class}{task}"

    @property
    def sign(self) -> int:
        """1 or -1; times the value, it gives what the search minimises."""
        return -1 if self.kind == TOP1 else 1

    @property
    def is_classifier_latency(self) -> bool:
        """Whether it is the latency of exactly the graph that `ramnas bundle` writes."""
        return (
            self.kind == LATENCY and self.target is not None and self.target.task == CLASSIFICATION
        )


class Constraint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A limit on an objective, given by its name: a lower limit for top-1, else an upper one.

    A latency is limited by its median, not its p90.
    """

    objective: str
    limit: float


def main_cost(objectives: Sequence[Objective]) -> Objective:
    """The cost that orders the models: the first latency of a classifier, else the first cost."""
    costs = [objective for objective in objectives if objective.kind != TOP1]
    return next((cost for cost in costs if cost.is_classifier_latency), costs[0])


@dataclass(frozen=True)
class Observations:
    """An objective and what was measured of it: the `values` of `archs`, in the objective's unit.

    There are none for top-1, which the supernet is evaluated for, and for MACs, which are counted.
    `p90_ratio` is the records' median ratio of p90 to median latency. It predicts the p90, which
    is too noisy to learn directly. `floor_ms` is the standard error that all latencies share, as
    far as the visits show it (`noise_floor.py`).
    """

    objective: Objective
    archs: tuple[Arch, ...] = ()
    values: tuple[float, ...] = ()
    p90_ratio: float | None = None
    floor_ms: float | None = None


def records_in_runs(store: Store, runs: Sequence[str]) -> list[LatencyRecord]:
    """All records of `runs`, each once; DataError if the store has no such run."""
    for run in runs:
        if run not in store.runs():
            existing = ", ".join(store.runs()) or "none"
            raise DataError(
                f"{store.path} holds no record of run '{run}'; calibrate first, or choose another "
                f"run with --run (the store has: {existing})"
            )
    return [record for run in dict.fromkeys(runs) for record in store.records(run)]


def read_objectives(
    text: str, records: Sequence[LatencyRecord], space: Space
) -> list[Observations]:
    """Read `top1,latency@DEVICE[:TASK],...` and pick the records of each objective.

    DEVICE is a device class of the records, or a part of its name that no other class has and that
    begins at the start of a word. `any`, or no DEVICE at all, stands for the only device class.
    TASK is classification if it is left out. DataError says what is unknown or ambiguous.
    """
    parts = [part.strip() for part in text.split(",")]
    observations = [_read(part, records, space) for part in parts]
    names = [one.objective.name for one in observations]
    for i, name in enumerate(names):
        if name in names[:i]:
            first = parts[names.index(name)]
            raise DataError(
                f"objectives '{text}': '{first}' and '{parts[i]}' are the same; remove one"
            )
    if TOP1 not in names or len(names) < 2:
        raise DataError(
            f"objectives '{text}': name top1 and at least one other; with a single objective the "
            "best network is simply the smallest or the largest"
        )
    return observations


def read_constraint(
    text: str,
    observations: Sequence[Observations],
    records: Sequence[LatencyRecord],
    space: Space,
) -> Constraint:
    """Read a constraint such as `latency@DEVICE<=20` on one of the objectives.

    DataError if the text has another form, or if no objective goes by that name.
    """
    match = _CONSTRAINT.fullmatch(text.strip())
    try:
        name, sign, number = match.groups() if match else ("", "", "")
        limit = float(number)
    except ValueError:
        raise DataError(f"constraint '{text}' does not have the form latency@DEVICE<=20") from None
    objective = _read(name, records, space).objective
    if objective.name not in (one.objective.name for one in observations):
        raise DataError(f"constraint '{text}': {name} is not an objective; add it to --objectives")
    if sign != (">=" if objective.kind == TOP1 else "<="):
        raise DataError(
            f"constraint '{text}': write >= for top1, which is maximised, and <= for everything "
            "else"
        )
    return Constraint(objective.name, limit)


def _read(text: str, records: Sequence[LatencyRecord], space: Space) -> Observations:
    match = _OBJECTIVE.fullmatch(text)
    if not match:
        raise DataError(
            f"unknown objective '{text}': known are top1, macs, latency@DEVICE[:TASK] and "
            "energy@DEVICE[:TASK]"
        )
    unmeasured, kind, device, task = match.groups()
    if unmeasured:
        return Observations(Objective(unmeasured))
    return _observed(text, kind, _pick(text, device or "", task or CLASSIFICATION, records, space))


def _pick(
    text: str, device: str, task: str, records: Sequence[LatencyRecord], space: Space
) -> list[LatencyRecord]:
    """The valid records of one device class and one target."""
    if not records:
        raise DataError(
            f"{text}: there are no records; name a --store that ramnas calibrate has filled"
        )
    runs = _listed({r.run for r in records})
    for_task = [r for r in records if r.target.task == task]
    if not for_task:
        tasks = _listed({r.target.task for r in records})
        raise DataError(
            f"{text}: run {runs} has no record for task {task}, only for {tasks}; name the task "
            f"(latency@DEVICE:TASK), or measure it with ramnas calibrate --task {task}"
        )
    device_class = _device_class(text, device, task, runs, {r.device_class for r in for_task})
    picked = [r for r in for_task if r.validity == OK and r.device_class == device_class]
    foreign = [r.arch_id for r in picked if r.space_hash != space.hash]
    if foreign:
        raise DataError(
            f"{text}: run {runs} holds {len(foreign)} records of a space other than {space.name}, "
            f"such as that of arch {foreign[0]}; choose runs that were calibrated for this space"
        )
    differences = _differences([r.target for r in picked])
    if differences:
        raise DataError(
            f"{text}: the records of run {runs} were measured under different conditions "
            f"({differences}); choose runs that agree"
        )
    return picked


def _device_class(text: str, device: str, task: str, runs: str, classes: set[str]) -> str:
    """The device class that `device` names, in full or in part.

    An error lists the full classes, because each of them can be copied to the command line.
    """
    if device in classes:
        return device
    # only from the start of a word: "nx" is a part of every "onnxruntime"
    part = "" if device == "any" else rf"(?<![a-z0-9]){re.escape(device)}"
    matching = {name for name in classes if re.search(part, name, re.IGNORECASE)}
    if not matching:
        raise DataError(
            f"{text}: run {runs} has no device class '{device}' for task {task}; known are "
            f"{_listed(classes)}"
        )
    if len(matching) > 1:
        raise DataError(
            f"{text}: several device classes match; name one of them, or a part that only one "
            f"has: {_listed(matching)}"
        )
    return matching.pop()


def _differences(targets: Sequence[Target]) -> str:
    """The fields in which the targets differ, with their values; "" if all are the same."""
    return "; ".join(
        f"{field} {_listed(values)}"
        for field in Target.__struct_fields__
        for values in [{_readable(getattr(target, field)) for target in targets}]
        if len(values) > 1
    )


def _readable(value: object) -> str:
    if value is None:  # an input size
        return "each arch's own"
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _observed(text: str, kind: str, records: Sequence[LatencyRecord]) -> Observations:
    if not records:
        raise DataError(f"{text}: none of its records is valid; ramnas records show says why")
    first = records[0]
    runs = tuple(dict.fromkeys(r.run for r in records))
    objective = Objective(kind, first.device_class, first.target, runs)
    archs = {r.arch_id: r.arch for r in records}
    p90_ratio = floor = None
    if kind == LATENCY:  # the anchors that all blocks share link the runs, so correct them together
        fitted = drift.fit(drift.visits_of(records))
        value_of = {arch: math.exp(level) for arch, level in fitted.level.items()}
        floor = floor_ms(fitted)
        ratios = [r.p90_ms / value_of[r.arch_id] for r in records if r.p90_ms]
        p90_ratio = float(np.median(ratios)) if ratios else None
    else:
        value_of = energy_mj(records)
        if not value_of:
            raise DataError(
                f"{text}: no record carries an energy; only boards whose power can be read have one"
            )
    ids = [arch_id for arch_id in archs if arch_id in value_of]
    return Observations(
        objective, tuple(archs[i] for i in ids), tuple(value_of[i] for i in ids), p90_ratio, floor
    )


def energy_mj(records: Sequence[LatencyRecord]) -> dict[str, float]:
    """Arch id -> the energy of one inference above idle in mJ, averaged over an arch's records."""
    by_arch: dict[str, list[float]] = {}
    for record in records:
        if record.energy:
            by_arch.setdefault(record.arch_id, []).append(record.energy.per_inference_mj)
    return {arch_id: float(np.mean(values)) for arch_id, values in by_arch.items()}
