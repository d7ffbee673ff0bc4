"""Train the supernet: sandwich rule, subnets mutual distillation, DKD."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ramnas_host import distill, resume
from ramnas_host.config import Recipe
from ramnas_host.data import Dataset, Split
from ramnas_models.errors import DataError
from ramnas_models.space import Arch, Space
from ramnas_models.supernet import Supernet

Batch = Callable[[int], Tensor]  # resolution -> images [n, 3, r, r]


@dataclass(frozen=True)
class Step:
    """What one optimizer step did; `losses` of max, the two random subnets and min."""

    number: int
    of: int
    losses: tuple[float, ...]


def train(
    space: Space,
    dataset: Dataset,
    recipe: Recipe,
    *,
    partial: Path | None = None,
    save_every: int = 50,
    on_step: Callable[[Step], None] = lambda step: None,
) -> Supernet:
    """Train a supernet of `space`. DataError if the loss stops being finite.

    With `partial` the state is kept in that file every `save_every` steps; where it is there
    already, training goes on from it and ends in the same weights, to the last bit on a CPU.
    """
    torch.manual_seed(recipe.seed)
    net = Supernet(space, len(dataset.classes)).train()
    optimizer = _optimizer(net, recipe)
    steps = count_steps(dataset, recipe)
    per_epoch = steps // recipe.epochs
    what = f"{space.hash} {msgspec.json.encode(recipe).decode()}"
    first = resume.load(partial, net, optimizer, what) if partial and partial.exists() else 0
    for step in range(first, steps):
        # drawn from the seed and the step alone: a resumed run, or another rank, draws the same
        rng = np.random.default_rng((recipe.seed, step))
        if step == first or step % per_epoch == 0:
            of_epoch = np.random.default_rng((recipe.seed, step // per_epoch, 1))
            order = of_epoch.permutation(len(dataset.train))
        chosen = order[step % per_epoch * recipe.batch_size :][: recipe.batch_size]
        batch, labels = _draw(dataset.train, chosen, recipe.shift, rng)
        archs = sandwich(space, net, rng)
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * schedule(step, steps, recipe.warm_up_epochs * per_epoch)
        optimizer.zero_grad()
        losses = sandwich_step(net, archs, batch, labels, recipe)
        if not all(map(math.isfinite, losses)):
            kept = f"; {partial} holds an earlier state" if partial and partial.exists() else ""
            raise DataError(
                f"step {step}: the loss is {losses} for archs {[a.id for a in archs]}; "
                f"try a lower lr or clip_norm{kept}"
            )
        nn.utils.clip_grad_norm_(net.parameters(), recipe.clip_norm)
        optimizer.step()
        if partial and (step + 1) % save_every == 0 and step + 1 < steps:
            resume.save(partial, net, optimizer, step + 1, what)
        on_step(Step(step + 1, steps, losses))
    return net


def schedule(step: int, steps: int, warm_up: int) -> float:
    """Share of the peak learning rate: linear warm-up times cosine (Table II)."""
    return min(1.0, (step + 1) / max(1, warm_up)) * 0.5 * (1 + math.cos(math.pi * step / steps))


def count_steps(dataset: Dataset, recipe: Recipe) -> int:
    """Optimizer steps of the whole recipe; a last, smaller batch of an epoch is left out."""
    if len(dataset.train) < recipe.batch_size:
        raise DataError(
            f"batch_size {recipe.batch_size} is more than the {len(dataset.train)} training "
            f"images of {dataset.name}"
        )
    return recipe.epochs * (len(dataset.train) // recipe.batch_size)


def sandwich(space: Space, net: Supernet, rng: np.random.Generator) -> list[Arch]:
    """Max, two random subnets from large to small, min (the sandwich rule)."""
    middle = [space.sample(rng), space.sample(rng)]
    middle.sort(key=lambda arch: net.plan(arch).macs, reverse=True)
    return [space.max(), *middle, space.min()]


def sandwich_step(
    net: Supernet, archs: list[Arch], batch: Batch, labels: Tensor, recipe: Recipe
) -> tuple[float, ...]:
    """Add up the gradients of one step (Eq. 3, 4); the loss of each arch.

    The first arch learns from the labels, each later one from the detached logits of its teachers.
    Every graph is freed by its own backward, so memory peaks at the largest network.
    """
    logits: list[Tensor] = []
    losses: list[Tensor] = []
    for student, arch in enumerate(archs):
        out = net(batch(arch.resolution), arch)
        if student == 0:
            loss = F.cross_entropy(out, labels, label_smoothing=recipe.label_smoothing)
        else:
            pairs = distill.teachers(student, len(archs), recipe.smd_weighting)
            loss = sum(
                (
                    weight * _pair_loss(out, logits[teacher], labels, recipe)
                    for teacher, weight in pairs
                ),
                start=torch.zeros(()),
            )
        loss.backward()  # type: ignore[no-untyped-call]
        logits.append(out.detach())
        losses.append(loss.detach())
    return tuple(torch.stack(losses).tolist())


def _pair_loss(student: Tensor, teacher: Tensor, labels: Tensor, recipe: Recipe) -> Tensor:
    if recipe.pair_loss == "kl":
        return distill.kl(student, teacher, recipe.temperature)
    return distill.dkd(
        student, teacher, labels,
        alpha=recipe.alpha, beta=recipe.beta, temperature=recipe.temperature,
    )  # fmt: skip


def _optimizer(net: Supernet, recipe: Recipe) -> torch.optim.SGD:
    """SGD; biases and BatchNorm, the tensors of one dimension, do not decay (BigNAS)."""
    tensors = list(net.parameters())
    return torch.optim.SGD(
        [
            {"params": [p for p in tensors if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in tensors if p.ndim == 1], "weight_decay": 0.0},
        ],
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=True,
    )


def _draw(
    split: Split, index: np.ndarray, shift: float, rng: np.random.Generator
) -> tuple[Batch, Tensor]:
    """The same images, moved by the same random amount, at any resolution; and their labels."""
    dy, dx = rng.uniform(-shift, shift, 2)
    chosen = torch.from_numpy(index)

    def batch(resolution: int) -> Tensor:
        moved = (round(dy * resolution), round(dx * resolution))
        return torch.roll(split.at(resolution)[chosen], moved, dims=(2, 3))

    return batch, split.labels[chosen]
