"""One optimizer step's networks and gradients: sandwich rule, subnets mutual distillation."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ramnas_host.config import Distillation, Recipe
from ramnas_host.training import distill
from ramnas_models.space import Arch, Space
from ramnas_models.supernet import DropRates, Supernet

Images = Callable[[int], Tensor]  # resolution -> images [n, 3, r, r]
Forward = Callable[[Tensor, Arch, "DropRates | None"], Tensor]  # -> logits [n, classes]
ROLES = ("max", "random1", "random2", "min")


def draw(space: Space, net: Supernet, rng: np.random.Generator) -> list[Arch]:
    """Max, two random subnets from large to small, min (the sandwich rule)."""
    middle = [space.sample(rng), space.sample(rng)]
    middle.sort(key=lambda arch: net.plan(arch).macs, reverse=True)
    return [space.max(), *middle, space.min()]


def step(
    forward: Forward,
    archs: list[Arch],
    images: Images,
    labels: Tensor,
    recipe: Recipe,
    scaler: torch.amp.GradScaler | None = None,
) -> Tensor:
    """Add up the gradients of one step (Eq. 3, 4); the loss of each arch, [archs].

    The first arch, max, learns from the labels; each later one from the detached logits of its
    teachers. One forward and one backward each, and every graph is freed by its own backward, so
    memory peaks at the largest network.
    """
    logits: list[Tensor] = []
    losses: list[Tensor] = []
    for student, arch in enumerate(archs):
        with autocast(recipe.precision, labels.device.type):
            x = images(arch.resolution)
            if student == 0:
                out = forward(x, arch, DropRates(recipe.dropout, recipe.drop_connect))
                loss = F.cross_entropy(out, labels, label_smoothing=recipe.label_smoothing)
            else:
                out = forward(x, arch, None)
                how = recipe.distillation
                loss = torch.stack([
                    weight * pair_loss(out, logits[teacher], labels, how)
                    for teacher, weight in distill.teachers(student, len(archs), how.smd_weighting)
                ]).sum()  # fmt: skip
        scaled: Tensor = loss if scaler is None else scaler.scale(loss)
        scaled.backward()  # type: ignore[no-untyped-call]
        logits.append(out.detach())
        losses.append(loss.detach())
    return torch.stack(losses)


def pair_loss(student: Tensor, teacher: Tensor, labels: Tensor, how: Distillation) -> Tensor:
    """What one student learns from one teacher; logits [n, classes]."""
    if how.pair_loss == "kl":
        return distill.kl(student, teacher, how.temperature)
    return distill.dkd(
        student, teacher, labels, alpha=how.alpha, beta=how.beta, temperature=how.temperature
    )


def at_any_resolution(x: Tensor, interpolation: str) -> Images:
    """Images [n, 3, h, w] -> the same at any resolution, made once each.

    Without antialiasing and with the corners not aligned, as the public AttentiveNAS code does.
    """
    made = {x.shape[2]: x}

    def images(resolution: int) -> Tensor:
        if resolution not in made:
            size, mode = (resolution, resolution), interpolation
            made[resolution] = F.interpolate(x, size, mode=mode, align_corners=False)
        return made[resolution]

    return images


def autocast(precision: str, device: str) -> torch.autocast | nullcontext[None]:
    """Half precision where the recipe asks for it."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device, torch.bfloat16 if precision == "bf16" else torch.float16)
