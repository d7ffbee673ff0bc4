"""Arch -> plan: the layers of one network with their shapes, MACs and parameters.

The supernet, the ONNX graph and the cost figures all read this one description. `key` names a
layer's tensors: `<key>.weight`, `<key>.bias`, `<key>.bn.weight` and so on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Dict, Iterator, NamedTuple, Optional, Tuple, Union

from ramnas_models.space import BN_EPS

if TYPE_CHECKING:
    from ramnas_models.space import Arch, Space, Stage, StageArch


def make_divisible(value: float, divisor: int = 8) -> int:
    """Nearest multiple of `divisor` above 0 that is at least 90 % of `value` (MobileNet)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def widened(space: Space, width: int) -> int:
    """The channels that `width` stands for in `space`: multiplied, then made divisible by 8."""
    return make_divisible(width * space.width_multiplier)


def expanded(space: Space, stage: Stage, c_in: int, expand: int) -> int:
    """The channels between the first and the last 1x1 of a block with `c_in` input channels."""
    if stage.expand_unit == "channels":
        return widened(space, expand)
    return make_divisible(round(c_in * expand))


class Pads(NamedTuple):
    """Pixels of zeros around a map, in ONNX's order."""

    top: int
    left: int
    bottom: int
    right: int


@dataclass(frozen=True)
class Conv:
    """A convolution, padded to keep the size, with its BatchNorm or bias and its activation.

    `same` says that the padding is TensorFlow's SAME, and `eps` is BatchNorm's.
    """

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
    dilation: int = 1
    same: bool = False
    eps: float = BN_EPS

    def pads(self, in_hw: Tuple[int, int]) -> Pads:
        """The padding of a map of size `in_hw`, in pixels.

        SAME pads by no more than the output needs, and by the odd pixel below and on the right. So
        on a map of even size a convolution with stride 2 looks one pixel further than with
        symmetric padding.
        """
        reach = (self.kernel - 1) * self.dilation
        if not self.same:
            return Pads(reach // 2, reach // 2, reach // 2, reach // 2)
        needed = [max(0, (-(-n // self.stride) - 1) * self.stride + reach + 1 - n) for n in in_hw]
        top, left = (n // 2 for n in needed)
        return Pads(top, left, needed[0] - top, needed[1] - left)

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
    def elements_in(self) -> int:
        """How many elements the input has at batch 1."""
        return self.c_in * self.in_hw[0] * self.in_hw[1]

    @property
    def elements(self) -> int:
        """How many elements the output has at batch 1."""
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
    def elements_in(self) -> int:
        return self.c_in

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
    """2x2 average pooling if the block strides, then a 1x1 if the width changes; else identity.

    The pooling pads each axis of odd length and counts the padded zeros in its mean. This way it
    gives the same size as the strided convolution.
    """

    pool: bool
    pool_padding: Tuple[int, int]
    conv: Optional[Conv]


@dataclass(frozen=True)
class MBConv:
    """One block: expand 1x1, depthwise, squeeze-and-excite, project 1x1, plus the shortcut."""

    stage: int
    index: int
    expand: Optional[Conv]
    depthwise: Conv
    se: Optional[SqueezeExcite]
    project: Conv
    shortcut: Optional[Shortcut]


Layer = Union[Conv, Linear]


@dataclass(frozen=True)
class PartCost:
    """The summed costs of some layers at batch 1; elements are inputs read, outputs written."""

    layers: int = 0
    macs: int = 0
    params: int = 0
    elements_in: int = 0
    elements_out: int = 0

    def __add__(self, other: PartCost) -> PartCost:
        return PartCost(*(a + b for a, b in zip(astuple(self), astuple(other))))


class Costed(ABC):
    """The costs of a plan: sums over its layers."""

    @abstractmethod
    def layers(self) -> Iterator[Layer]:
        """Every layer that has weights, in order of execution."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates of convolutions and linear layers at batch 1."""
        return sum(layer.macs for layer in self.layers())

    @property
    def macs_bn(self) -> int:
        """`macs` plus two operations per BatchNorm element, the rule behind the paper's figures."""
        normed = (layer for layer in self.layers() if isinstance(layer, Conv) and layer.norm)
        return self.macs + 2 * sum(layer.elements for layer in normed)

    @property
    def params(self) -> int:
        return sum(layer.params for layer in self.layers())

    @property
    def activations(self) -> int:
        """How many elements the convolutions and linear layers write at batch 1."""
        return sum(layer.elements for layer in self.layers())

    def table(self) -> Dict[Tuple[str, str], PartCost]:
        """The costs by (part, operator); parts are stem, stage1 to stageN and head.

        The operators are conv (full), pointwise, depthwise, se, shortcut and linear. The layer
        encoding of the surrogates is made from this table.
        """
        rows: Dict[Tuple[str, str], PartCost] = {}
        for layer in self.layers():
            key = (part_of(layer.key), operator_of(layer))
            rows[key] = rows.get(key, PartCost()) + PartCost(
                1, layer.macs, layer.params, layer.elements_in, layer.elements
            )
        return rows


@dataclass(frozen=True)
class Plan(Costed):
    """The plan of one classifier, from which torch or ONNX builds it and costs are counted.

    `head_expand` comes before the pooling, and `head_mix`, if there is one, after it.
    """

    arch_id: str
    input_hw: Tuple[int, int]
    stem: Conv
    blocks: Tuple[MBConv, ...]
    head_expand: Conv
    head_mix: Optional[Conv]
    classifier: Linear

    def layers(self) -> Iterator[Layer]:
        yield from self.backbone_layers()
        yield self.head_expand
        if self.head_mix:
            yield self.head_mix
        yield self.classifier

    def backbone_layers(self) -> Iterator[Conv]:
        """The layers of the stem and the blocks, which every task shares."""
        yield self.stem
        for block in self.blocks:
            if block.expand:
                yield block.expand
            yield block.depthwise
            if block.se:
                yield block.se.reduce
                yield block.se.expand
            yield block.project
            if block.shortcut and block.shortcut.conv:
                yield block.shortcut.conv


def plan(
    space: Space, arch: Arch, *, num_classes: int = 1000, input_hw: Optional[Tuple[int, int]] = None
) -> Plan:
    """Lay out `arch` of `space` for an input of `input_hw` pixels, by default its resolution."""
    hw = input_hw or (arch.resolution, arch.resolution)
    first = space.stem
    stem = Conv(
        "stem", 3, widened(space, arch.stem), first.kernel, first.stride, hw, act=first.act,
        same=space.padding == "same", eps=space.bn_eps,
    )  # fmt: skip
    c_in, hw = stem.c_out, stem.out_hw
    blocks = []
    for i, stage in enumerate(arch.stages):
        for j in range(stage.depth):
            blocks.append(_block(space, i, j, stage, c_in, widened(space, stage.width), hw))
            c_in, hw = blocks[-1].project.c_out, blocks[-1].project.out_hw
    act, ratio, wide = space.head.act, space.head.expand, widened(space, arch.head)
    c_out = wide if ratio is None else make_divisible(c_in * ratio)
    expand = Conv("head.expand", c_in, c_out, 1, 1, hw, act=act, eps=space.bn_eps)
    mix = None
    if ratio is not None:
        mix = Conv("head.mix", c_out, wide, 1, 1, (1, 1), norm=False, act=act)
    return Plan(
        arch_id=arch.id,
        input_hw=stem.in_hw,
        stem=stem,
        blocks=tuple(blocks),
        head_expand=expand,
        head_mix=mix,
        classifier=Linear("classifier", wide, num_classes),
    )


def _block(
    space: Space, stage: int, index: int, choice: StageArch, c_in: int, c_out: int,
    in_hw: Tuple[int, int],
) -> MBConv:  # fmt: skip
    rule, key = space.stages[stage], f"stages.{stage}.{index}"
    stride = rule.stride if index == 0 else 1
    mid = expanded(space, rule, c_in, choice.expand(index))
    squeezed = make_divisible(mid // 4)
    depthwise = Conv(
        f"{key}.depthwise", mid, mid, choice.kernel(index), stride, in_hw,
        depthwise=True, act=rule.act, same=space.padding == "same", eps=space.bn_eps,
    )  # fmt: skip
    expand = None
    if mid != c_in:
        expand = Conv(f"{key}.expand", c_in, mid, 1, 1, in_hw, act=rule.act, eps=space.bn_eps)
    se = rule.se if choice.se is None else choice.se
    return MBConv(
        stage=stage,
        index=index,
        expand=expand,
        depthwise=depthwise,
        se=SqueezeExcite(
            Conv(f"{key}.se.reduce", mid, squeezed, 1, 1, (1, 1), False, False, True, "relu"),
            Conv(f"{key}.se.expand", squeezed, mid, 1, 1, (1, 1), False, False, True),
        ) if se else None,
        project=Conv(f"{key}.project", mid, c_out, 1, 1, depthwise.out_hw, eps=space.bn_eps),
        shortcut=_shortcut(space, key, depthwise, c_in, c_out),
    )  # fmt: skip


def _shortcut(space: Space, key: str, depthwise: Conv, c_in: int, c_out: int) -> Optional[Shortcut]:
    in_hw, out_hw, stride = depthwise.in_hw, depthwise.out_hw, depthwise.stride
    if space.shortcut == "identity":
        return Shortcut(False, (0, 0), None) if stride == 1 and c_in == c_out else None
    parity = (in_hw[0] % 2, in_hw[1] % 2) if stride == 2 else (0, 0)
    conv = Conv(f"{key}.shortcut", c_in, c_out, 1, 1, out_hw, norm=False)
    return Shortcut(stride == 2, parity, None if c_in == c_out else conv)


def part_of(key: str) -> str:
    """`stages.2.1.expand` -> `stage3`; for every task, all that follows the stages is `head`."""
    first, *rest = key.split(".")
    if first == "stages":
        return f"stage{int(rest[0]) + 1}"
    return "stem" if first == "stem" else "head"


def operator_of(layer: Layer) -> str:
    """The operator of a layer: conv (full), pointwise, depthwise, se, shortcut or linear."""
    if isinstance(layer, Linear):
        return "linear"
    if ".se." in layer.key or layer.key.endswith("shortcut"):
        return "se" if ".se." in layer.key else "shortcut"
    if layer.depthwise:
        return "depthwise"
    return "pointwise" if layer.kernel == 1 else "conv"
