"""Chooses models of a verified front and writes them, with the supernet's weights, as a bundle."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ramnas_edge.runtime import latency_file
from ramnas_host.search.bundle_parts import model_of
from ramnas_host.search.front import Candidate, Front, ObjectiveValue
from ramnas_host.search.objectives import TOP1, Objective
from ramnas_host.training.checkpoint import Checkpoint
from ramnas_models import bundle as bundles
from ramnas_models.accuracy import Accuracy
from ramnas_models.bundle import Bundle, Latency, Manifest, write_bundle
from ramnas_models.errors import DataError
from ramnas_models.space import Arch
from ramnas_models.supernet import Subnet

# Two models whose p90 differs by less than this factor cannot be told apart on a busy board.
MIN_RATIO = 1.15


def choose(front: Front, least: int = 4, most: int = 8) -> list[Candidate]:
    """Choose `least` to `most` models of the front of top-1 and `front.cost`, fast to slow.

    Each model costs at least MIN_RATIO times as much as the one before it. If that leaves more than
    `most` models, the ratio is raised. If it leaves fewer than `least`, the models whose cost
    differs most from all chosen ones are added, up to `most`. A front with fewer than `least`
    models is taken whole. DataError if the front is not verified.
    """
    best = front.non_dominated([Objective(TOP1), front.cost])
    costs = [candidate.measured[front.cost.name].budgeted for candidate in best]
    ratio = MIN_RATIO
    while len(chosen := _apart(costs, ratio)) > most:
        ratio *= 1.02
    while len(chosen) < min(least, most, len(best)):
        others = [i for i in range(len(best)) if i not in chosen]
        chosen.append(max(others, key=lambda i: min(_ratio(costs[i], costs[k]) for k in chosen)))
    return [best[i] for i in sorted(chosen)]


def _ratio(a: float, b: float) -> float:
    return max(a, b) / min(a, b)


def _apart(costs: Sequence[float], ratio: float) -> list[int]:
    """Indices of costs that lie at least `ratio` apart, rising; the highest cost is always kept."""
    kept: list[int] = []
    ceiling = float("inf")
    for i in reversed(range(len(costs))):
        if costs[i] <= ceiling:
            kept.append(i)
            ceiling = costs[i] / ratio
    return kept[::-1]


def pick(front: Front, names: Sequence[str]) -> list[Candidate]:
    """The candidates with these names or arch ids, fast to slow.

    DataError if there is no such candidate, or if it is not verified.
    """
    for name in names:
        if not any(name in (c.name, c.arch_id) for c in front.candidates):
            family = ", ".join(front.family)
            hint = f"named are {family}" if family else "ramnas search --family N gives names"
            raise DataError(f"the front has no candidate '{name}'; {hint}")
    picked = [c for c in front.candidates if {c.name, c.arch_id} & set(names)]
    for c in picked:
        if front.cost.name not in c.measured:
            raise DataError(_unverified(c))
    return sorted(picked, key=lambda c: c.measured[front.cost.name].budgeted)


def _unverified(candidate: Candidate) -> str:
    return f"candidate {candidate.arch_id} is not verified; run ramnas verify first"


@dataclass(frozen=True)
class Entry:
    """One model of the bundle, with its measured accuracies and latencies."""

    arch: Arch
    accuracies: tuple[Accuracy, ...] = ()
    latency: tuple[Latency, ...] = ()


def entries(front: Front, models: Sequence[Candidate]) -> list[Entry]:
    """The bundle's entries for `models`, with every latency of the classifier.

    Their accuracies are top-1 on the selection split, by which a budget will choose, and on the
    report split. DataError if a model is not verified.
    """
    measured = []
    for candidate in models:
        if TOP1 not in candidate.measured:
            raise DataError(_unverified(candidate))
        latencies = tuple(
            _latency(objective, candidate.measured[objective.name])
            for objective in front.objectives
            if objective.is_classifier_latency and objective.name in candidate.measured
        )
        accuracies = candidate.accuracies
        if not accuracies:  # a front of format 3: its top-1 is on what is now the selection split
            accuracies = (Accuracy("top1", candidate.measured[TOP1].value, "selection"),)
        measured.append(Entry(candidate.arch, accuracies, latencies))
    return measured


def _latency(objective: Objective, measured: ObjectiveValue) -> Latency:
    target = objective.target
    assert target is not None  # a measured latency has a target and a p90
    assert measured.p90 is not None
    return latency_file.in_manifest(objective.device_class, target, measured.p90, measured.value)


def write(
    path: Path, entries: Sequence[Entry], checkpoint: Checkpoint, subnets: Iterable[Subnet]
) -> Bundle:
    """Write the `subnets` of the entries' archs as a bundle to `path`.

    They were cut out of the supernet of `checkpoint` and have their BatchNorm recalibrated. If
    anything fails, nothing is written.
    """
    net, about = checkpoint.net, checkpoint.about
    files: dict[str, bytes] = {}
    models = []
    for entry, subnet in zip(entries, subnets, strict=True):
        arch_id = subnet.plan.arch_id
        models.append(
            model_of(
                subnet,
                files,
                name=arch_id,
                file=f"models/{arch_id}.onnx",
                space=net.space.name,
                arch=entry.arch,
                preprocessing=about.preprocessing,
                accuracies=entry.accuracies,
                latency=entry.latency,
            )
        )
    front = bundles.TaskFront("classification", about.classes, tuple(models))
    spaces = {net.space.name: net.space}
    manifest = Manifest(bundles.FORMAT, spaces, about.licence, about.source, (front,))
    return write_bundle(path, manifest, files)


def check_space(checkpoint: Checkpoint, front: Front) -> None:
    """DataError if the supernet has another space than the one that was searched."""
    space = checkpoint.net.space
    if space.hash != front.space_hash:
        raise DataError(
            f"the supernet has space {space.name}, but the front was searched in {front.space}; "
            "use the supernet of that search, or search again with this one"
        )
