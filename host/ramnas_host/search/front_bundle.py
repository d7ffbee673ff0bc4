"""Archs + the supernet's weights + what was measured -> the bundle that a robot runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ramnas_edge.runtime import latency_file
from ramnas_host.data.images import Split
from ramnas_host.search.front import Candidate, Front, ObjectiveValue
from ramnas_host.search.objectives import TOP1, Objective
from ramnas_host.training.checkpoint import Checkpoint
from ramnas_host.training.evaluate import recalibrated_subnet
from ramnas_models import bundle as bundles
from ramnas_models import onnx_graph
from ramnas_models.bundle import Accuracy, Bundle, Cost, Latency, Manifest, Model, write_bundle
from ramnas_models.errors import DataError
from ramnas_models.space import Arch

# Two models closer than this in p90 cannot be told apart on a board that does other work too.
MIN_RATIO = 1.15


def choose(front: Front, least: int = 4, most: int = 8) -> list[Candidate]:
    """`least` to `most` of the front of top-1 and `front.cost`, fast to slow; all if fewer.

    Each costs at least MIN_RATIO times what the one before it does: more where that would be too
    many. Where it would be too few, those join them that differ most in cost from all chosen.
    """
    best = front.non_dominated([Objective(TOP1), front.cost])
    costs = [candidate.measured[front.cost.name].budgeted for candidate in best]
    ratio = MIN_RATIO
    while len(kept := _apart(costs, ratio)) > most:
        ratio *= 1.02
    while len(kept) < min(least, len(best)):
        others = [i for i in range(len(best)) if i not in kept]
        kept.append(max(others, key=lambda i: min(_ratio(costs[i], costs[k]) for k in kept)))
    return [best[i] for i in sorted(kept)]


def _ratio(a: float, b: float) -> float:
    return max(a, b) / min(a, b)


def _apart(costs: Sequence[float], ratio: float) -> list[int]:
    """Indices of rising costs: from the last downwards, the next that costs less by `ratio`."""
    kept: list[int] = []
    ceiling = float("inf")
    for i in reversed(range(len(costs))):
        if costs[i] <= ceiling:
            kept.append(i)
            ceiling = costs[i] / ratio
    return kept[::-1]


def named(front: Front, wanted: Sequence[str]) -> list[Candidate]:
    """The candidates of these names or ids, fast to slow; DataError for one that is not there."""
    for name in wanted:
        if not any(name in (c.name, c.arch_id) for c in front.candidates):
            known = ", ".join(front.family) or "none has a name: ramnas search --family N"
            raise DataError(f"the front has no candidate '{name}'; by name: {known}")
    found = [c for c in front.candidates if {c.name, c.arch_id} & set(wanted)]
    for c in found:
        if front.cost.name not in c.measured:
            raise DataError(f"candidate {c.arch_id} is not verified: ramnas verify")
    return sorted(found, key=lambda c: c.measured[front.cost.name].budgeted)


@dataclass(frozen=True)
class Entry:
    """One network of the bundle to be, with what is known of it."""

    arch: Arch
    accuracy: Accuracy | None = None
    latency: tuple[Latency, ...] = ()


def entries(front: Front, models: Sequence[Candidate]) -> list[Entry]:
    """What a verified front knows of its `models`: top-1, and the latencies of classifiers."""
    found = []
    for candidate in models:
        if TOP1 not in candidate.measured:
            raise DataError(f"candidate {candidate.arch_id} is not verified: ramnas verify")
        latencies = tuple(
            _latency(objective, candidate.measured[objective.name])
            for objective in front.objectives
            if objective.of_classifier and objective.name in candidate.measured
        )
        accuracy = Accuracy("top1", candidate.measured[TOP1].value, "validation")
        found.append(Entry(candidate.arch, accuracy, latencies))
    return found


def _latency(objective: Objective, figure: ObjectiveValue) -> Latency:
    target = objective.target
    assert target is not None  # a latency has both
    assert figure.p90 is not None
    return latency_file.in_manifest(objective.device_class, target, figure.p90, figure.value)


def write(
    path: Path, entries: Sequence[Entry], checkpoint: Checkpoint, calibration: Split
) -> Bundle:
    """Cut out, recalibrate on `calibration`, build and write, whole or not at all."""
    net, about = checkpoint.net, checkpoint.about
    files: dict[str, bytes] = {}
    models = []
    for entry in entries:
        subnet = recalibrated_subnet(net, entry.arch, calibration)
        layout = subnet.plan
        file = f"models/{layout.arch_id}.onnx"
        files[file] = onnx_graph.build(
            layout,
            subnet.numpy_weights(),
            image_input=True,
            batch=None,
            normalisation=about.preprocessing.normalisation,
        ).SerializeToString()
        models.append(
            Model(
                arch_id=layout.arch_id,
                arch=entry.arch,
                file=file,
                sha256="",  # write_bundle sets it
                input_hw=layout.input_hw,
                accuracies=(entry.accuracy,) if entry.accuracy else (),
                cost=Cost(layout.macs, layout.macs_bn, layout.params),
                latency=entry.latency,
            )
        )
    front = bundles.TaskFront("classification", about.classes, about.preprocessing, tuple(models))
    manifest = Manifest(bundles.FORMAT, net.space, about.licence, about.source, (front,))
    return write_bundle(path, manifest, files)


def check_space(checkpoint: Checkpoint, front: Front) -> None:
    """DataError if the weights are not of the space that was searched."""
    space = checkpoint.net.space
    if space.hash != front.space_hash:
        raise DataError(
            f"the supernet is of space {space.name}, the front of {front.space}: "
            "search with the supernet that you want to bundle"
        )
