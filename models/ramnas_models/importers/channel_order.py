"""The tensors of a published network -> the same network, with its most needed channels first.

A smaller network of a supernet takes the first channels of each block. In published weights they
lie in no order, so the first ones are no better than any others.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ramnas_models.plan import Conv, Plan

Importance = Callable[[Conv, Conv, "dict[str, Tensor]"], Tensor]


def importance(depthwise: Conv, project: Conv, tensors: dict[str, Tensor]) -> Tensor:
    """How much the output of a block varies with each of its expanded channels [c].

    It is the variance of the channel after relu6, times the sum of the squares of the weights with
    which the projection and its BatchNorm read it. BatchNorm takes up what is constant, so that
    only the variance is lost with a channel. The rule is our own. It needs no pictures: in front of
    relu6 each channel is taken to be normal, with BatchNorm's beta as its mean and gamma as its
    deviation.
    """
    bn = {part: tensors[f"{project.key}.bn.{part}"].double() for part in ("weight", "running_var")}
    scale = bn["weight"] / (bn["running_var"] + project.eps).sqrt()
    read = tensors[f"{project.key}.weight"].double().flatten(1) * scale[:, None]
    beta, gamma = (tensors[f"{depthwise.key}.bn.{part}"] for part in ("bias", "weight"))
    return _relu6_variance(beta, gamma) * read.square().sum(0)


def sort_channels(
    tensors: dict[str, Tensor], plan: Plan, rule: Importance = importance
) -> dict[str, Tensor]:
    """The same tensors with the expanded channels of each block in order, largest `rule` first.

    The network of `plan` computes the same as before, but for rounding. `plan` is that of the max
    net. A block that expands nothing keeps its channels, as they are those of the block before it.
    """
    found = dict(tensors)
    for block in plan.blocks:
        if block.expand:
            order = rule(block.depthwise, block.project, tensors).argsort(descending=True)
            for layer in (block.expand, block.depthwise):
                for part in (*_PER_CHANNEL, "weight"):
                    key = f"{layer.key}.{part}"
                    found[key] = tensors[key][order]
            key = f"{block.project.key}.weight"
            found[key] = tensors[key][:, order]
    return found


_PER_CHANNEL = ("bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")


def _relu6_variance(mean: Tensor, deviation: Tensor) -> Tensor:
    """The variance of relu6(x) for normal x, elementwise, from its first two moments."""
    m, s = mean.double(), deviation.double().abs().clamp_min(1e-6)
    low, high = -m / s, (6 - m) / s  # where relu6 begins and ends, in deviations from the mean
    at_low, at_high = _density(low), _density(high)
    below_high = torch.special.ndtr(high)
    inside, above = below_high - torch.special.ndtr(low), 1 - below_high
    first = m * inside + s * (at_low - at_high) + 6 * above
    second = (
        (m.square() + s.square()) * inside
        + 2 * m * s * (at_low - at_high)
        + s.square() * (low * at_low - high * at_high)
        + 36 * above
    )
    variance: Tensor = (second - first.square()).clamp_min(0)
    return variance


def _density(z: Tensor) -> Tensor:
    """The density of the standard normal distribution."""
    density: Tensor = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    return density
