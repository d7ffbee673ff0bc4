"""An ONNX graph that takes BGR frames -> the same graph for RGB frames."""

from __future__ import annotations

from typing import Dict, Optional

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from ramnas_models.errors import BundleError

ORDERS = ("bgr", "rgb")


def for_rgb(model: bytes) -> bytes:
    """Reverse the channel order of the constants that depend on it: the mean and stem weights.

    So the graph gets no extra node, and no pixel is moved at run time. The function walks from the
    uint8 image to the stem's convolution, through nodes that each have one data input. In an int8
    graph the stem's weights lie behind a DequantizeLinear. Raises BundleError if a tensor on the
    way is read by several nodes, or by none.
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
                f"by {len(readers)} nodes before the first convolution, not by one; "
                "open it with channels='bgr' and give it BGR frames"
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
    while name not in constants:  # int8 weights lie behind DequantizeLinear
        name = made_by[name].input[0]
    return constants[name]


def _reverse(tensor: TensorProto, axis: Optional[int] = None) -> None:
    """Reverse `tensor` along `axis` if it has three channels there.

    Without `axis`, reverse it if it holds just three numbers, along whichever axis they lie.
    """
    values = numpy_helper.to_array(tensor)
    if (values.size if axis is None else values.shape[axis]) == 3:
        tensor.CopyFrom(
            numpy_helper.from_array(np.ascontiguousarray(np.flip(values, axis)), tensor.name)
        )
