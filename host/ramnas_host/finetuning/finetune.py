"""Trains one network on the images of its task (Table II; Fig. 5 for classification).

It uses the loop that trains supernets, so a run can be stopped, resumed and spread over several
processes in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ramnas_host.config import Schedule
from ramnas_host.data import loader
from ramnas_host.data.augment import Augmentation
from ramnas_host.data.loader import Batch, Draw, ImageSource
from ramnas_host.training import loop, resume
from ramnas_host.training.distributed import Ranks
from ramnas_host.training.evaluate import full_precision
from ramnas_host.training.loop import Step
from ramnas_host.training.run_folder import FolderContents, RunFolder
from ramnas_host.training.sandwich import autocast
from ramnas_models.accuracy import Accuracy
from ramnas_models.supernet import Standalone

LAST = "last.safetensors"
# how the columns of the metrics begin that hold scores, and the number of images behind them
_PREFIX = "selection_"
_N = f"{_PREFIX}n"


@dataclass(frozen=True)
class Evaluation:
    """What a network reaches on a split.

    `accuracies` are over all classes. `by_class` has the same metrics of single classes, such as
    the AP of COCO or the IoU; a class that no picture of the split has is missing. `n` of a class
    is the number of pictures that have it.
    """

    accuracies: tuple[Accuracy, ...]
    by_class: Mapping[str, tuple[Accuracy, ...]]


@dataclass(frozen=True)
class Task:
    """A network, the examples it learns from, its loss and its evaluation.

    `draw` makes one training example: an image and its targets. `loss` takes a batch of normalised
    images [n, 3, h, w] and their targets. `calibration` gives the batches of images from which the
    BatchNorm statistics are computed before an evaluation. `evaluate` scores the network on the
    split `selection` or `report`, with the images shared between the ranks. On `report` every
    accuracy has an interval. `scores` names the metrics over all classes that `evaluate` returns,
    in order; the weights with the highest first score on `selection` are the best ones.
    """

    net: Standalone
    train: ImageSource
    draw: Draw
    augmentation: Augmentation
    loss: Callable[[Tensor, tuple[Tensor, ...]], Tensor]
    calibration: Callable[[], Iterable[Tensor]]
    evaluate: Callable[[str, Ranks], Evaluation]
    scores: tuple[str, ...]


@dataclass(frozen=True)
class KeptRun:
    """Where a run keeps its results, and what it needs to be resumed.

    A stopped run is resumed only if its `identity` is the same. `resolved` is written to run.yaml,
    and `save` writes the network to a file.
    """

    folder: Path
    identity: str
    resolved: Mapping[str, object]
    save: Callable[[Path], None]


def finetune(
    task: Task,
    recipe: Schedule,
    *,
    kept_run: KeptRun | None = None,
    ranks: Ranks = Ranks(),
    workers: int = 0,
    on_step: Callable[[Step], None] = lambda step: None,
) -> None:
    """Train the network of `task` in place; it ends in eval mode with BatchNorm recalibrated.

    With `kept_run`, the results are written to its folder, and a training that was stopped there is
    resumed. It then ends with the weights of an uninterrupted run, bit for bit on a CPU. `workers`
    is the number of extra processes that make examples. DataError if the loss is no longer finite.
    """
    net = task.net.to(ranks.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    if recipe.sync_batchnorm and ranks.world > 1:
        net.synchronise_batchnorm()
    state = resume.new_state(net, recipe)
    per_epoch = loader.steps_per_epoch(task.train, recipe)

    def gradients(step: int, batch: Batch) -> Tensor:
        images = task.augmentation(batch.pixels.to(ranks.device, non_blocking=True))
        targets = tuple(t.to(ranks.device, non_blocking=True) for t in batch.targets)
        with autocast(recipe.precision, ranks.device.type):
            loss = task.loss(images, targets)
        scaled: Tensor = loss if state.scaler is None else state.scaler.scale(loss)
        scaled.backward()  # type: ignore[no-untyped-call]
        return loss.detach()[None]

    def batches(first_step: int) -> Iterator[Batch]:
        return loader.drawn_batches(
            task.train, task.draw, recipe, first_step, recipe.epochs * per_epoch, rank=ranks.rank,
            world=ranks.world, workers=workers, pin=ranks.device.type == "cuda",
        )  # fmt: skip

    def recalibrate() -> None:
        with full_precision(ranks.device):
            net.recalibrate(images.to(ranks.device) for images in task.calibration())

    def evaluate() -> dict[str, float]:
        recalibrate()
        accuracies = task.evaluate("selection", ranks).accuracies
        net.train()
        scores = {_PREFIX + accuracy.metric: accuracy.value for accuracy in accuracies}
        return {**scores, _N: accuracies[0].n or 0}

    columns = ("loss", *(_PREFIX + metric for metric in task.scores), _N)
    folder = None
    if kept_run:
        identity = resume.identity(kept_run.identity, recipe)
        folder = RunFolder(kept_run.folder, state, FolderContents(
            recipe=recipe, per_epoch=per_epoch, identity=identity, last=LAST,
            columns=columns, resolved=kept_run.resolved, evaluate=evaluate,
            goodness=lambda scores: scores[_PREFIX + task.scores[0]], save=kept_run.save,
        ), ranks)  # fmt: skip
    loop.run(
        state, recipe, gradients, batches, per_epoch, folder=folder, ranks=ranks,
        networks=lambda step: "the network", on_step=on_step,
    )  # fmt: skip
    recalibrate()


def scores_text(scores: Mapping[str, float]) -> str:
    """The scores of a step for people: `selection split, n 100: mAP50-95 40.3 %, mAP50 61.2 %`."""
    found = [
        f"{name.removeprefix(_PREFIX)} {100 * value:.1f} %"
        for name, value in scores.items()
        if name != _N
    ]
    return f"selection split, n {scores[_N]:.0f}: {', '.join(found)}"
