"""The public supernet, rewritten from what is published: keys, random weights, forward pass."""

from __future__ import annotations

from typing import Dict

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

State = Dict[str, Tensor]

# the largest network of the public supernet, per stage: width, depth, expand, stride, SE
STAGES = [
    (24, 2, 1, 1, False),
    (32, 5, 6, 2, False),
    (40, 6, 6, 2, True),
    (72, 6, 6, 2, False),
    (128, 8, 6, 1, True),
    (216, 8, 6, 2, True),
    (224, 2, 6, 1, True),
]
FIRST_BLOCK = [0, 2, 7, 13, 19, 27, 35]

# the published networks: [resolution] + 9 widths + 7 depths + 7 kernels + 7 expands
PUBLISHED = {
    "A0": "192 16 16 24 32 64 112 192 216 1792 1 3 3 3 3 3 1 3 3 3 3 3 3 3 1 4 4 4 4 6 6",
    "A1": "224 16 16 24 32 64 112 192 216 1984 1 3 3 3 3 3 1 3 3 3 5 3 5 3 1 4 4 4 4 6 6",
    "A2": "224 16 16 24 32 64 112 200 224 1984 1 3 3 3 3 4 1 3 3 3 3 3 5 3 1 4 5 4 4 6 6",
    "A3": "224 16 16 24 32 64 112 208 224 1984 2 3 3 4 3 5 1 3 3 3 5 3 3 3 1 4 4 4 4 6 6",
    "A4": "256 16 16 24 32 64 112 192 216 1984 1 3 3 4 3 5 1 3 3 3 5 3 5 3 1 4 4 5 4 6 6",
    "A5": "256 16 16 24 32 72 112 192 216 1792 1 3 3 3 4 6 1 3 3 3 5 3 3 3 1 4 5 4 4 6 6",
    "A6": "288 16 16 24 32 64 112 216 224 1984 1 3 3 4 4 6 1 3 3 3 3 3 5 3 1 4 6 5 4 6 6",
}


def eights(value: float) -> int:
    rounded = max(8, int(value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded


# -- the public network, built only from its tensors' names and torch.nn.functional ----------------


def shapes() -> dict[str, tuple[int, ...]]:
    """The shapes of the 802 tensors of the public supernet, by name."""
    found: dict[str, tuple[int, ...]] = {}

    def conv(name: str, c_out: int, c_in: int, kernel: int = 1, norm: bool = True) -> None:
        found[f"{name}.conv.conv.weight"] = (c_out, c_in, kernel, kernel)
        if norm:
            for tensor in ("weight", "bias", "running_mean", "running_var"):
                found[f"{name}.bn.bn.{tensor}"] = (c_out,)
            found[f"{name}.bn.bn.num_batches_tracked"] = ()

    def dense(name: str, *shape: int) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = shape, shape[:1]

    conv("first_conv", 24, 3, 3)
    block, c_in = 0, 24
    for width, depth, expand, _, se in STAGES:
        for _ in range(depth):
            name, mid = f"blocks.{block}.mobile_inverted_conv", c_in * expand
            if expand > 1:
                conv(f"{name}.inverted_bottleneck", mid, c_in)
            conv(f"{name}.depth_conv", mid, 1, 5)
            if se:
                dense(f"{name}.depth_conv.se.fc.reduce", eights(mid // 4), mid, 1, 1)
                dense(f"{name}.depth_conv.se.fc.expand", mid, eights(mid // 4), 1, 1)
            conv(f"{name}.point_linear", width, mid)
            conv(f"blocks.{block}.shortcut", width, c_in, norm=False)
            block, c_in = block + 1, width
    conv("last_conv.final_expand_layer", 6 * c_in, c_in)
    conv("last_conv.feature_mix_layer", 1984, 6 * c_in, norm=False)
    dense("classifier.linear.linear", 1000, 1984)
    return found


def random_state() -> State:
    """Random values for every tensor; fresh gammas of 0 would make whole branches do nothing."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in shapes().items():
        noise = torch.rand(shape, generator=generator)
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif name.endswith("bn.bn.weight"):
            sign = torch.where(torch.rand(shape, generator=generator) < 0.5, -1.0, 1.0)
            state[name] = sign * (0.5 + noise)
        elif name.endswith("running_var"):
            state[name] = 0.5 + noise
        elif len(shape) == 1:
            state[name] = noise - 0.5
        else:  # variance 1 / fan-in
            state[name] = (noise - 0.5) * (12 / noise[0].numel()) ** 0.5
    return state


def reference(state: State, x: Tensor, integers: tuple[int, ...]) -> Tensor:
    """The logits of the arch [resolution] + 9 widths + 7 depths + 7 kernels + 7 expands."""
    widths, depths, kernels, expands = np.split(np.array(integers[1:]), [9, 16, 23])
    x = F.silu(norm(state, "first_conv", conv(state, "first_conv", x, widths[0], stride=2)))
    for stage, (_, _, _, stride, se) in enumerate(STAGES):
        for i in range(depths[stage]):
            name = f"blocks.{FIRST_BLOCK[stage] + i}"
            mid = eights(round(x.shape[1] * expands[stage]))
            step = stride if i == 0 else 1
            x = block(state, name, x, mid, widths[stage + 1], kernels[stage], step, se)
    name = "last_conv.final_expand_layer"
    x = F.silu(norm(state, name, conv(state, name, x, 6 * x.shape[1])))
    x = F.adaptive_avg_pool2d(x, 1)
    x = F.silu(conv(state, "last_conv.feature_mix_layer", x, widths[8])).flatten(1)
    weight = state["classifier.linear.linear.weight"][:, : widths[8]]
    return x @ weight.T + state["classifier.linear.linear.bias"]


def block(
    state: State, name: str, x: Tensor, mid: int, c_out: int, kernel: int, stride: int, se: bool
) -> Tensor:
    inner, y = f"{name}.mobile_inverted_conv", x
    if f"{inner}.inverted_bottleneck.conv.conv.weight" in state:
        expand = f"{inner}.inverted_bottleneck"
        y = F.silu(norm(state, expand, conv(state, expand, y, mid)))
    depth = f"{inner}.depth_conv"
    weight = state[f"{depth}.conv.conv.weight"][:mid]
    if kernel == 3:
        weight = weight[:, :, 1:4, 1:4]
    y = F.silu(norm(state, depth, F.conv2d(y, weight, None, stride, kernel // 2, groups=mid)))
    if se:
        y = y * squeeze_excite(state, f"{depth}.se.fc", y)
    y = norm(state, f"{inner}.point_linear", conv(state, f"{inner}.point_linear", y, c_out))
    if stride == 2:
        odd = (x.shape[2] % 2, x.shape[3] % 2)
        x = F.avg_pool2d(x, 2, 2, odd, count_include_pad=True)
    if x.shape[1] != c_out:
        x = conv(state, f"{name}.shortcut", x, c_out)
    return x + y


def conv(state: State, name: str, x: Tensor, c_out: int, stride: int = 1) -> Tensor:
    weight = state[f"{name}.conv.conv.weight"][:c_out, : x.shape[1]]
    return F.conv2d(x, weight, None, stride, weight.shape[2] // 2)


def norm(state: State, name: str, x: Tensor) -> Tensor:
    gamma, beta, mean, var = (
        state[f"{name}.bn.bn.{tensor}"][: x.shape[1], None, None]
        for tensor in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / torch.sqrt(var + 1e-5) * gamma + beta


def squeeze_excite(state: State, name: str, x: Tensor) -> Tensor:
    mid, small = x.shape[1], eights(x.shape[1] // 4)
    x = F.adaptive_avg_pool2d(x, 1)
    reduce, expand = (state[f"{name}.{part}.weight"] for part in ("reduce", "expand"))
    x = F.relu(F.conv2d(x, reduce[:small, :mid], state[f"{name}.reduce.bias"][:small]))
    x = F.conv2d(x, expand[:mid, :small], state[f"{name}.expand.bias"][:mid])
    return F.relu6(x + 3) / 6
