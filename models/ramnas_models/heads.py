"""A subnet of the supernet and the plan of a head -> a detector or a segmenter (torch)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ramnas_models.head_plan import LRASPPPlan, Separable, SSDLitePlan
from ramnas_models.plan import Conv
from ramnas_models.supernet import Standalone, Subnet


class Detector(Standalone):
    """SSDLite with the backbone's weights copied from `subnet` and a newly initialised head.

    The subnet's BatchNorm statistics are copied too. Those of the head mean nothing until
    `recalibrate` has run.
    """

    def __init__(self, subnet: Subnet, plan: SSDLitePlan) -> None:
        super().__init__(plan.layers(), subnet)
        self.plan: SSDLitePlan = plan
        _initialise(self, plan.head_layers())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images [n, 3, h, w], normalised and of the plan's `input_hw` -> class logits, box deltas.

        The class logits are [n, anchors, 1 + classes], background first, and the box deltas
        [n, anchors, 4]. Both have the order of `plan.anchors.boxes()`.
        """
        plan = self.plan
        levels = self.features(x, plan.backbone, plan.taps)
        for extra in plan.extras:
            levels.append(self._separable(levels[-1], extra))

        def rows(heads: Iterable[Separable], columns: int) -> Tensor:
            maps = [self._separable(*pair) for pair in zip(levels, heads, strict=True)]
            return torch.cat([m.permute(0, 2, 3, 1).reshape(len(m), -1, columns) for m in maps], 1)

        return rows(plan.class_heads, 1 + plan.num_classes), rows(plan.box_heads, 4)

    def _separable(self, x: Tensor, layers: Separable) -> Tensor:
        for layer in layers.layers():
            x = self._apply_layer(x, layer)
        return x


class Segmenter(Standalone):
    """LR-ASPP with the backbone's weights copied from `subnet` and a newly initialised head.

    The subnet's BatchNorm statistics are copied too. Those of the head mean nothing until
    `recalibrate` has run.
    """

    def __init__(self, subnet: Subnet, plan: LRASPPPlan) -> None:
        super().__init__(plan.layers(), subnet)
        self.plan: LRASPPPlan = plan
        _initialise(self, plan.head_layers())

    def forward(self, x: Tensor) -> Tensor:
        """Images [n, 3, h, w], normalised -> logits [n, classes, *plan.output_hw].

        Images of another size than the plan's give logits that are larger or smaller in proportion.
        """
        plan = self.plan
        *finer, top = self.features(x, plan.backbone, plan.taps)
        gate = self._apply_layer(top.mean((2, 3), keepdim=True), plan.gate).sigmoid()
        x = self._apply_layer(top, plan.project) * gate
        for fusion, skip in zip(plan.fusions, finer[::-1], strict=False):
            skip = self._apply_layer(self._apply_layer(skip, fusion.skip), fusion.lift)
            x = F.relu(_resized(self._apply_layer(x, fusion.coarse), skip) + skip)
        x = self._apply_layer(x, plan.classify)
        if plan.classify_skip:
            skip = self._apply_layer(finer[0], plan.classify_skip)
            x = _resized(x, skip) + skip
        return x


def _resized(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)


@torch.no_grad()
def _initialise(net: Standalone, layers: Iterable[Conv]) -> None:
    """He initialisation; the last layers start small, so the first losses are those of a guess."""
    for layer in layers:
        weight = net.get_parameter(f"{layer.key}.weight")
        if layer.bias:
            nn.init.normal_(weight, std=0.01)
        else:
            nn.init.kaiming_normal_(weight, mode="fan_in")
