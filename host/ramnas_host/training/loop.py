"""The loop of every training: batches in, one optimizer step each, results kept on the way."""

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

Gradients = Callable[[int, Batch], Tensor]  # step, batch -> losses [k]; their gradients added up


@dataclass(frozen=True)
class Step:
    """What one optimizer step did.

    `losses` of each network that took part; `scores` on the validation images by name, where this
    step ended with an evaluation.
    """

    number: int
    of: int
    epoch: int
    losses: tuple[float, ...]
    images_per_s: float
    scores: dict[str, float] | None = None


def run(
    state: State, recipe: Schedule, gradients: Gradients, drawn: Callable[[int], Iterator[Batch]],
    per_epoch: int, *, kept: RunFolder | None, ranks: Ranks, who: Callable[[int], str],
    on_step: Callable[[Step], None],
) -> None:  # fmt: skip
    """Train the net of `state` in place. DataError if a loss stops being finite.

    `drawn` gives the batches from a step on; `who` says whose losses those of a step are.
    """
    net, sgd, scaler = state.net, state.sgd, state.scaler
    steps = recipe.epochs * per_epoch
    first = kept.start() if kept else 0
    broken: set[str] = set()
    since = time.monotonic()
    for step, batch in enumerate(drawn(first), start=first):
        broken = _count_broken(broken, batch.broken, ranks, recipe)
        seed = np.random.SeedSequence((recipe.seed, step, ranks.rank)).generate_state(1)
        torch.manual_seed(int(seed[0]))  # of augmentation, dropout and drop-connect
        sgd.zero_grad()
        losses = ranks.mean(gradients(step, batch))
        _check_finite(losses, step, who, kept)
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


def _count_broken(
    known: set[str], new: tuple[str, ...], ranks: Ranks, recipe: Schedule
) -> set[str]:
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


def _check_finite(
    losses: Tensor, step: int, who: Callable[[int], str], kept: RunFolder | None
) -> None:
    values = losses.tolist()
    if all(map(math.isfinite, values)):
        return
    raise DataError(
        f"step {step}: the losses of {who(step)} are {values}; try a lower optimizer.lr or a "
        f"smaller clip_norm; {kept.last_good if kept else 'nothing was saved before'}"
    )
