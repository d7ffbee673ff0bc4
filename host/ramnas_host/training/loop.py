"""The loop of every training: an optimizer step for each batch, and results saved on the way."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ramnas_host.config import Schedule
from ramnas_host.data.loader import Batch
from ramnas_host.data.worker_processes import lack_of_means
from ramnas_host.training import cuda, optimizer
from ramnas_host.training.distributed import Ranks
from ramnas_host.training.resume import State
from ramnas_host.training.run_folder import RunFolder
from ramnas_models import signals
from ramnas_models.errors import DataError

log = logging.getLogger(__name__)

# (step, batch) -> losses [k], each the mean over the batch; adds their gradients to the parameters
Gradients = Callable[[int, Batch], Tensor]


@dataclass(frozen=True)
class Step:
    """What an optimizer step did.

    `number` counts from 1 to `total`. `losses` has the loss of each network of the step. `wait_s`
    says for how many seconds the step waited for its images, and `wait_share` what share of the
    step that was. `scores` are those on the selection images, by name, if an evaluation followed.
    """

    number: int
    total: int
    epoch: int
    losses: tuple[float, ...]
    images_per_s: float
    wait_s: float
    wait_share: float
    scores: dict[str, float] | None = None


@lack_of_means()
def run(
    state: State, recipe: Schedule, gradients: Gradients,
    batches_from: Callable[[int], Iterator[Batch]], per_epoch: int, *, folder: RunFolder | None,
    ranks: Ranks, networks: Callable[[int], str], on_step: Callable[[Step], None],
) -> None:  # fmt: skip
    """Train the net of `state` in place. DataError if a loss stops being finite.

    `batches_from` gives the batches from a step to the end, `recipe.accumulate` for each step.
    `per_epoch` is the number of steps in an epoch. `networks` names the networks of a step, in the
    order of their losses, for that error. With `ema` the net ends with the average of the weights.
    A signal to end, such as Ctrl-C, is obeyed after the current step, whose state is then saved.
    """
    cuda.set_up(ranks.device, recipe.precision)
    net, sgd = state.net, state.sgd
    steps = recipe.epochs * per_epoch
    first = folder.start() if folder else 0
    batches = batches_from(first)
    broken: dict[str, str] = {}
    since = time.monotonic()
    for step in _whole_steps(range(first, steps), folder):
        sgd.zero_grad()
        parts: list[Tensor] = []
        new: dict[str, str] = {}
        wait_s = 0.0
        for part in range(recipe.accumulate):
            start = time.monotonic()
            batch = next(batches)
            wait_s += time.monotonic() - start
            new.update(batch.broken)
            _seed(recipe, step, ranks, part)
            parts.append(gradients(step, batch))
        _divide_gradients(net, recipe.accumulate)
        ranks.average_gradients(net.parameters())
        lr = recipe.lr * optimizer.rate(step, steps, recipe.warm_up_epochs * per_epoch)
        optimizer.update(sgd, net, recipe, lr, state.scaler)
        if state.average:
            state.average.update(step + 1)

        # only here the host waits for the GPU, which has all the work of the step by now
        losses, anything_broken = _exchange(torch.stack(parts).mean(0), len(new), ranks)
        _check_finite(losses, step, networks, folder)
        if anything_broken:
            broken = _count_broken(broken, new, ranks, recipe)
        done, epoch, now = step + 1, step // per_epoch + 1, time.monotonic()
        images_per_s, wait_share = recipe.batch_size / (now - since), wait_s / (now - since)
        scores = folder.record(done, epoch, lr, images_per_s, wait_s, losses) if folder else None
        since = time.monotonic() if scores else now  # the time of an evaluation does not count
        on_step(Step(done, steps, epoch, losses, images_per_s, wait_s, wait_share, scores))
    if state.average:
        state.average.swap()
    if folder:
        folder.finish()


def _whole_steps(steps: range, folder: RunFolder | None) -> Iterator[int]:
    """Each of `steps`. A signal that comes during one ends the training after it, and saves it."""
    for step in steps:
        try:
            # until the body of the loop asks for the next step
            with signals.whole("ending after this step"):
                yield step
        except KeyboardInterrupt:
            if folder:
                folder.stop(step + 1)
            raise


def _seed(recipe: Schedule, step: int, ranks: Ranks, part: int) -> None:
    """Seed torch for the augmentation, dropout and drop-connect of one part of a step."""
    key = (recipe.seed, step, ranks.rank, part)
    torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))


def _divide_gradients(net: nn.Module, parts: int) -> None:
    """Turn the sum of the gradients of equal parts into the gradient of the mean loss."""
    if parts > 1:
        for parameter in net.parameters():
            if parameter.grad is not None:
                parameter.grad /= parts


def _exchange(losses: Tensor, broken: int, ranks: Ranks) -> tuple[tuple[float, ...], bool]:
    """The losses averaged over the ranks, and whether any rank met a broken image.

    Both take one exchange, as each would make every rank wait.
    """
    both = torch.cat([losses, losses.new_full((1,), float(broken))])
    *values, share = ranks.mean(both).tolist()
    return tuple(values), share > 0


def _count_broken(
    known: dict[str, str], new: dict[str, str], ranks: Ranks, recipe: Schedule
) -> dict[str, str]:
    """Log each broken file once and return all known ones; DataError above `max_broken`.

    Both are names with the reasons.
    """
    found = {name: why for part in ranks.gather(new) for name, why in part.items()}
    unseen = sorted(found.keys() - known.keys())
    for count, name in enumerate(unseen, start=len(known) + 1):
        log.warning("broken image %d: %s; another image takes its place", count, found[name])
    known = {**found, **known}
    if len(known) > recipe.max_broken:
        raise DataError(
            f"more broken images than max_broken {recipe.max_broken} allows: {len(known)}, such as "
            f"{known[min(known)]}; repair or remove them (`ramnas data check DIR` lists them), or "
            "raise max_broken"
        )
    return known


def _check_finite(
    losses: tuple[float, ...], step: int, networks: Callable[[int], str], folder: RunFolder | None
) -> None:
    if all(map(math.isfinite, losses)):
        return
    raise DataError(
        f"step {step}: the losses of {networks(step)} are {list(losses)}. Try a lower --lr "
        f"or a smaller clip_norm; {folder.last_good if folder else 'nothing was saved before'}"
    )
