"""Fine-tuned networks -> the bundle that a robot runs, one front a task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ramnas_host.finetuning import saved_network
from ramnas_host.finetuning.prepare import FINETUNED
from ramnas_host.finetuning.saved_network import Finetuned
from ramnas_models import onnx_graph
from ramnas_models.bundle import FORMAT, Bundle, Cost, Manifest, Model, TaskFront, write_bundle
from ramnas_models.errors import DataError
from ramnas_models.head_plan import SSDLitePlan


def write(path: Path, runs: Sequence[Path]) -> Bundle:
    """Bundle what the folders of `ramnas finetune` hold, whole or not at all.

    Networks of one task make its front, fast to slow by MACs. DataError if a run is not over, or if
    the networks do not belong together: one space, and in a task the same classes, the same
    preprocessing and no arch twice.
    """
    found = [_load(run) for run in runs]
    spaces = {one.space.hash: one.space for one in found}
    if len(spaces) > 1:
        names = ", ".join(space.name for space in spaces.values())
        raise DataError(f"a bundle is of one space, these networks are of {names}")
    files: dict[str, bytes] = {}
    fronts = []
    for task in dict.fromkeys(one.about.task for one in found):
        nets = [one for one in found if one.about.task == task]
        shared = {(one.about.classes, one.about.preprocessing) for one in nets}
        if len(shared) > 1:
            raise DataError(f"the networks for {task} differ in classes or preprocessing")
        models = [_model(one, files) for one in nets]
        models.sort(key=lambda model: model.cost.macs)
        ((classes, preprocessing),) = shared
        fronts.append(TaskFront(task, classes, preprocessing, tuple(models)))
    licence, source = (
        "; ".join(dict.fromkeys(getattr(one.about, name) for one in found))
        for name in ("licence", "source")
    )
    space = next(iter(spaces.values()))
    return write_bundle(path, Manifest(FORMAT, space, licence, source, tuple(fronts)), files)


def _load(run: Path) -> Finetuned:
    file = run / FINETUNED if run.is_dir() else run
    if run.is_dir() and not file.exists():
        raise DataError(f"{run} has no {FINETUNED}: ramnas finetune writes it when all is over")
    return saved_network.load(file)


def _model(found: Finetuned, files: dict[str, bytes]) -> Model:
    """The entry of one network; its graph is added to `files`."""
    about, plan = found.about, found.net.plan
    file = f"models/{about.task}-{plan.arch_id}.onnx"
    if file in files:
        raise DataError(f"arch {plan.arch_id} is there twice for {about.task}")
    files[file] = onnx_graph.build(
        plan,
        found.net.numpy_weights(),
        image_input=True,
        batch=None,
        normalisation=about.preprocessing.normalisation,
    ).SerializeToString()
    return Model(
        arch_id=plan.arch_id,
        arch=about.arch,
        file=file,
        sha256="",  # write_bundle sets it
        input_hw=plan.input_hw,
        accuracies=about.accuracies,
        cost=Cost(plan.macs, plan.macs_bn, plan.params),
        latency=(),
        anchors=plan.anchors if isinstance(plan, SSDLitePlan) else None,
    )
