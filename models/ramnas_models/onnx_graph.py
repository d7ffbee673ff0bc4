"""A plan and numpy weights -> ONNX graph, without torch: a board builds what it measures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Mapping, Optional, Sequence

from onnx import ModelProto, TensorProto, helper

from ramnas_models import onnx_heads
from ramnas_models.head_plan import LRASPPPlan, SSDLitePlan
from ramnas_models.onnx_layers import IR_VERSION, OPSET, Graph, Normalisation

if TYPE_CHECKING:
    from ramnas_models.head_plan import AnyPlan
    from ramnas_models.onnx_layers import Array

__all__ = ["IR_VERSION", "OPSET", "Normalisation", "build"]


def build(
    plan: AnyPlan,
    weights: Optional[Mapping[str, Array]] = None,
    *,
    image_input: bool = False,
    normalisation: Normalisation = Normalisation(),
    batch: Optional[int] = 1,
    logits: bool = False,
) -> ModelProto:
    """The ONNX graph of `plan`.

    The input `image` is float32 [batch, 3, h, w], or with `image_input` uint8 [batch, h, w, 3] in
    BGR. `batch=None` makes the batch symbolic (`N`).

    The outputs by task, all float32 except for the class map:
    - classification: `logits` [batch, classes].
    - detection: `class_logits` [batch, anchors, 1 + classes], background first, and
      `box_regression` [batch, anchors, 4]. Both are raw: `anchors.decode` and non-maximum
      suppression are left to the caller.
    - segmentation: `class_map` uint8 [batch, h, w] of the plan's `output_hw`. With `logits` it is
      `class_logits` [batch, classes, h, w] instead, for an engine without ArgMax or uint8.

    `weights` holds the tensors by the plan's keys, with the BatchNorm statistics, which are folded
    in here. Without `weights` the graph gets random ones of a sensible scale, good only for timing.
    """
    graph = Graph(weights)
    backbone = plan.backbone if isinstance(plan, (SSDLitePlan, LRASPPPlan)) else plan
    height, width = plan.input_hw
    n = "N" if batch is None else batch
    if image_input:
        source = _value("image", TensorProto.UINT8, (n, height, width, 3))
        x = graph.image("image", backbone.stem, normalisation)
    else:
        source = _value("image", TensorProto.FLOAT, (n, 3, height, width))
        x = graph.conv("image", backbone.stem)
    features = []
    for block in backbone.blocks:
        x = graph.block(x, block)
        features.append(x)
    if isinstance(plan, SSDLitePlan):
        onnx_heads.ssdlite(graph, plan, features)
        outputs = [
            _value(
                "class_logits", TensorProto.FLOAT, (n, plan.anchors.count, 1 + plan.num_classes)
            ),
            _value("box_regression", TensorProto.FLOAT, (n, plan.anchors.count, 4)),
        ]
    elif isinstance(plan, LRASPPPlan):
        onnx_heads.lraspp(graph, plan, features, logits)
        hw = plan.output_hw
        outputs = [
            _value("class_logits", TensorProto.FLOAT, (n, plan.num_classes, *hw))
            if logits
            else _value("class_map", TensorProto.UINT8, (n, *hw))
        ]
    else:
        onnx_heads.classifier(graph, plan, x)
        outputs = [_value("logits", TensorProto.FLOAT, (n, plan.classifier.c_out))]
    graph.proto.name = f"ramnas_{plan.arch_id}"
    graph.proto.input.append(source)
    graph.proto.output.extend(outputs)
    return graph.model


def _value(name: str, dtype: int, shape: Sequence[Any]) -> Any:
    return helper.make_tensor_value_info(name, dtype, list(shape))
