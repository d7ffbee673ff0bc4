"""Archs + the supernet's weights + what was measured -> the bundle that a robot runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ramnas_host.checkpoint import Checkpoint
from ramnas_host.data import Split
from ramnas_host.evaluate import calibrated
from ramnas_host.front import Candidate, Front
from ramnas_models import onnx_graph
from ramnas_models.bundle import (
    FORMAT,
    Accuracy,
    Bundle,
    Cost,
    Latency,
    Manifest,
    Model,
    write_bundle,
)  # fmt: skip
from ramnas_models.errors import DataError
from ramnas_models.space import Arch

# Two models closer than this in p90 cannot be told apart on a board that does other work too.
MIN_RATIO = 1.15


def choose(front: Front, least: int = 4, most: int = 8) -> list[Candidate]:
    """`least` to `most` non-dominated candidates, fast to slow; all of them if they are fewer.

    Each is at least MIN_RATIO slower than the one before it: more where that would be too many,
    less where it would be too few.
    """
    best = front.non_dominated()
    ratio = MIN_RATIO
    while len(kept := _apart(best, ratio)) > most:
        ratio *= 1.02
    while len(kept) < min(least, len(best)):
        ratio = max(1.0, ratio / 1.02)
        kept = _apart(best, ratio)
    return kept


def _apart(best: Sequence[Candidate], ratio: float) -> list[Candidate]:
    """From the most accurate downwards, the next one that is faster by `ratio` or more."""
    kept: list[Candidate] = []
    ceiling = float("inf")
    for candidate in reversed(best):
        assert candidate.measured is not None
        if candidate.measured.p90_ms <= ceiling:
            kept.append(candidate)
            ceiling = candidate.measured.p90_ms / ratio
    return kept[::-1]


@dataclass(frozen=True)
class Entry:
    """One network of the bundle to be, with what is known of it."""

    arch: Arch
    accuracy: Accuracy | None = None
    latency: tuple[Latency, ...] = ()


def entries(front: Front, models: Sequence[Candidate]) -> list[Entry]:
    """What a verified front knows of its `models`."""
    target, found = front.target, []
    for candidate in models:
        measured = candidate.measured
        if measured is None:
            raise DataError(f"candidate {candidate.arch_id} is not verified: ramnas verify")
        latency = Latency(
            device_class=front.device_class,
            engine=target.engine,
            precision=target.precision,
            threads=target.threads,
            batch=target.batch,
            frame_hw=target.frame_hw,
            p90_ms=measured.p90_ms,
            corrected_ms=measured.latency_ms,
        )
        accuracy = Accuracy("top1", measured.top1, "validation")
        found.append(Entry(candidate.arch, accuracy, (latency,)))
    return found


def write(
    path: Path, entries: Sequence[Entry], checkpoint: Checkpoint, calibration: Split
) -> Bundle:
    """Cut out, recalibrate on `calibration`, build and write, whole or not at all."""
    net, about = checkpoint.net, checkpoint.about
    files: dict[str, bytes] = {}
    models = []
    for entry in entries:
        subnet = calibrated(net, entry.arch, calibration)
        layout = subnet.plan
        file = f"models/{layout.arch_id}.onnx"
        files[file] = onnx_graph.build(
            layout,
            subnet.numpy_weights(),
            image_input=True,
            normalisation=about.preprocessing.normalisation,
        ).SerializeToString()
        models.append(
            Model(
                arch_id=layout.arch_id,
                arch=entry.arch,
                file=file,
                sha256="",  # write_bundle sets it
                input_hw=layout.input_hw,
                accuracy=entry.accuracy,
                cost=Cost(layout.macs, layout.macs_bn, layout.params),
                latency=entry.latency,
            )
        )
    manifest = Manifest(
        format=FORMAT,
        task="classification",
        classes=about.classes,
        space=net.space.name,
        space_hash=net.space.hash,
        preprocessing=about.preprocessing,
        licence=about.licence,
        source=about.source,
        models=tuple(models),
    )
    return write_bundle(path, manifest, files)


def check_space(checkpoint: Checkpoint, front: Front) -> None:
    """DataError if the weights are not of the space that was searched."""
    space = checkpoint.net.space
    if space.hash != front.space_hash:
        raise DataError(
            f"the supernet is of space {space.name}, the front of {front.space}: "
            "search with the supernet that you want to bundle"
        )
