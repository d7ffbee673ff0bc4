"""One network, cut out of the supernet, trained for a task (Table II; Fig. 5 for classification).

It learns by the loop that trains supernets, so it is stopped, resumed and shared in the same way.
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
from ramnas_host.training import loop, optimizer, resume
from ramnas_host.training.distributed import Ranks
from ramnas_host.training.loop import Step
from ramnas_host.training.run_folder import Kept, RunFolder
from ramnas_host.training.sandwich import autocast
from ramnas_models.supernet import Standalone

LAST = "last.safetensors"


@dataclass(frozen=True)
class Task:
    """A network, what it learns from and how good it is.

    `loss` of a batch: normalised images [n, 3, h, w] and what `draw` gave beside them.
    `calibration`: images that BatchNorm takes its statistics from before an evaluation. `evaluate`
    scores the network on `val` or `test`, each rank its part of the images; the first of `scores`
    is what the best weights have the most of.
    """

    net: Standalone
    train: ImageSource
    draw: Draw
    augmentation: Augmentation
    loss: Callable[[Tensor, tuple[Tensor, ...]], Tensor]
    calibration: Callable[[], Iterable[Tensor]]
    evaluate: Callable[[str, Ranks], dict[str, float]]
    scores: tuple[str, ...]


@dataclass(frozen=True)
class Record:
    """Where a run is kept and what it is of: `identity` must be the same to go on, `resolved` is
    written to run.yaml, `save` writes the network."""

    folder: Path
    identity: str
    resolved: Mapping[str, object]
    save: Callable[[Path], None]


def finetune(
    task: Task,
    recipe: Schedule,
    *,
    record: Record | None = None,
    ranks: Ranks = Ranks(),
    workers: int = 0,
    on_step: Callable[[Step], None] = lambda step: None,
) -> None:
    """Train the network of `task` itself; it ends in eval mode, BatchNorm recalibrated.

    With `record` the results are kept in its folder and training goes on from a state that is
    there, to the same weights, bit for bit on a CPU. DataError if the loss stops being
    finite. `workers`: processes that make examples, beside this one.
    """
    net = task.net.to(ranks.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    if recipe.sync_batchnorm and ranks.world > 1:
        net.synchronise_batchnorm()
    scaler = torch.amp.GradScaler(ranks.device.type) if recipe.precision == "fp16" else None
    state = resume.State(net, optimizer.sgd(net, recipe), scaler)
    per_epoch = loader.steps_per_epoch(task.train, recipe)

    def gradients(step: int, batch: Batch) -> Tensor:
        images = task.augmentation(batch.pixels.to(ranks.device, non_blocking=True))
        targets = tuple(t.to(ranks.device, non_blocking=True) for t in batch.targets)
        with autocast(recipe.precision, ranks.device.type):
            loss = task.loss(images, targets)
        scaled: Tensor = loss if scaler is None else scaler.scale(loss)
        scaled.backward()  # type: ignore[no-untyped-call]
        return loss.detach()[None]

    def drawn(first: int) -> Iterator[Batch]:
        return loader.drawn_batches(
            task.train, task.draw, recipe, first, recipe.epochs * per_epoch, rank=ranks.rank,
            world=ranks.world, workers=workers, pin=ranks.device.type == "cuda",
        )  # fmt: skip

    def recalibrate() -> None:
        net.recalibrate(images.to(ranks.device) for images in task.calibration())

    def evaluate() -> dict[str, float]:
        recalibrate()
        scores = task.evaluate("val", ranks)
        net.train()
        return scores

    kept = None
    if record:
        kept = RunFolder(record.folder, state, Kept(
            recipe=recipe, per_epoch=per_epoch, identity=resume.identity(record.identity, recipe),
            last=LAST, columns=("loss", *task.scores), resolved=record.resolved, evaluate=evaluate,
            goodness=lambda scores: scores[task.scores[0]], save=record.save,
        ), ranks)  # fmt: skip
    loop.run(
        state, recipe, gradients, drawn, per_epoch, kept=kept, ranks=ranks,
        who=lambda step: "the network", on_step=on_step,
    )  # fmt: skip
    recalibrate()
