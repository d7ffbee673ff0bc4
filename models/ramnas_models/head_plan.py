"""The plan of a backbone -> the plan of its detector (SSDLite) or of its segmenter (LR-ASPP).

Both keep the stem and the stages and leave out the classifier's head. The paper prints no settings
for Table IV, so the layers are those of the heads published for MobileNet: MMDetection's
ssdlite_mobilenetv2, MMSegmentation's lraspp_m-v3 and, for two inputs, the MobileNetV3 paper's.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Iterator, List, Optional, Tuple, Union

from ramnas_models.anchors import Anchors
from ramnas_models.dilation import dilated
from ramnas_models.errors import DataError, SpaceError
from ramnas_models.plan import Conv, Costed, Layer, Plan

CLASSIFICATION, DETECTION, SEGMENTATION = TASKS = ("classification", "detection", "segmentation")
FORMS = ("three_input", "two_input")

# anchor sizes for an input of 320 x 320 pixels: one per level, and one beyond the last level
SIZES = (48.0, 100.0, 150.0, 202.0, 253.0, 304.0, 320.0)
RATIOS = (1.0, 2.0, 1 / 2, 3.0, 1 / 3)
EXTRA_WIDTHS = (512, 256, 256, 128)
GATED_WIDTH = 128
SKIP_WIDTHS = {2: 32, 4: 64}  # stride of a stage -> channels of the branch that reads it
MAX_CLASSES = 256  # a class map is uint8


@dataclass(frozen=True)
class Separable:
    """A depthwise 3x3 and a 1x1; `reduce`, if there is one, is a 1x1 before them."""

    reduce: Optional[Conv]
    depthwise: Conv
    pointwise: Conv

    def layers(self) -> Iterator[Conv]:
        if self.reduce:
            yield self.reduce
        yield self.depthwise
        yield self.pointwise


@dataclass(frozen=True)
class _HeadPlan(Costed):
    """A backbone with a head that replaces its classifier."""

    backbone: Plan
    num_classes: int

    @property
    def arch_id(self) -> str:
        return self.backbone.arch_id

    @property
    def input_hw(self) -> Tuple[int, int]:
        return self.backbone.input_hw

    def layers(self) -> Iterator[Layer]:
        yield from self.backbone.backbone_layers()
        yield from self.head_layers()

    @abstractmethod
    def head_layers(self) -> Iterator[Conv]:
        """The layers of the head, in order of execution."""


@dataclass(frozen=True)
class SSDLitePlan(_HeadPlan):
    """A detector whose levels are the backbone's blocks at `taps`, followed by the `extras`.

    Each level has one of the `class_heads`, with anchors * (1 + num_classes) channels, background
    first, and one of the `box_heads`, with anchors * 4 channels. Here "anchors" is how many anchors
    each place of that level has.
    """

    taps: Tuple[int, int]
    extras: Tuple[Separable, ...]
    class_heads: Tuple[Separable, ...]
    box_heads: Tuple[Separable, ...]
    anchors: Anchors

    def head_layers(self) -> Iterator[Conv]:
        for part in (*self.extras, *self.class_heads, *self.box_heads):
            yield from part.layers()


@dataclass(frozen=True)
class Fusion:
    """Merges a coarse map x with a finer map of the backbone into one of the finer map's size.

    relu(resized(coarse(x)) + lift(skip(finer))) gives what concatenating both maps and one 1x1
    would. It costs a fraction of that, because the 1x1 of the coarse map runs before it grows.
    """

    coarse: Conv
    skip: Conv
    lift: Conv


@dataclass(frozen=True)
class LRASPPPlan(_HeadPlan):
    """A segmenter: project(top) * sigmoid(gate(mean of top)), merged with finer maps.

    `taps` are blocks of the backbone from fine to coarse; the last one gives the top. With three
    inputs there is one of `fusions` for each finer tap, from coarse to fine, and then `classify`.
    With two inputs there are none, and the logits are resized(classify(gated)) +
    classify_skip(finer). The logits have the size `output_hw`.
    """

    taps: Tuple[int, ...]
    project: Conv
    gate: Conv
    fusions: Tuple[Fusion, ...]
    classify: Conv
    classify_skip: Optional[Conv]

    @property
    def output_hw(self) -> Tuple[int, int]:
        return (self.classify_skip or self.classify).out_hw

    def head_layers(self) -> Iterator[Conv]:
        yield self.project
        yield self.gate
        for fusion in self.fusions:
            yield fusion.coarse
            yield fusion.skip
            yield fusion.lift
        yield self.classify
        if self.classify_skip:
            yield self.classify_skip


AnyPlan = Union[Plan, SSDLitePlan, LRASPPPlan]


def for_task(task: str, backbone: Plan) -> AnyPlan:
    """The plan for `task` with as many classes as `backbone` has; DataError for an unknown task.

    Its `macs` and `params` count what a latency of that task measures: the backbone at its input
    size, without its own head, and the head of the task.
    """
    if task not in TASKS:
        raise DataError(f"unknown task '{task}': take one of {', '.join(TASKS)}")
    classes = backbone.classifier.c_out
    if task == DETECTION:
        return ssdlite(backbone, classes)
    return lraspp(backbone, classes) if task == SEGMENTATION else backbone


def ssdlite(backbone: Plan, num_classes: int) -> SSDLitePlan:
    """SSDLite that reads the ends of the first stage with stride 16 (stage 4) and the last (7).

    `num_classes` does not count the background. The anchors scale with the square root of the
    input's area, so that their aspect ratios in pixels are the same for every shape of input.
    """
    taps = (_tap(backbone, 16), len(backbone.blocks) - 1)
    levels = [backbone.blocks[tap].project for tap in taps]
    extras = []
    for i, width in enumerate(EXTRA_WIDTHS):
        key, last = f"ssd.extras.{i}", levels[-1]
        reduce = _pointwise(f"{key}.reduce", last, width // 2, act="relu")
        extras.append(_separable(key, reduce, width, 2, act="relu", reduce=reduce))
        levels.append(extras[-1].pointwise)
    scale = math.sqrt(backbone.input_hw[0] * backbone.input_hw[1]) / 320
    anchors = Anchors(
        input_hw=backbone.input_hw,
        feature_hw=tuple(level.out_hw for level in levels),
        sizes=tuple((own * scale, after * scale) for own, after in zip(SIZES, SIZES[1:])),
        ratios=(RATIOS,) * len(levels),
    )

    def heads(name: str, width: int) -> Tuple[Separable, ...]:
        return tuple(
            _separable(f"ssd.{name}.{i}", level, shapes * width)
            for i, (level, shapes) in enumerate(zip(levels, anchors.shapes))
        )

    return SSDLitePlan(
        backbone=backbone,
        num_classes=num_classes,
        taps=taps,
        extras=tuple(extras),
        class_heads=heads("classes", 1 + num_classes),
        box_heads=heads("boxes", 4),
        anchors=anchors,
    )


def lraspp(
    backbone: Plan, num_classes: int, form: str = "three_input", output_stride: int = 32
) -> LRASPPPlan:
    """LR-ASPP on the last stage and one or two finer ones; `num_classes` counts the background.

    Form "three_input" also reads the first stages with stride 2 and 4 (stages 1 and 2), as in the
    paper; its logits have half the input's size. Form "two_input" reads the first stage with stride
    8 instead, as MobileNetV3 does; its logits have an eighth of the input's size, and it is much
    faster. With `output_stride` 16 the last stages are dilated instead of strided; the weights are
    the same. DataError for an unknown form, or a number of classes that a class map cannot hold.
    """
    if form not in FORMS:
        raise DataError(f"LR-ASPP has no form '{form}'; take one of {', '.join(FORMS)}")
    if not 2 <= num_classes <= MAX_CLASSES:
        raise DataError(
            f"{num_classes} classes are too few or too many: a class map holds 2 to {MAX_CLASSES}"
        )
    # Neither padding puts the pixels where resizing assumes them. At stride s, pixel i has its
    # centre at image pixel s * i with symmetric padding, at s * i + s - 1 with SAME on even maps,
    # and resizing takes s * i + (s - 1) / 2. So both are off by the same length, in opposite
    # directions, and dilation about halves it for both. The weights learn it, so the resizing does
    # not account for it.
    backbone = dilated(backbone, output_stride)
    top = backbone.blocks[-1].project
    project = _pointwise("lraspp.project", top, GATED_WIDTH, act="relu")
    gate = replace(project, key="lraspp.gate", in_hw=(1, 1), norm=False, act=None)
    skips: Tuple[int, ...] = (2, 4) if form == "three_input" else (8,)
    taps = [_tap(backbone, stride) for stride in skips]
    fusions: List[Fusion] = []
    classify_skip, x = None, project
    if form == "three_input":
        for stride, tap in zip(skips[::-1], taps[::-1]):
            key = f"lraspp.fusions.{len(fusions)}"
            coarse = _pointwise(f"{key}.coarse", x, GATED_WIDTH)
            finer = backbone.blocks[tap].project
            skip = _pointwise(f"{key}.skip", finer, SKIP_WIDTHS[stride], norm=False)
            fusions.append(Fusion(coarse, skip, _pointwise(f"{key}.lift", skip, GATED_WIDTH)))
            x = fusions[-1].lift
    else:
        finer = backbone.blocks[taps[0]].project
        classify_skip = _pointwise(
            "lraspp.classify_skip", finer, num_classes, norm=False, bias=True
        )
    return LRASPPPlan(
        backbone=backbone,
        num_classes=num_classes,
        taps=(*taps, len(backbone.blocks) - 1),
        project=project,
        gate=gate,
        fusions=tuple(fusions),
        classify=_pointwise("lraspp.classify", x, num_classes, norm=False, bias=True),
        classify_skip=classify_skip,
    )


def _pointwise(
    key: str, after: Conv, c_out: int, *,
    norm: bool = True, bias: bool = False, act: Optional[str] = None,
) -> Conv:  # fmt: skip
    return Conv(key, after.c_out, c_out, 1, 1, after.out_hw, norm=norm, bias=bias, act=act)


def _separable(
    key: str, after: Conv, c_out: int, stride: int = 1, *,
    act: Optional[str] = None, reduce: Optional[Conv] = None,
) -> Separable:  # fmt: skip
    """Without `act` this is the end of a head, with a bias in place of BatchNorm."""
    c = after.c_out
    depthwise = Conv(f"{key}.depthwise", c, c, 3, stride, after.out_hw, depthwise=True, act="relu")
    end = _pointwise(
        f"{key}.pointwise", depthwise, c_out, norm=act is not None, bias=act is None, act=act
    )
    return Separable(reduce, depthwise, end)


def _tap(backbone: Plan, stride: int) -> int:
    """The index of the last block of the first stage with that stride; SpaceError if none has."""
    places, at = {}, backbone.stem.stride
    for place, block in enumerate(backbone.blocks):
        at *= block.depthwise.stride
        if at == stride:
            places[block.stage] = place
    if not places:
        raise SpaceError(
            f"no stage of {backbone.arch_id} has stride {stride}, which this head reads; "
            "take a space with strides 2, 4, 8, 16 and 32"
        )
    return places[min(places)]
