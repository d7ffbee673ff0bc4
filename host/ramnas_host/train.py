"""Train the supernet: sandwich rule, subnets mutual distillation, DKD (START HERE for training).

Alone or as one of many processes under torchrun.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ramnas_host import loader, optimizer, resume, sandwich
from ramnas_host.augment import Augmentation
from ramnas_host.config import Recipe
from ramnas_host.data import Dataset
from ramnas_host.distributed import Ranks
from ramnas_host.evaluate import Scores
from ramnas_host.run_folder import RunFolder
from ramnas_models.errors import DataError
from ramnas_models.space import Arch, Space
from ramnas_models.supernet import Drop, Supernet

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """What one optimizer step did.

    `losses` of max, the two random subnets and min; `scores` of min and max on the validation
    images, where this step ended with an evaluation.
    """

    number: int
    of: int
    epoch: int
    losses: tuple[float, ...]
    images_per_s: float
    scores: tuple[Scores, Scores] | None = None


def train(
    space: Space,
    dataset: Dataset,
    recipe: Recipe,
    *,
    folder: Path | None = None,
    ranks: Ranks = Ranks(),
    workers: int = 0,
    on_step: Callable[[Step], None] = lambda step: None,
) -> Supernet:
    """Train a supernet of `space`. DataError if the loss stops being finite.

    With `folder` the results are kept there (`run_folder.py`); where a state is there already,
    training goes on from it and ends in the same weights, to the last bit on a CPU. Without,
    nothing is kept or evaluated. `workers`: processes that decode images, beside this one.
    """
    torch.manual_seed(recipe.seed)  # the same first weights on every rank
    net = Supernet(space, len(dataset.classes)).to(ranks.device).train()
    if recipe.sync_batchnorm and ranks.world > 1:
        net.synchronise_batchnorm()
    forward = _compiled(net) if recipe.compile else net
    sgd = optimizer.sgd(net, recipe)
    scaler = torch.amp.GradScaler(ranks.device.type) if recipe.precision == "fp16" else None
    state = resume.State(net, sgd, scaler)
    kept = RunFolder(folder, net, state, dataset, recipe, ranks) if folder else None
    first = kept.start() if kept else 0

    how = dataset.train.preprocessing
    augmentation = Augmentation(recipe.augment, how.normalisation)
    per_epoch = loader.steps_per_epoch(dataset.train, recipe)
    steps = recipe.epochs * per_epoch
    broken: set[str] = set()
    drawn = loader.batches(
        dataset.train, recipe, first, steps, rank=ranks.rank, world=ranks.world,
        workers=workers, pin=ranks.device.type == "cuda",
    )  # fmt: skip
    since = time.monotonic()
    for step, batch in enumerate(drawn, start=first):
        broken = _count_broken(broken, batch.broken, ranks, recipe)
        archs = sandwich.draw(space, net, np.random.default_rng((recipe.seed, step)))
        seed = np.random.SeedSequence((recipe.seed, step, ranks.rank)).generate_state(1)
        torch.manual_seed(int(seed[0]))  # of augmentation, dropout and drop-connect
        x = augmentation(batch.pixels.to(ranks.device, non_blocking=True))
        images = sandwich.at_any_resolution(x, how.interpolation)
        labels = batch.labels.to(ranks.device, non_blocking=True)
        sgd.zero_grad()
        losses = ranks.mean(sandwich.step(forward, archs, images, labels, recipe, scaler))
        _check_finite(losses, step, archs, kept)
        ranks.average_gradients(net.parameters())
        lr = recipe.lr * optimizer.rate(step, steps, recipe.warm_up_epochs * per_epoch)
        optimizer.update(sgd, net, recipe, lr, scaler)

        done, epoch, values = step + 1, step // per_epoch + 1, tuple(losses.tolist())
        now = time.monotonic()
        images_per_s = recipe.batch_size / (now - since)
        scores = kept.after(done) if kept else None
        since = time.monotonic() if scores else now
        if kept:
            kept.write(done, epoch, lr, images_per_s, values, scores)
        on_step(Step(done, steps, epoch, values, images_per_s, scores))
    if kept:
        kept.finish()
    return net


def _compiled(net: Supernet) -> sandwich.Forward:
    """The max and the min net, which every step runs, each compiled; random subnets as they are.

    A subnet that comes once is not worth the minutes that compiling it takes.
    """
    fixed = {
        # their shapes never change; treated as symbols they would only be harder to compile
        arch: torch.compile(
            lambda x, drop, plan=net.plan(arch): net.run(x, plan, drop), dynamic=False
        )
        for arch in (net.space.max(), net.space.min())
    }

    def forward(x: Tensor, arch: Arch, drop: Drop | None = None) -> Tensor:
        logits: Tensor = fixed[arch](x, drop) if arch in fixed else net(x, arch, drop)
        return logits

    return forward


def _count_broken(known: set[str], new: tuple[str, ...], ranks: Ranks, recipe: Recipe) -> set[str]:
    """Name each broken file once; DataError when there are more than the recipe bears."""
    if not float(ranks.mean(torch.tensor(float(len(new)), device=ranks.device))):
        return known
    found = {name for names in ranks.gather(new) for name in names} - known
    for count, name in enumerate(sorted(found), start=len(known) + 1):
        log.warning("broken image %d: %s; another one takes its place", count, name)
    known = known | found
    if len(known) > recipe.max_broken:
        raise DataError(
            f"{len(known)} broken images, more than max_broken {recipe.max_broken}, such as "
            f"{min(known)}; repair or remove them, or raise max_broken"
        )
    return known


def _check_finite(losses: Tensor, step: int, archs: list[Arch], kept: RunFolder | None) -> None:
    values = losses.tolist()
    if all(map(math.isfinite, values)):
        return
    raise DataError(
        f"step {step}: the losses of {', '.join(sandwich.ROLES)} are {values} for archs "
        f"{[arch.id for arch in archs]}; try a lower optimizer.lr or a smaller clip_norm; "
        f"{kept.last_good if kept else 'nothing was saved before'}"
    )
