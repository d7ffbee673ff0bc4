"""Writes the bundle of fine-tuned networks, with one front of models for each task."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from ramnas_host.finetuning import saved_network
from ramnas_host.finetuning.prepare import FINETUNED
from ramnas_host.finetuning.saved_network import Finetuned
from ramnas_models import onnx_graph
from ramnas_models.bundle import FORMAT, Bundle, Cost, Manifest, Model, TaskFront, write_bundle
from ramnas_models.errors import DataError
from ramnas_models.head_plan import SSDLitePlan

log = logging.getLogger(__name__)


def write(path: Path, runs: Sequence[Path]) -> Bundle:
    """Write the networks in the folders `runs` of `ramnas finetune` as one bundle to `path`.

    The networks of a task make its front, from few to many MACs. Nothing is written, and a
    DataError raised, if a run has not ended or if the networks do not belong together: all must
    come from the same space, and those of one task must have the same classes, the same
    preprocessing and different archs.
    """
    networks = [_load(run) for run in runs]
    spaces = {network.space.hash: network.space for network in networks}
    if len(spaces) > 1:
        names = ", ".join(space.name for space in spaces.values())
        raise DataError(
            f"the networks of a bundle must come from one space, and these come from {names}"
        )
    files: dict[str, bytes] = {}
    fronts = []
    for task in dict.fromkeys(network.about.task for network in networks):
        for_task = [network for network in networks if network.about.task == task]
        shared = {(network.about.classes, network.about.preprocessing) for network in for_task}
        if len(shared) > 1:
            raise DataError(
                f"the networks for {task} differ in classes or preprocessing; write one bundle for "
                "each kind"
            )
        models = [_model(network, files) for network in for_task]
        models.sort(key=lambda model: model.cost.macs)
        ((classes, preprocessing),) = shared
        fronts.append(TaskFront(task, classes, preprocessing, tuple(models)))
    licence, source = (
        "; ".join(dict.fromkeys(getattr(network.about, name) for network in networks))
        for name in ("licence", "source")
    )
    space = next(iter(spaces.values()))
    return write_bundle(path, Manifest(FORMAT, space, licence, source, tuple(fronts)), files)


def _load(run: Path) -> Finetuned:
    file = run / FINETUNED if run.is_dir() else run
    if run.is_dir() and not file.exists():
        raise DataError(
            f"{run} has no {FINETUNED}, which ramnas finetune writes when a run has ended; run the "
            "same ramnas finetune command again to resume it"
        )
    network = saved_network.load(file)
    if any(accuracy.n is None for accuracy in network.about.accuracies):
        log.warning(
            "%s is from an earlier version of ramnas, which did not count the images of its "
            "accuracies: the bundle has them without n and interval. Fine-tune it again to have "
            "both", file,
        )  # fmt: skip
    return network


def _model(network: Finetuned, files: dict[str, bytes]) -> Model:
    """The manifest's entry for one network, whose ONNX graph is added to `files`."""
    about, plan = network.about, network.net.plan
    file = f"models/{about.task}-{plan.arch_id}.onnx"
    if file in files:
        raise DataError(
            f"two of the networks for {about.task} have the arch {plan.arch_id}; keep one of them"
        )
    files[file] = onnx_graph.build(
        plan,
        network.net.numpy_weights(),
        image_input=True,
        batch=None,
        normalisation=about.preprocessing.normalisation,
    ).SerializeToString()
    return Model(
        arch_id=plan.arch_id,
        arch=about.arch,
        file=file,
        sha256="",  # write_bundle fills it in
        input_hw=plan.input_hw,
        accuracies=about.accuracies,
        cost=Cost(plan.macs, plan.macs_bn, plan.params),
        latency=(),
        anchors=plan.anchors if isinstance(plan, SSDLitePlan) else None,
    )
