"""Arch -> plan: the layers of one network with their shapes, MACs and parameters.

The supernet, the ONNX graph and the cost figures all read this one description. `key` names a
layer's tensors: `<key>.weight`, `<key>.bias`, `<key>.bn.weight` and so on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Iterator, Optional, Tuple, Union

if TYPE_CHECKING:
    from ramnas_models.space import Arch, Space

ACTIVATIONS = ("relu", "swish")


def make_divisible(value: float, divisor: int = 8) -> int:
    """Nearest multiple of `divisor`, not below it and not under 90 % of `value` (MobileNet)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


@dataclass(frozen=True)
class Conv:
    """A convolution, padded by kernel // 2, with what follows it: BatchNorm or bias, activation."""

    key: str
    c_in: int
    c_out: int
    kernel: int
    stride: int
    in_hw: Tuple[int, int]
    depthwise: bool = False
    norm: bool = True
    bias: bool = False
    act: Optional[str] = None

    @property
    def out_hw(self) -> Tuple[int, int]:
        return (-(-self.in_hw[0] // self.stride), -(-self.in_hw[1] // self.stride))

    @property
    def weight_shape(self) -> Tuple[int, int, int, int]:
        return (self.c_out, 1 if self.depthwise else self.c_in, self.kernel, self.kernel)

    @property
    def macs(self) -> int:
        c_out, c_in, height, width = self.weight_shape
        return c_out * c_in * height * width * self.out_hw[0] * self.out_hw[1]

    @property
    def elements(self) -> int:
        """Output elements, batch 1."""
        return self.c_out * self.out_hw[0] * self.out_hw[1]

    @property
    def params(self) -> int:
        c_out, c_in, height, width = self.weight_shape
        return c_out * (c_in * height * width + 2 * self.norm + self.bias)


@dataclass(frozen=True)
class Linear:
    key: str
    c_in: int
    c_out: int

    @property
    def macs(self) -> int:
        return self.c_in * self.c_out

    @property
    def elements(self) -> int:
        return self.c_out

    @property
    def params(self) -> int:
        return (self.c_in + 1) * self.c_out


@dataclass(frozen=True)
class SqueezeExcite:
    """Global pool, 1x1 with bias, ReLU, 1x1 with bias, h-sigmoid; scales the channels."""

    reduce: Conv
    expand: Conv


@dataclass(frozen=True)
class Shortcut:
    """Identity, or 2x2 average pooling where the block strides, 1x1 where the width changes.

    The pooling pads each axis by its own parity and counts the padded zeros, so that odd sizes
    meet the size of the strided convolution.
    """

    pool: bool
    pool_padding: Tuple[int, int]
    conv: Optional[Conv]


@dataclass(frozen=True)
class Block:
    """MBConv: expand 1x1, depthwise, squeeze-and-excite, project 1x1, shortcut added."""

    stage: int
    index: int
    expand: Optional[Conv]
    depthwise: Conv
    se: Optional[SqueezeExcite]
    project: Conv
    shortcut: Shortcut


Layer = Union[Conv, Linear]


@dataclass(frozen=True)
class Plan:
    """One network, ready to be built: by torch, as an ONNX graph, or only to be counted."""

    arch_id: str
    input_hw: Tuple[int, int]
    stem: Conv
    blocks: Tuple[Block, ...]
    head_expand: Conv
    head_mix: Conv
    classifier: Linear

    def layers(self) -> Iterator[Layer]:
        """Every layer that has weights, in order of execution."""
        yield self.stem
        for block in self.blocks:
            if block.expand:
                yield block.expand
            yield block.depthwise
            if block.se:
                yield block.se.reduce
                yield block.se.expand
            yield block.project
            if block.shortcut.conv:
                yield block.shortcut.conv
        yield self.head_expand
        yield self.head_mix
        yield self.classifier

    @property
    def macs(self) -> int:
        """Multiply-accumulates of convolutions and linear layers, batch 1."""
        return sum(layer.macs for layer in self.layers())

    @property
    def macs_bn(self) -> int:
        """`macs` plus two operations per BatchNorm element: the rule behind the paper's figures."""
        normed = (layer for layer in self.layers() if isinstance(layer, Conv) and layer.norm)
        return self.macs + 2 * sum(layer.elements for layer in normed)

    @property
    def params(self) -> int:
        return sum(layer.params for layer in self.layers())


def plan(
    space: Space, arch: Arch, *, num_classes: int = 1000, input_hw: Optional[Tuple[int, int]] = None
) -> Plan:
    """Lay out `arch` of `space` for an input of `input_hw` pixels (default: its own resolution)."""
    hw = input_hw or (arch.resolution, arch.resolution)
    stem = Conv("stem", 3, arch.stem, space.stem.kernel, space.stem.stride, hw, act=space.stem.act)
    c_in, hw = stem.c_out, stem.out_hw
    blocks = []
    for stage, (choice, rule) in enumerate(zip(arch.stages, space.stages)):
        for index in range(choice.depth):
            block = _block(
                stage, index, c_in, choice.width, choice.kernel(index), choice.expand(index),
                rule.stride if index == 0 else 1, rule.se, rule.act, hw,
            )  # fmt: skip
            blocks.append(block)
            c_in, hw = block.project.c_out, block.project.out_hw
    act = space.head.act
    expand = Conv("head.expand", c_in, make_divisible(c_in * space.head.expand), 1, 1, hw, act=act)
    mix = Conv("head.mix", expand.c_out, arch.head, 1, 1, (1, 1), norm=False, act=act)
    return Plan(
        arch_id=arch.id,
        input_hw=stem.in_hw,
        stem=stem,
        blocks=tuple(blocks),
        head_expand=expand,
        head_mix=mix,
        classifier=Linear("classifier", mix.c_out, num_classes),
    )


def _block(
    stage: int, index: int, c_in: int, c_out: int, kernel: int, expand: int,
    stride: int, se: bool, act: str, in_hw: Tuple[int, int],
) -> Block:  # fmt: skip
    key = f"stages.{stage}.{index}"
    mid = make_divisible(round(c_in * expand))
    depthwise = Conv(f"{key}.depthwise", mid, mid, kernel, stride, in_hw, depthwise=True, act=act)
    out_hw = depthwise.out_hw
    squeezed = make_divisible(mid // 4)
    parity = (in_hw[0] % 2, in_hw[1] % 2) if stride == 2 else (0, 0)
    return Block(
        stage=stage,
        index=index,
        expand=None if expand == 1 else Conv(f"{key}.expand", c_in, mid, 1, 1, in_hw, act=act),
        depthwise=depthwise,
        se=SqueezeExcite(
            Conv(f"{key}.se.reduce", mid, squeezed, 1, 1, (1, 1), False, False, True, "relu"),
            Conv(f"{key}.se.expand", squeezed, mid, 1, 1, (1, 1), False, False, True),
        ) if se else None,
        project=Conv(f"{key}.project", mid, c_out, 1, 1, out_hw),
        shortcut=Shortcut(
            pool=stride == 2,
            pool_padding=parity,
            conv=None if c_in == c_out
            else Conv(f"{key}.shortcut", c_in, c_out, 1, 1, out_hw, norm=False),
        ),
    )  # fmt: skip
