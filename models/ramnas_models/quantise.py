"""One of our float ONNX graphs -> the same in int8, by QuantizeLinear and DequantizeLinear pairs.

Weights are quantised per output channel and activations per tensor, both symmetrically. That is the
one form that onnxruntime (int8 kernels) and TensorRT (explicit quantisation, zero points 0) both
run, except for the biases.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WEIGHTED = ("Conv", "Gemm")
# these come before the stem or only move values: quantise one only if it follows a convolution
_LAYOUT = ("Cast", "Sub", "Transpose", "Reshape", "Flatten", "Concat")
# half of the 127 steps: on x86 without VNNI, onnxruntime's kernels add two products in 16 bits,
# which weights of 8 bits would overflow (onnxruntime's own tools call this reduce_range)
WEIGHT_STEPS = 63
TIMING_RANGE = 8.0  # suits our random networks; the range does not change what an engine does


def quantised(
    model: ModelProto, ranges: Optional[Mapping[str, float]] = None, *, integer_bias: bool = True
) -> ModelProto:
    """`model` in int8; its inputs and outputs keep their types.

    `ranges` gives the largest magnitude of each activation by tensor name, from calibration images.
    Without it, all activations share one range. Like random weights, that is good only for timing.
    What a Clip (a relu6) reads gets the range of what it writes, since it lets no more through.

    `integer_bias` stores biases as int32 behind DequantizeLinear; otherwise onnxruntime 1.19 leaves
    the convolutions in float. TensorRT refuses int32 there, so pass False to keep its biases float.
    """
    made = ModelProto()
    made.CopyFrom(model)
    graph = _Quantising(made, ranges or {}, integer_bias)
    nodes = list(made.graph.node)
    del made.graph.node[:]
    weighted = {node.output[0] for node in nodes if node.op_type in _WEIGHTED}
    for node in nodes:
        if node.op_type in _WEIGHTED:
            graph.weighted(node)
        else:
            if node.op_type not in _LAYOUT or weighted & set(node.input):
                node.input[:] = [graph.activation(name) for name in node.input]
            made.graph.node.append(node)
    kept = [t for t in made.graph.initializer if t.name not in graph.replaced]
    del made.graph.initializer[:]
    made.graph.initializer.extend([*kept, *graph.tensors])
    return made


class _Quantising:
    def __init__(self, model: ModelProto, ranges: Mapping[str, float], integer_bias: bool) -> None:
        self.graph, self.ranges, self.integer_bias = model.graph, ranges, integer_bias
        self.floats = {t.name: t for t in model.graph.initializer}
        self.tensors: List[TensorProto] = []
        self.replaced: Dict[str, str] = {}
        self._pairs: Dict[str, str] = {}  # activation -> its name behind the pair of nodes
        read = Counter(name for node in model.graph.node for name in node.input)
        self._clipped = {  # what only a Clip reads -> what the Clip writes
            node.input[0]: node.output[0]
            for node in model.graph.node
            if node.op_type == "Clip" and read[node.input[0]] == 1
        }

    def scale(self, name: str) -> float:
        name = self._clipped.get(name, name)
        return max(self.ranges.get(name, TIMING_RANGE), 1e-6) / 127

    def activation(self, name: str) -> str:
        """The name of activation `name` behind its pair of nodes, which is added once.

        Constants keep their name. So does the empty name, which means an input that is left out.
        """
        if not name or name in self.floats or name in self._pairs:
            return self._pairs.get(name, name)
        scale = self.tensor(f"{name}.scale", np.array(self.scale(name), np.float32))
        zero = self.tensor(f"{name}.zero", np.array(0, np.int8))
        self.node("QuantizeLinear", [name, scale, zero], f"{name}.int8")
        self._pairs[name] = self.node(
            "DequantizeLinear", [f"{name}.int8", scale, zero], f"{name}.real"
        )
        return self._pairs[name]

    def weighted(self, node: NodeProto) -> None:
        x, w, *bias = node.input
        weight = numpy_helper.to_array(self.floats[w])
        largest = np.abs(weight).reshape(len(weight), -1).max(1)
        scale = np.maximum(largest, 1e-6).astype(np.float32) / np.float32(WEIGHT_STEPS)
        steps = np.round(weight / scale.reshape(-1, *[1] * (weight.ndim - 1)))
        inputs = [self.activation(x), self.constant(w, steps.astype(np.int8), scale)]
        if bias and not self.integer_bias:
            inputs.extend(bias)
        elif bias:  # int32 in the unit of the accumulator: input scale times weight scale
            both = scale * np.float32(self.scale(x))
            steps = np.round(numpy_helper.to_array(self.floats[bias[0]]) / both)
            inputs.append(self.constant(bias[0], steps.astype(np.int32), both))
        node.input[:] = inputs
        self.graph.node.append(node)

    def constant(self, name: str, steps: NDArray[np.generic], scale: NDArray[np.float32]) -> str:
        """Replace tensor `name` by integers with one scale per row; returns its new name."""
        self.replaced[name] = f"{name}.real"
        inputs = [
            self.tensor(f"{name}.steps", steps),
            self.tensor(f"{name}.scale", scale),
            self.tensor(f"{name}.zero", np.zeros(len(scale), steps.dtype)),
        ]
        return self.node("DequantizeLinear", inputs, f"{name}.real", axis=0)

    def tensor(self, name: str, value: NDArray[np.generic]) -> str:
        self.tensors.append(numpy_helper.from_array(value, name))
        return name

    def node(self, op: str, inputs: List[str], out: str, **attributes: Any) -> str:
        self.graph.node.append(helper.make_node(op, inputs, [out], name=out, **attributes))
        return out
