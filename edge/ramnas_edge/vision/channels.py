"""An ONNX graph that takes BGR frames -> the same graph for RGB frames."""

from __future__ import annotations

from typing import Dict, Optional

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from ramnas_models.errors import BundleError

ORDERS = ("bgr", "rgb")


def for_rgb(model: bytes) -> bytes:
    """Reverse the channels where they are constants: the mean, and the stem's weights.

    Nothing is added to the graph and no pixel is touched. Between the uint8 image and the stem
    there are nodes of one data input each; with int8 weights their dequantisation comes before.
    """
    proto = ModelProto.FromString(model)
    constants = {t.name: t for t in proto.graph.initializer}
    made_by = {name: node for node in proto.graph.node for name in node.output}
    name = proto.graph.input[0].name
    while True:
        readers = [node for node in proto.graph.node if name in node.input]
        if len(readers) != 1 or not readers[0].output:
            raise BundleError(
                f"the channels of graph '{proto.graph.name}' cannot be reversed: '{name}' is read "
                f"by {len(readers)} nodes before any convolution; open it with channels='bgr'"
            )
        (node,) = readers
        if node.op_type == "Conv":
            _reverse(_weights(node, constants, made_by), axis=1)
            changed: bytes = proto.SerializeToString()
            return changed
        if node.op_type in ("Sub", "Mul", "Div") and node.input[1] in constants:
            _reverse(constants[node.input[1]])
        name = node.output[0]


def _weights(
    conv: NodeProto, constants: Dict[str, TensorProto], made_by: Dict[str, NodeProto]
) -> TensorProto:
    name = conv.input[1]
    while name not in constants:  # behind DequantizeLinear
        name = made_by[name].input[0]
    return constants[name]


def _reverse(tensor: TensorProto, axis: Optional[int] = None) -> None:
    """Without `axis` a constant of three numbers, whichever of its axes they lie along."""
    values = numpy_helper.to_array(tensor)
    if (values.size if axis is None else values.shape[axis]) == 3:
        tensor.CopyFrom(
            numpy_helper.from_array(np.ascontiguousarray(np.flip(values, axis)), tensor.name)
        )
