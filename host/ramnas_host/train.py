"""Train the supernet: sandwich rule, subnets mutual distillation, DKD (START HERE for training).

Alone or as one of many processes under torchrun. In `folder` it keeps state.safetensors (to go on
from), best.safetensors (best mean top-1 of min and max), metrics.csv and run.yaml, and at the end
supernet.safetensors in place of the state.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor

from ramnas_host import checkpoint, loader, optimizer, resume, sandwich
from ramnas_host.augment import Augmentation
from ramnas_host.config import Recipe
from ramnas_host.data import Dataset
from ramnas_host.distributed import Ranks
from ramnas_host.evaluate import Scores, true_scores
from ramnas_host.metrics import Metrics
from ramnas_models.errors import DataError
from ramnas_models.files import make_folder, write_file
from ramnas_models.space import Arch, Space
from ramnas_models.supernet import Drop, Supernet

log = logging.getLogger(__name__)

STATE, BEST, LAST = "state.safetensors", "best.safetensors", "supernet.safetensors"


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

    With `folder` the results are kept there; where a state is there already, training goes on from
    it and ends in the same weights, to the last bit on a CPU. Without, nothing is kept or
    evaluated. `workers`: processes that decode images, beside this one.
    """
    torch.manual_seed(recipe.seed)  # the same first weights on every rank
    net = Supernet(space, len(dataset.classes)).to(ranks.device).train()
    if recipe.sync_batchnorm and ranks.world > 1:
        net.synchronise_batchnorm()
    sgd = optimizer.sgd(net, recipe)
    scaler = torch.amp.GradScaler(ranks.device.type) if recipe.precision == "fp16" else None
    forward = _compiled(net) if recipe.compile else net
    how = dataset.train.preprocessing
    augmentation = Augmentation(recipe.augment, how.normalisation)
    per_epoch = loader.steps_per_epoch(dataset.train, recipe)
    steps = recipe.epochs * per_epoch
    about = checkpoint.describe(dataset, recipe)
    what = resume.identity(space, recipe, len(dataset.train))
    place = resume.Place()
    if folder and (folder / STATE).exists():
        place = resume.load(folder / STATE, net, sgd, what, scaler)
    ranks.wait()  # until all have read it, before one writes it anew
    metrics = _start_folder(folder, space, dataset, recipe, ranks, place) if folder else None
    broken: set[str] = set()
    drawn = loader.batches(
        dataset.train, recipe, place.next_step, steps, rank=ranks.rank, world=ranks.world,
        workers=workers, pin=ranks.device.type == "cuda",
    )  # fmt: skip
    since = time.monotonic()
    for step, batch in enumerate(drawn, start=place.next_step):
        broken = _count_broken(broken, batch.broken, ranks, recipe)
        archs = sandwich.draw(space, net, np.random.default_rng((recipe.seed, step)))
        seed = np.random.SeedSequence((recipe.seed, step, ranks.rank)).generate_state(1)
        torch.manual_seed(int(seed[0]))  # of augmentation, dropout and drop-connect
        x = augmentation(batch.pixels.to(ranks.device, non_blocking=True))
        images = sandwich.at_any_resolution(x, how.interpolation)
        labels = batch.labels.to(ranks.device, non_blocking=True)
        sgd.zero_grad()
        losses = ranks.mean(sandwich.step(forward, archs, images, labels, recipe, scaler))
        _check_finite(losses, step, archs, folder, place)
        ranks.average_gradients(net.parameters())
        lr = recipe.lr * optimizer.rate(step, steps, recipe.warm_up_epochs * per_epoch)
        optimizer.update(sgd, net, recipe, lr, scaler)

        done = step + 1
        scores = None
        if folder and (done == steps or done % (per_epoch * recipe.evaluate_every) == 0):
            ends = [space.min(), space.max()]
            low, high = true_scores(net, ends, dataset, "validation", ranks=ranks)
            scores, mean = (low, high), (low.top1 + high.top1) / 2
            if mean > place.best:
                place = resume.Place(place.next_step, mean)
                if ranks.leads:
                    checkpoint.save(folder / BEST, net, about)
        if folder and done < steps and (scores or done % recipe.save_every == 0):
            place = resume.Place(done, place.best)
            if ranks.leads:
                resume.save(folder / STATE, net, sgd, place, what, scaler)
        now = time.monotonic()
        rate, since = recipe.batch_size / (now - since), now
        epoch = step // per_epoch + 1
        if metrics:
            metrics.write(done, epoch, lr, rate, tuple(losses.tolist()), scores)
        on_step(Step(done, steps, epoch, tuple(losses.tolist()), rate, scores))
    if metrics:
        metrics.close()
    if folder and ranks.leads:
        checkpoint.save(folder / LAST, net, about)
        (folder / STATE).unlink(missing_ok=True)
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


def _start_folder(
    folder: Path, space: Space, dataset: Dataset, recipe: Recipe, ranks: Ranks, place: resume.Place
) -> Metrics | None:
    """run.yaml, all that this run was told and what followed from it; and the metrics."""
    if not ranks.leads:
        return None
    make_folder(folder)
    resolved = {
        "space": msgspec.to_builtins(space),
        "recipe": msgspec.to_builtins(recipe),
        "peak_lr": recipe.lr,
        "images": {
            part: len(dataset.split(part)) for part in ("train", "calibration", "validation")
        },
        "steps": recipe.epochs * loader.steps_per_epoch(dataset.train, recipe),
        "processes": ranks.world,
        "device": str(ranks.device),
        "torch": str(torch.__version__),
    }
    write_file(folder / "run.yaml", msgspec.yaml.encode(resolved))
    return Metrics(folder, place.next_step)


def _count_broken(known: set[str], new: tuple[str, ...], ranks: Ranks, recipe: Recipe) -> set[str]:
    """Name each broken file once; DataError when there are more than the recipe bears."""
    if not float(ranks.mean(torch.tensor(float(len(new)), device=ranks.device))):
        return known
    found = {name for names in ranks.gather(new) for name in names} - known
    for name in sorted(found):
        log.warning("broken image %d: %s; another one takes its place", len(known) + 1, name)
    known = known | found
    if len(known) > recipe.max_broken:
        raise DataError(
            f"{len(known)} broken images, more than max_broken {recipe.max_broken}, such as "
            f"{min(known)}; repair or remove them, or raise max_broken"
        )
    return known


def _check_finite(
    losses: Tensor, step: int, archs: list[Arch], folder: Path | None, place: resume.Place
) -> None:
    values = losses.tolist()
    if all(map(math.isfinite, values)):
        return
    kept = "nothing was saved before"
    if folder and place.next_step:
        kept = f"the last good state, of step {place.next_step}, is {folder / STATE}"
    raise DataError(
        f"step {step}: the losses of {', '.join(sandwich.ROLES)} are {values} for archs "
        f"{[arch.id for arch in archs]}; try a lower optimizer.lr or a smaller clip_norm; {kept}"
    )
