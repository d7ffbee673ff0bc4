"""What a search optimises: `latency@DEVICE:TASK` and the like -> objectives and what is known."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from ramnas_edge.measuring.drift import corrected_ms
from ramnas_edge.measuring.record import OK, LatencyRecord, Target
from ramnas_edge.measuring.store import Store
from ramnas_models.errors import DataError
from ramnas_models.head_plan import CLASSIFICATION
from ramnas_models.space import Arch, Space

TOP1, MACS, LATENCY, ENERGY = "top1", "macs", "latency", "energy"
UNITS = {TOP1: "top-1", MACS: "MMACs", LATENCY: "ms", ENERGY: "mJ"}
_GRAMMAR = re.compile(rf"({TOP1}|{MACS})|({LATENCY}|{ENERGY})(?:@([^@:]*))?(?::(\w+))?")
_CONSTRAINT = re.compile(r"(.+?)\s*(<=|>=)\s*([0-9.eE+-]+)")


class Objective(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """top-1 (0 to 1, to maximise), MACs, latency (ms) or energy (mJ), the last two of a board.

    `target`: what was measured there; its task says of which network around the arch. `runs`: of
    the store, whose records the surrogate learns from.
    """

    kind: str
    device_class: str = ""
    target: Target | None = None
    runs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As it is written on the command line, the device class in full."""
        if self.target is None:
            return self.kind
        task = "" if self.target.task == CLASSIFICATION else f":{self.target.task}"
        return f"{self.kind}@{self.device_class}{task}"

    @property
    def sign(self) -> int:
        """Times the value gives what a search minimises."""
        return -1 if self.kind == TOP1 else 1

    @property
    def of_classifier(self) -> bool:
        """Whether it is the latency of the very graph that `ramnas bundle` writes."""
        return (
            self.kind == LATENCY and self.target is not None and self.target.task == CLASSIFICATION
        )


class Constraint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An upper limit of an objective by name, a lower one of top-1; latency: of the median."""

    objective: str
    limit: float


def cost_of(objectives: Sequence[Objective]) -> Objective:
    """What models are ordered by: the first latency of a classifier, else the first cost."""
    costs = [objective for objective in objectives if objective.kind != TOP1]
    return next((one for one in costs if one.of_classifier), costs[0])


@dataclass(frozen=True)
class Known:
    """An objective, and what was measured of it: values of `archs`, in its unit.

    Empty for top-1, which the supernet tells, and for MACs, which are counted. `p90_ratio`: of a
    latency, p90 over median by what the records show; the p90 is too noisy to be learnt.
    """

    objective: Objective
    archs: tuple[Arch, ...] = ()
    values: tuple[float, ...] = ()
    p90_ratio: float | None = None


def records_in_runs(store: Store, runs: Sequence[str]) -> list[LatencyRecord]:
    """All records of `runs`; DataError for a run that the store has not."""
    for run in runs:
        if run not in store.runs():
            known = ", ".join(store.runs()) or "none"
            raise DataError(
                f"{store.path} holds no record of run '{run}'; calibrate first, or name another "
                f"by --run (there: {known})"
            )
    return [record for run in dict.fromkeys(runs) for record in store.records(run)]


def read_objectives(asked: str, records: Sequence[LatencyRecord], space: Space) -> list[Known]:
    """`top1,latency@DEVICE[:TASK],...` -> what to optimise, DataError naming what is unclear.

    DEVICE is a device class of the records or a part of its name, from the start of a word, that no
    other has; `any`, or nothing: the only one. TASK: classification, if it is left out.
    """
    found = [_read(part.strip(), records, space) for part in asked.split(",")]
    names = [known.objective.name for known in found]
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"objective {name} stands there twice")
    if TOP1 not in names or len(names) < 2:
        raise DataError(
            f"objectives '{asked}': top1 and one more at least, else the answer is the smallest "
            "network or the largest"
        )
    return found


def read_constraint(
    text: str, known: Sequence[Known], records: Sequence[LatencyRecord], space: Space
) -> Constraint:
    """`latency@DEVICE<=20`, of one of the objectives; DataError if it is none."""
    match = _CONSTRAINT.fullmatch(text.strip())
    try:
        asked, sign, limit = match.groups() if match else ("", "", "")
        value = float(limit)
    except ValueError:
        raise DataError(f"constraint '{text}' is not like latency@DEVICE<=20") from None
    objective = _read(asked, records, space).objective
    if objective.name not in (one.objective.name for one in known):
        raise DataError(f"constraint '{text}' is on no objective: add {asked} to --objectives")
    if sign != (">=" if objective.kind == TOP1 else "<="):
        raise DataError(f"constraint '{text}': top1 has a least value (>=), all else a most (<=)")
    return Constraint(objective.name, value)


def _read(asked: str, records: Sequence[LatencyRecord], space: Space) -> Known:
    match = _GRAMMAR.fullmatch(asked)
    if not match:
        raise DataError(
            f"unknown objective '{asked}': known are top1, macs, latency@DEVICE[:TASK] and "
            "energy@DEVICE[:TASK]"
        )
    plain, kind, device, task = match.groups()
    if plain:
        return Known(Objective(plain))
    return _measured(
        asked, kind, _pick(asked, device or "", task or CLASSIFICATION, records, space)
    )


def _pick(
    asked: str, device: str, task: str, records: Sequence[LatencyRecord], space: Space
) -> list[LatencyRecord]:
    """The valid records of one device class and one target."""
    if not records:
        raise DataError(f"{asked}: no records; name a --store that ramnas calibrate has filled")
    runs = _listed({r.run for r in records})
    of_task = [r for r in records if r.target.task == task]
    if not of_task:
        tasks = _listed({r.target.task for r in records})
        raise DataError(
            f"{asked}: run {runs} has no record of task {task}, only of {tasks}; name the task "
            f"(latency@DEVICE:TASK), or measure it: ramnas calibrate --task {task}"
        )
    classes = {r.device_class for r in of_task}
    if device not in classes:
        # from the start of a word: nx is in every onnxruntime
        wanted = "" if device == "any" else rf"(?<![a-z0-9]){re.escape(device)}"
        fitting = {name for name in classes if re.search(wanted, name, re.IGNORECASE)}
        if not fitting:
            raise DataError(
                f"{asked}: run {runs} has no device class '{device}' for task {task}; known are "
                f"{_listed(classes)}"
            )
        if len(fitting) > 1:
            raise DataError(f"{asked}: name one device class of {_listed(fitting)}")
        (device,) = fitting
    chosen = [r for r in of_task if r.validity == OK and r.device_class == device]
    foreign = [r.arch_id for r in chosen if r.space_hash != space.hash]
    if foreign:
        raise DataError(
            f"{asked}: run {runs} holds {len(foreign)} records of another space than {space.name}, "
            f"such as {foreign[0]}; use runs that were calibrated for this space"
        )
    mixed = _mixed([r.target for r in chosen])
    if mixed:
        raise DataError(f"{asked}: run {runs} mixes records of {mixed}; name runs that agree")
    return chosen


def _mixed(targets: Sequence[Target]) -> str:
    """In which fields the targets differ, with their values; empty if they are all the same."""
    return "; ".join(
        f"{field} {_listed(values)}"
        for field in Target.__struct_fields__
        for values in [{_plain(getattr(target, field)) for target in targets}]
        if len(values) > 1
    )


def _plain(value: object) -> str:
    if value is None:
        return "of each arch"  # an input size
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))


def _measured(asked: str, kind: str, records: Sequence[LatencyRecord]) -> Known:
    if not records:
        raise DataError(f"{asked}: none of its records is valid: ramnas records show says why")
    first = records[0]
    runs = tuple(dict.fromkeys(r.run for r in records))
    objective = Objective(kind, first.device_class, first.target, runs)
    archs = {r.arch_id: r.arch for r in records}
    ratio = None
    if kind == LATENCY:  # all runs together: the same anchors link their blocks
        value_of = corrected_ms(records)
        ratios = [r.p90_ms / value_of[r.arch_id] for r in records if r.p90_ms]
        ratio = float(np.median(ratios)) if ratios else None
    else:
        value_of = energy_mj(records)
        if not value_of:
            raise DataError(f"{asked}: no record carries energy; the board showed no power")
    known = [arch_id for arch_id in archs if arch_id in value_of]
    return Known(
        objective, tuple(archs[i] for i in known), tuple(value_of[i] for i in known), ratio
    )


def energy_mj(records: Sequence[LatencyRecord]) -> dict[str, float]:
    """Arch id -> energy of one inference above idle (mJ), the mean of several runs."""
    by_arch: dict[str, list[float]] = {}
    for record in records:
        if record.energy:
            by_arch.setdefault(record.arch_id, []).append(record.energy.per_inference_mj)
    return {arch_id: float(np.mean(values)) for arch_id, values in by_arch.items()}
