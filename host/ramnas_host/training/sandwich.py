"""The networks and gradients of a training step: sandwich rule and subnets mutual distillation."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ramnas_host.config import Recipe
from ramnas_host.training import distill
from ramnas_models.space import Arch, Space
from ramnas_models.supernet import DropRates, Supernet

Images = Callable[[int], Tensor]  # resolution -> images [n, 3, r, r]
Forward = Callable[[Tensor, Arch, "DropRates | None"], Tensor]  # -> logits [n, classes]
ROLES = ("max", "random1", "random2", "min")


def draw(space: Space, net: Supernet, rng: np.random.Generator) -> list[Arch]:
    """Max, two random subnets from large to small, and min (the sandwich rule)."""
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
    """Add up the gradients of a step (Eq. 3, 4). Returns the loss of each arch, [archs].

    The first arch, max, learns from the labels; each later one from the detached predictions of its
    teachers. Each arch has one forward and one backward pass, and its backward frees its graph, so
    memory peaks at the largest network. On a GPU nothing in here waits for a result, so the host
    runs ahead of the device.
    """
    taught: list[distill.Prediction] = []  # what each network predicts, for those it teaches
    losses: list[Tensor] = []
    rule = recipe.distillation
    for student, arch in enumerate(archs):
        with autocast(recipe.precision, labels.device.type):
            x = images(arch.resolution)
            if student == 0:
                out = forward(x, arch, DropRates(recipe.dropout, recipe.drop_connect))
                loss = F.cross_entropy(out, labels, label_smoothing=recipe.label_smoothing)
                prediction = distill.predict(out.detach(), labels, rule)
            else:
                prediction = distill.predict(forward(x, arch, None), labels, rule)
                loss = torch.stack([
                    weight * distill.pair_loss(prediction, taught[teacher], rule)
                    for teacher, weight in distill.teachers(student, len(archs), rule.smd_weighting)
                ]).sum()  # fmt: skip
        scaled: Tensor = loss if scaler is None else scaler.scale(loss)
        scaled.backward()  # type: ignore[no-untyped-call]
        taught.append(tuple(part.detach() for part in prediction))
        losses.append(loss.detach())
    return torch.stack(losses)


def at_any_resolution(x: Tensor, interpolation: str) -> Images:
    """A function from a resolution to the images x, [n, 3, h, w], resized to it.

    Each resolution is made once. As in the public AttentiveNAS code, there is no antialiasing and
    corners are not aligned.
    """
    resized = {x.shape[2]: x}

    def images(resolution: int) -> Tensor:
        if resolution not in resized:
            size, mode = (resolution, resolution), interpolation
            resized[resolution] = F.interpolate(x, size, mode=mode, align_corners=False)
        return resized[resolution]

    return images


def autocast(precision: str, device: str) -> torch.autocast | nullcontext[None]:
    """A context that computes in half precision if `precision` is bf16 or fp16."""
    if precision in ("fp32", "tf32"):
        return nullcontext()
    return torch.autocast(device, torch.bfloat16 if precision == "bf16" else torch.float16)
