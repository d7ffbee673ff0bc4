"""A verified front + the supernet's weights -> the bundle that a robot runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ramnas_host.data import Dataset
from ramnas_host.evaluate import calibrated
from ramnas_host.front import Candidate, Front
from ramnas_host.train import Checkpoint
from ramnas_models import onnx_graph
from ramnas_models.bundle import (
    FORMAT,
    Accuracy,
    Bundle,
    Cost,
    Latency,
    Manifest,
    Model,
    Preprocessing,
    write_bundle,
)  # fmt: skip
from ramnas_models.errors import DataError

# Two models closer than this in p90 cannot be told apart on a board that does other work too.
MIN_RATIO = 1.15


def choose(front: Front, most: int = 8) -> list[Candidate]:
    """At most `most` non-dominated candidates, fast to slow, from the most accurate downwards.

    Each is the most accurate that is at least MIN_RATIO faster than the one above it.
    """
    best = front.non_dominated()
    p90 = [c.measured.p90_ms for c in best if c.measured]
    ratio = max(MIN_RATIO, (p90[-1] / p90[0]) ** (1 / max(1, most - 1)))
    kept: list[Candidate] = []
    ceiling = float("inf")
    for candidate, ms in zip(reversed(best), reversed(p90), strict=True):
        if ms <= ceiling and len(kept) < most:
            kept.append(candidate)
            ceiling = ms / ratio
    return kept[::-1]


def write(
    path: Path, front: Front, models: Sequence[Candidate], checkpoint: Checkpoint, dataset: Dataset
) -> Bundle:
    """Build and write the bundle, whole or not at all."""
    net = checkpoint.net
    if net.space.hash != front.space_hash:
        raise DataError(
            f"the supernet is of space {net.space.name}, the front of {front.space}: "
            "search with the supernet that you want to bundle"
        )
    files: dict[str, bytes] = {}
    entries = []
    for candidate in models:
        subnet = calibrated(net, candidate.arch, dataset)
        graph = onnx_graph.build(
            subnet.plan,
            subnet.numpy_weights(),
            image_input=True,
            normalisation=dataset.test.normalisation,
        )
        file = f"models/{candidate.arch_id}.onnx"
        files[file] = graph.SerializeToString()
        measured = candidate.measured
        if measured is None:
            raise DataError(f"candidate {candidate.arch_id} is not verified: ramnas verify")
        layout, target = subnet.plan, front.target
        entries.append(
            Model(
                arch_id=candidate.arch_id,
                arch=candidate.arch,
                file=file,
                sha256="",  # write_bundle sets it
                input_hw=layout.input_hw,
                accuracy=Accuracy("top1", measured.top1, "validation"),
                cost=Cost(layout.macs, layout.macs_bn, layout.params),
                latency=(
                    Latency(
                        device_class=front.device_class,
                        engine=target.engine,
                        precision=target.precision,
                        threads=target.threads,
                        batch=target.batch,
                        frame_hw=target.frame_hw,
                        p90_ms=measured.p90_ms,
                        corrected_ms=measured.latency_ms,
                    ),
                ),
            )
        )
    manifest = Manifest(
        format=FORMAT,
        task="classification",
        classes=checkpoint.classes,
        space=front.space,
        space_hash=front.space_hash,
        preprocessing=Preprocessing("bilinear", dataset.test.normalisation),
        licence=checkpoint.licence,
        source=checkpoint.source,
        models=tuple(entries),
    )
    return write_bundle(path, manifest, files)
