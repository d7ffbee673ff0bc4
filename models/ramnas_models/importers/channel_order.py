"""The tensors of a published network -> the same network, with its most needed channels first.

A smaller network of a supernet takes the first channels of each block. In published weights they
lie in no order, so the first ones are no better than any others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ramnas_models.plan import Plan

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Orders = Mapping[str, NDArray[np.uint16]]  # by block, such as `stages.1.0`

# Orders for the published weights by `least_loss`. tests/studies/channel_orders.py made them with
# 256 of ImageNet's sample pictures (github.com/EliSchwartz/imagenet-sample-images).
FILE = Path(__file__).parent / "channel_orders.npz"
_READ = ("weight", "running_var")
_PER_CHANNEL = ("weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")


def shipped(model: str) -> Orders:
    """The orders for the published weights of `model`."""
    with np.load(FILE, allow_pickle=False) as file:
        return {key.split("/")[1]: file[key] for key in file if key.split("/")[0] == model}


def sort_channels(tensors: dict[str, Tensor], plan: Plan, orders: Orders) -> dict[str, Tensor]:
    """The same tensors with the expanded channels of each block in the order of `orders`.

    The network of `plan`, which is the max net's, computes the same as before, but for rounding. A
    block without an order keeps its channels. So does one that expands nothing, as its channels are
    those of the block before it.
    """
    found = dict(tensors)
    for block in plan.blocks:
        key = block.project.key.removesuffix(".project")
        if block.expand and key in orders:
            order = torch.from_numpy(orders[key].astype(np.int64))
            for layer in (block.expand, block.depthwise):
                for part in _PER_CHANNEL:
                    found[f"{layer.key}.{part}"] = tensors[f"{layer.key}.{part}"][order]
            weight = f"{block.project.key}.weight"
            found[weight] = tensors[weight][:, order].contiguous()
    return found


def least_loss(block: str, tensors: Mapping[str, Tensor], covariance: Tensor, eps: float) -> Tensor:
    """The expanded channels [c] of a block, the one whose loss costs least last, int64.

    `covariance` [c, c] is that of the activations which the projection reads. Without the channels
    D the output of the block, projection and BatchNorm, misses what has the mean square
    sum over i, j in D of covariance_ij (w_i . w_j), where w_i are the weights that read channel i,
    in units of BatchNorm's output. The mean itself is no loss, because BatchNorm takes it up.
    Channels are left out one by one, each time the one that raises the error least, and the order
    is the reverse of that. To judge channels by the error of the layer that reads them is the rule
    of ThiNet (Luo et al. 2017), which has no BatchNorm in between and searches forwards.
    """
    norm = {part: tensors[f"{block}.project.bn.{part}"].double() for part in _READ}
    scale = norm["weight"] / (norm["running_var"] + eps).sqrt()
    read = tensors[f"{block}.project.weight"].double().flatten(1) * scale[:, None]
    error = covariance.double() * (read.T @ read)
    rise, left_out = error.diagonal().clone(), []
    for _ in range(len(error)):
        channel = int(rise.argmin())
        left_out.append(channel)
        rise += 2 * error[:, channel]
        rise[left_out] = math.inf
    return torch.tensor(left_out[::-1])
