"""The front as a file: candidates, and of each objective what was predicted and measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np

from ramnas_host.search import nsga2
from ramnas_host.search.objectives import (
    ENERGY,
    LATENCY,
    MACS,
    TOP1,
    Constraint,
    Objective,
    cost_of,
)
from ramnas_host.surrogates.surrogate import Score
from ramnas_models.errors import DataError
from ramnas_models.files import write_file
from ramnas_models.named import find_arch
from ramnas_models.space import Arch, Space

FORMAT = 3
READABLE = (2, FORMAT)  # 2 has no held-out predictions


class ObjectiveValue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """top-1 on the validation split (0 to 1), MACs, energy (mJ) or latency (ms).

    A latency's `value` is the drift-corrected median, and `p90` the raw p90.
    """

    value: float
    p90: float | None = None

    @property
    def budgeted(self) -> float:
        """What a budget is compared with: a latency's p90, of all else the value."""
        return self.value if self.p90 is None else self.p90


class Candidate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Figures by the name of their objective; `measured` has those that were, MACs are counted.

    `name`: A0, A1, ... within the family, if it is one of it.
    """

    arch: Arch
    arch_id: str
    macs: int
    predicted: dict[str, ObjectiveValue]
    measured: dict[str, ObjectiveValue] = {}
    name: str = ""


class Chosen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which family predicts an objective, out of which, by cross-validation.

    `held_out`: of each sample the truth, and what the chosen one said of it without having seen it.
    """

    family: str
    scores: dict[str, Score]
    held_out: tuple[tuple[float, float], ...] = ()


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Algorithm 1: P, top-K, T, p_m (the defaults are the paper's), once an infill round."""

    population: int = 5120
    parents: int = 2560
    generations: int = 30
    p_mutation: float = 0.2
    seed: int = 0
    infill_rounds: int = 4


class Front(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Candidates for the front, cheap to costly as predicted, and all that led to them.

    `surrogates` are by the name of their objective; MACs need none. `hypervolumes`: of all that was
    tried, before the first infill round and after each.
    """

    format: int
    space: str
    space_hash: str
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    surrogates: dict[str, Chosen]
    settings: Settings
    hypervolumes: tuple[float, ...]
    candidates: tuple[Candidate, ...]

    @property
    def cost(self) -> Objective:
        return cost_of(self.objectives)

    @property
    def family(self) -> dict[str, Arch]:
        """The archs that have a name, by it."""
        return {c.name: c.arch for c in self.candidates if c.name}

    def non_dominated(self, objectives: Sequence[Objective] = ()) -> tuple[Candidate, ...]:
        """The verified candidates that no other beats in all `objectives` (none: all), by cost.

        As measured, latencies by p90. DataError if none is verified.
        """
        wanted = objectives or self.objectives
        verified = [c for c in self.candidates if all(one.name in c.measured for one in wanted)]
        if not verified:
            raise DataError("no candidate of this front is verified yet: ramnas verify")
        values = np.array(
            [[one.sign * c.measured[one.name].budgeted for one in wanted] for c in verified]
        )
        best = [verified[i] for i in nsga2.non_dominated(values)]
        return tuple(sorted(best, key=lambda c: c.measured[self.cost.name].budgeted))


def save(front: Front, path: Path) -> None:
    write_file(path, msgspec.json.format(msgspec.json.encode(front), indent=1))


def arch_of(space: Space, wanted: str, path: Path | None) -> Arch:
    """An arch as people name it, by the front in file `path` too, if there is one; SpaceError."""
    front = load(path) if path else None
    known = [c.arch for c in front.candidates] if front else []
    return find_arch(space, wanted, known, front.family if front else None)


class _Version(msgspec.Struct):
    candidates: list[object]
    format: int = 1


def load(path: Path) -> Front:
    """Read a front; DataError if it is none, of an earlier ramnas, or does not hold together."""
    try:
        content = path.read_bytes()
        version = msgspec.json.decode(content, type=_Version).format
        if version not in READABLE:
            known = " and ".join(map(str, READABLE))
            raise DataError(
                f"{path} is a front of format {version}, this ramnas reads {known}: search again"
            )
        front = msgspec.json.decode(content, type=Front)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is no front of ramnas: {error}") from error
    for fault in _faults(front):
        raise DataError(f"{path} is no front of ramnas: {fault}")
    return front


def _faults(front: Front) -> Iterator[str]:
    """What a front of the right types may still get wrong."""
    names = [objective.name for objective in front.objectives]
    for objective in front.objectives:
        if objective.kind not in (TOP1, MACS, LATENCY, ENERGY):
            yield f"objective '{objective.kind}' is unknown"
        if (objective.target is None) != (objective.kind in (TOP1, MACS)):
            yield f"objective {objective.name} does not go with its target"
    if TOP1 not in names or len(set(names)) < max(2, len(names)):
        yield f"its objectives are {', '.join(names) or 'none'}"
    for constraint in front.constraints:
        if constraint.objective not in names:
            yield f"a constraint on '{constraint.objective}', which is no objective"
    for candidate in front.candidates:
        where = f"candidate {candidate.arch_id}"
        if candidate.arch.id != candidate.arch_id:
            yield f"{where} is arch {candidate.arch.id}"
        if set(candidate.predicted) != set(names) or not set(candidate.measured) <= set(names):
            yield f"{where} has figures of other objectives"
    named = [candidate.name for candidate in front.candidates if candidate.name]
    if len(set(named)) < len(named):
        yield f"two candidates have one name: {', '.join(named)}"
