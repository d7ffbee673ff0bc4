"""A plan and a subnet's weights -> the same network of nn.Conv2d and nn.BatchNorm2d: the peer."""

from __future__ import annotations

from typing import Dict, Optional

import torch
from torch import Tensor, nn

from ramnas_models.plan import Conv, MBConv, Plan
from ramnas_models.supernet import Subnet

ACTIVATIONS = {"swish": nn.SiLU, "hswish": nn.Hardswish, "relu": nn.ReLU}


def plain(subnet: Subnet) -> nn.Sequential:
    """The network of `subnet`, with copies of its weights: images [n, 3, h, w] -> logits."""
    plan, weights = subnet.plan, subnet.state_dict()
    net = nn.Sequential(
        _conv(plan.stem, weights),
        *(_Block(block, weights) for block in plan.blocks),
        _conv(plan.head_expand, weights),
        nn.AdaptiveAvgPool2d(1),
        *([_conv(plan.head_mix, weights)] if plan.head_mix else []),
        nn.Flatten(),
        _linear(plan, weights),
    )
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _linear(plan: Plan, weights: Dict[str, Tensor]) -> nn.Linear:
    layer = plan.classifier
    linear = nn.Linear(layer.c_in, layer.c_out)
    linear.load_state_dict(_part(weights, layer.key))
    return linear


def _conv(layer: Conv, weights: Dict[str, Tensor]) -> nn.Sequential:
    groups = layer.c_in if layer.depthwise else 1
    conv = nn.Conv2d(
        layer.c_in, layer.c_out, layer.kernel, layer.stride, layer.pads(layer.in_hw)[0],
        layer.dilation, groups, bias=layer.bias,
    )  # fmt: skip
    own = _part(weights, layer.key)
    conv.load_state_dict({key: value for key, value in own.items() if not key.startswith("bn.")})
    parts = nn.Sequential(conv)
    if layer.norm:
        norm = nn.BatchNorm2d(layer.c_out, eps=layer.eps)
        norm.load_state_dict(_part(own, "bn"), strict=False)  # but for its counter of batches
        parts.append(norm)
    if layer.act:
        parts.append(ACTIVATIONS[layer.act]())
    return parts


def _part(weights: Dict[str, Tensor], key: str) -> Dict[str, Tensor]:
    start = f"{key}."
    return {k[len(start) :]: value for k, value in weights.items() if k.startswith(start)}


class _Block(nn.Module):
    """One MBConv block with its shortcut."""

    def __init__(self, block: MBConv, weights: Dict[str, Tensor]) -> None:
        super().__init__()
        first = [_conv(block.expand, weights)] if block.expand else []
        self.widen = nn.Sequential(*first, _conv(block.depthwise, weights))
        self.gate: Optional[nn.Sequential] = None
        if block.se:
            self.gate = nn.Sequential(
                nn.AdaptiveAvgPool2d(1), _conv(block.se.reduce, weights),
                _conv(block.se.expand, weights), nn.Hardsigmoid(),
            )  # fmt: skip
        self.project = _conv(block.project, weights)
        self.shortcut: Optional[nn.Sequential] = None
        if block.shortcut:
            self.shortcut = nn.Sequential()
            if block.shortcut.pool:
                self.shortcut.append(nn.AvgPool2d(2, 2, block.shortcut.pool_padding))
            if block.shortcut.conv:
                self.shortcut.append(_conv(block.shortcut.conv, weights))

    def forward(self, x: Tensor) -> Tensor:
        y = self.widen(x)
        if self.gate is not None:
            y = y * self.gate(y)
        out: Tensor = self.project(y)
        return out if self.shortcut is None else out + self.shortcut(x)
