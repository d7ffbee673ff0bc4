"""The plan of a backbone -> the same layers at half the output stride, dilated (atrous)."""

from __future__ import annotations

from dataclasses import replace
from typing import Tuple

from ramnas_models.errors import DataError
from ramnas_models.plan import MBConv, Plan, Shortcut


def dilated(backbone: Plan, output_stride: int) -> Plan:
    """`backbone` with every stride beyond `output_stride` replaced by dilation of later kernels.

    The same weights then see the same pixels as before, on a denser map. The one exception is the
    block that lost its stride: its shortcut no longer pools. DataError if `output_stride` is
    neither the backbone's own nor half of it.

    With symmetric padding, pixel i of the strided map is pixel 2i of the dense one. TensorFlow's
    SAME padding looks one pixel further on a map of even size, so there it is pixel 2i + 1. On a
    map of odd size it is 2i with both paddings. Rows and columns each go by their own size.
    """
    whole = backbone.stem.stride
    for block in backbone.blocks:
        whole *= block.depthwise.stride
    if output_stride not in (whole // 2, whole):
        raise DataError(
            f"output stride {output_stride} is not possible: take {whole // 2} or {whole}"
        )
    stride, dilation, blocks = backbone.stem.stride, 1, []
    hw = backbone.stem.out_hw
    for block in backbone.blocks:
        own = block.depthwise.stride
        strides = stride * own <= output_stride
        made = _at(block, hw, own if strides else 1, dilation)
        blocks.append(made)
        stride, dilation = (stride * own, dilation) if strides else (stride, dilation * own)
        hw = made.project.out_hw
    return replace(backbone, blocks=tuple(blocks))


def _at(block: MBConv, hw: Tuple[int, int], stride: int, dilation: int) -> MBConv:
    depthwise = replace(block.depthwise, in_hw=hw, stride=stride, dilation=dilation)
    shortcut = block.shortcut
    if shortcut:
        conv = shortcut.conv and replace(shortcut.conv, in_hw=depthwise.out_hw)
        pool = stride > 1
        shortcut = Shortcut(pool, shortcut.pool_padding if pool else (0, 0), conv)
    return replace(
        block,
        expand=block.expand and replace(block.expand, in_hw=hw),
        depthwise=depthwise,
        project=replace(block.project, in_hw=depthwise.out_hw),
        shortcut=shortcut,
    )
