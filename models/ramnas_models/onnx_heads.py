"""The features of a backbone -> the outputs of a task's head, as ONNX nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, List, Sequence, Tuple

import numpy as np
from onnx import TensorProto

if TYPE_CHECKING:
    from ramnas_models.head_plan import Fusion, LRASPPPlan, Separable, SSDLitePlan
    from ramnas_models.onnx_layers import Graph
    from ramnas_models.plan import Plan

Hw = Tuple[int, int]


def classifier(graph: Graph, plan: Plan, x: str) -> None:
    x = graph.conv(x, plan.head_expand)
    x = graph.node("GlobalAveragePool", [x])
    if plan.head_mix:
        x = graph.conv(x, plan.head_mix)
    x = graph.node("Flatten", [x])
    graph.linear(x, plan.classifier, out="logits")


def ssdlite(graph: Graph, plan: SSDLitePlan, features: Sequence[str]) -> None:
    """Class logits [n, anchors, 1 + classes] and box deltas [n, anchors, 4] of all levels."""
    levels = [features[tap] for tap in plan.taps]
    for extra in plan.extras:
        levels.append(_separable(graph, levels[-1], extra))
    for name, heads, columns in (
        ("class_logits", plan.class_heads, 1 + plan.num_classes),
        ("box_regression", plan.box_heads, 4),
    ):
        rows: List[str] = []
        for level, head in zip(levels, heads):
            x = graph.node("Transpose", [_separable(graph, level, head)], perm=[0, 2, 3, 1])
            shape = graph.tensor(f"{name}.{len(rows)}.shape", np.array([0, -1, columns]))
            rows.append(graph.node("Reshape", [x, shape]))  # 0 keeps the batch
        graph.node("Concat", rows, name, axis=1)


def lraspp(graph: Graph, plan: LRASPPPlan, features: Sequence[str], logits: bool) -> None:
    *finer, top = (features[tap] for tap in plan.taps)
    gate = graph.conv(graph.node("GlobalAveragePool", [top]), plan.gate)
    gate = graph.node("Sigmoid", [gate])
    x = graph.node("Mul", [graph.conv(top, plan.project), gate])
    hw = plan.project.out_hw
    for fusion, skip in zip(plan.fusions, finer[::-1]):
        x = _fuse(graph, x, skip, fusion)
        hw = fusion.lift.out_hw
    out = "class_logits" if logits else None
    if plan.classify_skip:
        # a 1x1 and interpolation commute; with the 1x1 first, fewer channels are interpolated
        x = _resized(graph, graph.conv(x, plan.classify), hw, plan.output_hw)
        x = graph.node("Add", [x, graph.conv(finer[0], plan.classify_skip)], out)
    else:
        x = graph.conv(x, plan.classify, out=out)
    if not logits:
        x = graph.node("ArgMax", [x], axis=1, keepdims=0)
        graph.node("Cast", [x], "class_map", to=TensorProto.UINT8)


def _fuse(graph: Graph, x: str, finer: str, fusion: Fusion) -> str:
    x = _resized(graph, graph.conv(x, fusion.coarse), fusion.coarse.out_hw, fusion.skip.out_hw)
    finer = graph.convs_1x1(finer, fusion.skip, fusion.lift)
    return graph.node("Relu", [graph.node("Add", [x, finer])])


def _separable(graph: Graph, x: str, layers: Separable) -> str:
    for layer in layers.layers():
        x = graph.conv(x, layer)
    return x


def _resized(graph: Graph, x: str, hw: Hw, to_hw: Hw) -> str:
    """Resize bilinearly, like F.interpolate with align_corners=False."""
    if hw == to_hw:
        return x
    # sizes would have to name the batch, which may be symbolic; scales need not
    scales = np.array([1, 1, *(_scale(a, b) for a, b in zip(hw, to_hw))], np.float32)
    name = graph.tensor(f"Resize_{len(graph.proto.node)}.scales", scales)
    return graph.node(
        "Resize", [x, "", name], mode="linear", coordinate_transformation_mode="half_pixel"
    )


def _scale(size: int, to: int) -> np.float32:
    """The smallest float32 for which an engine's floor(size * scale) is `to`, and not one less."""
    scale = np.float32(to / size)
    return scale if size * float(scale) >= to else np.nextafter(scale, np.float32(np.inf))
