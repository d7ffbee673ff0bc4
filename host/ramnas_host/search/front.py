"""Writes and reads a front: the candidates of a search with predicted and measured values."""

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
    main_cost,
)
from ramnas_host.surrogates.surrogate import Score
from ramnas_models.accuracy import Accuracy
from ramnas_models.errors import DataError
from ramnas_models.files import write_file
from ramnas_models.named import find_arch
from ramnas_models.space import Arch, Space

FORMAT = 4
# format 2 has no held-out predictions, format 3 has no accuracies with their images
READABLE = (2, 3, FORMAT)


class ObjectiveValue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A value in the unit of its objective: top-1 (0 to 1), MACs, ms or mJ.

    For a latency `value` is the drift-corrected median and `p90` the raw p90.
    """

    value: float
    p90: float | None = None

    @property
    def budgeted(self) -> float:
        """What is compared with a budget: the p90 of a latency, and the value of anything else."""
        return self.value if self.p90 is None else self.p90


class Candidate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An arch of a front with its `predicted` and `measured` values by the name of the objective.

    `measured` is empty until the front is verified, and lacks what could not be measured. MACs are
    counted, so that both hold the same number. `name` is A0, A1, ... for members of the family.

    `accuracies` are the true top-1 on two splits: on `selection`, by which the search chose this
    arch and by which everything else is chosen, and after `ramnas verify` on `report`, which is the
    measured one. `macs_bn` counts MACs as the paper does.
    """

    arch: Arch
    arch_id: str
    macs: int
    predicted: dict[str, ObjectiveValue]
    measured: dict[str, ObjectiveValue] = {}
    name: str = ""
    macs_bn: int | None = None
    accuracies: tuple[Accuracy, ...] = ()

    def accuracy(self, split: str) -> Accuracy | None:
        """The true top-1 on `split`, None if it was not measured there."""
        return next((a for a in self.accuracies if a.split == split), None)

    def to_choose_by(self, objective: str) -> float:
        """The measured value by which models are chosen, the p90 of a latency.

        Top-1 is that on the selection split: nothing may be chosen by the report split. A front of
        format 3 has only one top-1, which is taken. KeyError if nothing was measured.
        """
        selection = self.accuracy("selection")
        if objective == TOP1 and selection:
            return selection.value
        return self.measured[objective].budgeted


class ChosenSurrogate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The family of surrogates chosen for an objective, and the cross-validated score of each.

    `held_out` has a pair for each observation: the true value, and the chosen family's prediction
    without having seen it.
    """

    family: str
    scores: dict[str, Score]
    held_out: tuple[tuple[float, float], ...] = ()


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The settings of Algorithm 1 (P, top-K, T and p_m), with the paper's values as defaults.

    Each of the `infill_rounds` runs the algorithm once.
    """

    population: int = 5120
    parents: int = 2560
    generations: int = 30
    p_mutation: float = 0.2
    seed: int = 0
    infill_rounds: int = 4


class Front(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The candidates of a search, from cheap to costly as predicted, and how they were found.

    `surrogates` has an entry for each objective but MACs, which need none. `hypervolumes` are those
    of all evaluated archs, before the first infill round and after each round. `dataset` is the
    name of the data set whose images the accuracies come from.
    """

    format: int
    space: str
    space_hash: str
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    surrogates: dict[str, ChosenSurrogate]
    settings: Settings
    hypervolumes: tuple[float, ...]
    candidates: tuple[Candidate, ...]
    dataset: str = ""

    @property
    def cost(self) -> Objective:
        """The objective that orders the candidates."""
        return main_cost(self.objectives)

    @property
    def family(self) -> dict[str, Arch]:
        """The archs that have a name, by their name."""
        return {c.name: c.arch for c in self.candidates if c.name}

    def non_dominated(self, objectives: Sequence[Objective] = ()) -> tuple[Candidate, ...]:
        """The verified candidates that no other one dominates in `objectives`, cheapest first.

        Without `objectives`, all of the front's count. The values are those of `to_choose_by`.
        DataError if no candidate has measured values of all these objectives.
        """
        objectives = objectives or self.objectives
        verified = [c for c in self.candidates if all(o.name in c.measured for o in objectives)]
        if not verified:
            raise DataError("no candidate of this front is verified yet; run ramnas verify first")
        values = np.array([[o.sign * c.to_choose_by(o.name) for o in objectives] for c in verified])
        best = [verified[i] for i in nsga2.non_dominated(values)]
        return tuple(sorted(best, key=lambda c: c.measured[self.cost.name].budgeted))


def save(front: Front, path: Path) -> None:
    """Write `front` to `path` as JSON."""
    write_file(path, msgspec.json.format(msgspec.json.encode(front), indent=1))


def arch_of(space: Space, wanted: str, path: Path | None, source: str = "") -> Arch:
    """Find an arch by min, max, name, id or YAML file, also among the candidates in `path`.

    `source` is where the weights come from, which decides between published networks of one name.
    SpaceError if there is no such arch.
    """
    front = load(path) if path else None
    archs = [c.arch for c in front.candidates] if front else []
    return find_arch(space, wanted, archs, front.family if front else None, source)


class _Version(msgspec.Struct):
    candidates: list[object]
    format: int = 1  # the first format did not name itself


def load(path: Path) -> Front:
    """Read a front. DataError if the file is no front, is too old, or contradicts itself."""
    try:
        content = path.read_bytes()
        version = msgspec.json.decode(content, type=_Version).format
        if version not in READABLE:
            readable = f"{', '.join(map(str, READABLE[:-1]))} and {READABLE[-1]}"
            raise DataError(
                f"{path} is a front of format {version}, and this version of ramnas reads formats "
                f"{readable}; run ramnas search again"
            )
        front = msgspec.json.decode(content, type=Front)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path} is not a front of ramnas: {error}") from error
    for fault in _faults(front):
        raise DataError(f"{path} is not a valid front: {fault}")
    return front


def _faults(front: Front) -> Iterator[str]:
    """Contradictions that a file may have although all its types are right."""
    names = [objective.name for objective in front.objectives]
    for objective in front.objectives:
        if objective.kind not in (TOP1, MACS, LATENCY, ENERGY):
            yield f"objective '{objective.kind}' is unknown"
        if objective.target is None and objective.kind in (LATENCY, ENERGY):
            yield f"objective {objective.name} has no target"
        if objective.target is not None and objective.kind in (TOP1, MACS):
            yield f"objective {objective.name} has a target, but is not measured on a board"
    if TOP1 not in names or len(names) < 2 or len(set(names)) < len(names):
        listed = ", ".join(names) or "none"
        yield f"it needs top1 and at least one other objective, each once, and has: {listed}"
    for constraint in front.constraints:
        if constraint.objective not in names:
            yield f"there is a constraint on '{constraint.objective}', which is not an objective"
    for candidate in front.candidates:
        where = f"candidate {candidate.arch_id}"
        if candidate.arch.id != candidate.arch_id:
            yield f"the arch of {where} has the id {candidate.arch.id}"
        if set(candidate.predicted) != set(names):
            yield f"{where} does not have one predicted value for each objective"
        if not set(candidate.measured) <= set(names):
            yield f"{where} has measured values of other objectives"
        report, measured = candidate.accuracy("report"), candidate.measured.get(TOP1)
        if report and (measured is None or measured.value != report.value):
            yield f"{where} has another top-1 on the report split than its measured one"
    named = [candidate.name for candidate in front.candidates if candidate.name]
    if len(set(named)) < len(named):
        yield f"two candidates have the same name: {', '.join(named)}"
