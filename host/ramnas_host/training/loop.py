"""The loop of every training: an optimizer step for each batch, and results saved on the way."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ramnas_host.config import Schedule
from ramnas_host.data.loader import Batch
from ramnas_host.training import optimizer
from ramnas_host.training.distributed import Ranks
from ramnas_host.training.resume import State
from ramnas_host.training.run_folder import RunFolder
from ramnas_models.errors import DataError

log = logging.getLogger(__name__)

# (step, batch) -> losses [k]; adds the gradients of all of them to the parameters
Gradients = Callable[[int, Batch], Tensor]


@dataclass(frozen=True)
class Step:
    """What an optimizer step did.

    `number` counts from 1 to `total`. `losses` has the loss of each network of the step. `scores`
    are those on the validation images, by name, if an evaluation followed the step.
    """

    number: int
    total: int
    epoch: int
    losses: tuple[float, ...]
    images_per_s: float
    scores: dict[str, float] | None = None


def run(
    state: State, recipe: Schedule, gradients: Gradients,
    batches_from: Callable[[int], Iterator[Batch]], per_epoch: int, *, folder: RunFolder | None,
    ranks: Ranks, networks: Callable[[int], str], on_step: Callable[[Step], None],
) -> None:  # fmt: skip
    """Train the net of `state` in place. DataError if a loss stops being finite.

    `batches_from` gives the batches from a step to the end, and `per_epoch` is their number in an
    epoch. `networks` names the networks of a step, in the order of their losses, for that error.
    """
    net, sgd, scaler = state.net, state.sgd, state.scaler
    steps = recipe.epochs * per_epoch
    first = folder.start() if folder else 0
    broken: set[str] = set()
    since = time.monotonic()
    for step, batch in enumerate(batches_from(first), start=first):
        broken = _count_broken(broken, batch.broken, ranks, recipe)
        seed = np.random.SeedSequence((recipe.seed, step, ranks.rank)).generate_state(1)
        torch.manual_seed(int(seed[0]))  # for augmentation, dropout and drop-connect
        sgd.zero_grad()
        losses = ranks.mean(gradients(step, batch))
        _check_finite(losses, step, networks, folder)
        ranks.average_gradients(net.parameters())
        lr = recipe.lr * optimizer.rate(step, steps, recipe.warm_up_epochs * per_epoch)
        optimizer.update(sgd, net, recipe, lr, scaler)

        done, epoch, values = step + 1, step // per_epoch + 1, tuple(losses.tolist())
        now = time.monotonic()
        images_per_s = recipe.batch_size / (now - since)
        scores = folder.record(done, epoch, lr, images_per_s, values) if folder else None
        since = time.monotonic() if scores else now  # the time of an evaluation does not count
        on_step(Step(done, steps, epoch, values, images_per_s, scores))
    if folder:
        folder.finish()


def _count_broken(
    known: set[str], new: tuple[str, ...], ranks: Ranks, recipe: Schedule
) -> set[str]:
    """Log each broken file once and return all known ones; DataError above `max_broken`."""
    if not float(ranks.mean(torch.tensor(float(len(new)), device=ranks.device))):
        return known
    found = {name for names in ranks.gather(new) for name in names} - known
    for count, name in enumerate(sorted(found), start=len(known) + 1):
        log.warning("broken image %d: %s; another image takes its place", count, name)
    known = known | found
    if len(known) > recipe.max_broken:
        raise DataError(
            f"more broken images than max_broken {recipe.max_broken} allows: {len(known)}, such as "
            f"{min(known)}; repair or remove them, or raise max_broken"
        )
    return known


def _check_finite(
    losses: Tensor, step: int, networks: Callable[[int], str], folder: RunFolder | None
) -> None:
    values = losses.tolist()
    if all(map(math.isfinite, values)):
        return
    raise DataError(
        f"step {step}: the losses of {networks(step)} are {values}. Try a lower optimizer.lr or a "
        f"smaller clip_norm; {folder.last_good if folder else 'nothing was saved before'}"
    )
