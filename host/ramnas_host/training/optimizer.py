"""SGD as in Table II: which weights decay, and the learning rate of every step."""

from __future__ import annotations

import math

import torch
from torch import nn

from ramnas_host.config import Schedule


def sgd(net: nn.Module, recipe: Schedule) -> torch.optim.SGD:
    """SGD with Nesterov momentum for the weights of `net`.

    Biases and BatchNorm, which are the tensors of one dimension, do not decay (BigNAS). Frozen
    weights, which require no gradient, are left out.
    """
    tensors = [parameter for parameter in net.parameters() if parameter.requires_grad]
    settings = recipe.optimizer
    return torch.optim.SGD(
        [
            {"params": [p for p in tensors if p.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in tensors if p.ndim == 1], "weight_decay": 0.0},
        ],
        lr=recipe.lr,
        momentum=settings.momentum,
        nesterov=settings.momentum > 0,
    )


def update(
    optimizer: torch.optim.SGD,
    net: nn.Module,
    recipe: Schedule,
    lr: float,
    scaler: torch.amp.GradScaler | None = None,
) -> None:
    """Take a step at learning rate `lr` with the current gradients, clipped if the recipe says so.

    `scaler` is the one that scaled the loss, for fp16. It waits for the GPU, as it takes no step if
    a gradient is infinite.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr
    if scaler is not None:
        scaler.unscale_(optimizer)
    if recipe.optimizer.clip_value is not None:
        nn.utils.clip_grad_value_(net.parameters(), recipe.optimizer.clip_value)
    if recipe.optimizer.clip_norm is not None:
        nn.utils.clip_grad_norm_(net.parameters(), recipe.optimizer.clip_norm)
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()


def rate(step: int, steps: int, warm_up: int) -> float:
    """A step's share of the peak learning rate: linear warm-up times cosine (Table II)."""
    return min(1.0, (step + 1) / max(1, warm_up)) * 0.5 * (1 + math.cos(math.pi * step / steps))
