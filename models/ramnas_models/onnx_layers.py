"""The layers of a plan -> nodes and initialisers of an ONNX graph, with BatchNorm folded in."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Tuple

import msgspec
import numpy as np
from onnx import ModelProto, TensorProto, helper

from ramnas_models.plan import Conv, Linear, MBConv, Shortcut, SqueezeExcite

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float32]

OPSET, IR_VERSION = 17, 8  # every onnxruntime since 1.12 loads these, also on JetPack 5


class Normalisation(msgspec.Struct, frozen=True):
    """(x / 255 - mean) / std; mean and std are in the order of `channels` ("rgb" or "bgr").

    A uint8 image input is always BGR, as OpenCV reads it; a float input is already normalised.
    """

    mean: Tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: Tuple[float, float, float] = (0.229, 0.224, 0.225)
    channels: str = "rgb"


class Graph:
    """An ONNX graph being built: nodes and initialisers are appended in order of execution.

    They are written straight into the model, because the onnx package's helpers would copy all
    weights twice.
    """

    def __init__(self, weights: Optional[Mapping[str, Array]]) -> None:
        self.model = ModelProto(ir_version=IR_VERSION, producer_name="ramnas")
        self.model.opset_import.append(helper.make_opsetid("", OPSET))
        self.proto = self.model.graph
        self._weights = weights
        self._ends: List[str] = []  # the two constants that all relu6 share

    # -- the network -----------------------------------------------------------------------------

    def block(self, x: str, block: MBConv) -> str:
        shortcut = self.shortcut(x, block.shortcut) if block.shortcut else None
        if block.expand:
            x = self.conv(x, block.expand)
        x = self.conv(x, block.depthwise)
        if block.se:
            x = self.squeeze_excite(x, block.se)
        # random weights only: small residual branches keep the sum over many blocks in range
        x = self.conv(x, block.project, gain=0.2 if block.shortcut else 1.0)
        return x if shortcut is None else self.node("Add", [x, shortcut])

    def shortcut(self, x: str, shortcut: Shortcut) -> str:
        if shortcut.pool:
            # count_include_pad: padded zeros count in the mean, as in the supernet
            x = self.node(
                "AveragePool", [x], kernel_shape=[2, 2], strides=[2, 2],
                pads=[*shortcut.pool_padding] * 2, count_include_pad=1,
            )  # fmt: skip
        return self.conv(x, shortcut.conv) if shortcut.conv else x

    def squeeze_excite(self, x: str, se: SqueezeExcite) -> str:
        scale = self.node("GlobalAveragePool", [x])
        scale = self.conv(self.conv(scale, se.reduce), se.expand)
        return self.node("Mul", [x, self.hard_sigmoid(scale)])

    def hard_sigmoid(self, x: str) -> str:
        """relu6(x + 3) / 6."""
        return self.node("HardSigmoid", [x], alpha=1 / 6, beta=0.5)

    def conv(self, x: str, layer: Conv, *, gain: float = 1.0, out: Optional[str] = None) -> str:
        return self._conv(x, layer, *self._conv_weights(layer, gain), out)

    def convs_1x1(self, x: str, first: Conv, second: Conv) -> str:
        """Two 1x1 convolutions with nothing between them, merged into one."""
        (a, _), (b, bias) = self._conv_weights(first), self._conv_weights(second)
        both = (b[:, :, 0, 0] @ a[:, :, 0, 0])[:, :, None, None]
        return self._conv(x, replace(second, c_in=first.c_in), both, bias)

    def image(self, x: str, layer: Conv, normalisation: Normalisation) -> str:
        """uint8 NHWC BGR -> the stem's output; channel order and 1 / std go into its weights.

        A node of its own subtracts the mean: the convolution pads with zeros after normalisation,
        so a mean folded into the bias would be wrong along the border.
        """
        weight, bias = self._conv_weights(layer)
        weight = weight / (255 * np.asarray(normalisation.std, np.float32)[:, None, None])
        mean = 255 * np.asarray(normalisation.mean, np.float32)
        if normalisation.channels == "rgb":
            weight, mean = weight[:, ::-1], mean[::-1]
        x = self.node("Cast", [x], to=TensorProto.FLOAT)
        # transpose first: subtracting one number per plane is ten times as fast as three per pixel
        x = self.node("Transpose", [x], perm=[0, 3, 1, 2])
        x = self.node("Sub", [x, self.tensor("image.mean", mean[:, None, None])])
        return self._conv(x, layer, weight, bias)

    def linear(self, x: str, layer: Linear, out: str) -> str:
        weight = self._weight(f"{layer.key}.weight", (layer.c_out, layer.c_in))
        bias = self._bias(f"{layer.key}.bias", layer.c_out)
        inputs = [x, self.tensor(f"{layer.key}.weight", weight)]
        return self.node("Gemm", [*inputs, self.tensor(f"{layer.key}.bias", bias)], out, transB=1)

    # -- nodes and tensors -----------------------------------------------------------------------

    def node(self, op: str, inputs: List[str], out: Optional[str] = None, **attributes: Any) -> str:
        name = out or f"{op}_{len(self.proto.node)}"
        node = self.proto.node.add(op_type=op, name=name, input=inputs, output=[name])
        node.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
        return name

    def tensor(self, name: str, value: NDArray[Any]) -> str:
        """Add an initialiser: int64 if `value` is int64 (a shape), else float32."""
        whole = value.dtype == np.int64
        data = np.ascontiguousarray(value, np.int64 if whole else np.float32)
        dtype = TensorProto.INT64 if whole else TensorProto.FLOAT
        tensor = self.proto.initializer.add(name=name, data_type=dtype, dims=data.shape)
        tensor.raw_data = data.tobytes()
        return name

    def _conv(
        self, x: str, layer: Conv, weight: Array, bias: Optional[Array], out: Optional[str] = None
    ) -> str:
        inputs = [x, self.tensor(f"{layer.key}.weight", weight)]
        if bias is not None:
            inputs.append(self.tensor(f"{layer.key}.bias", bias))
        x = self.node(
            "Conv", inputs, None if layer.act else out,
            kernel_shape=[layer.kernel] * 2, strides=[layer.stride] * 2,
            dilations=[layer.dilation] * 2, pads=layer.pads(layer.in_hw),
            group=layer.c_in if layer.depthwise else 1,
        )  # fmt: skip
        if layer.act == "swish":
            return self.node("Mul", [x, self.node("Sigmoid", [x])], out)
        if layer.act == "hswish":  # HardSwish itself is missing in older engines
            return self.node("Mul", [x, self.hard_sigmoid(x)], out)
        if layer.act == "relu":
            return self.node("Relu", [x], out)
        if layer.act == "relu6":
            if not self._ends:
                self._ends = [
                    self.tensor(f"relu6.{end}", np.array(end, np.float32)) for end in (0, 6)
                ]
            return self.node("Clip", [x, *self._ends], out)
        return x

    def _conv_weights(self, layer: Conv, gain: float = 1.0) -> Tuple[Array, Optional[Array]]:
        """The weight and the bias, with BatchNorm folded in."""
        weight = self._weight(f"{layer.key}.weight", layer.weight_shape, gain)
        if not layer.norm:
            return weight, self._bias(f"{layer.key}.bias", layer.c_out) if layer.bias else None
        if self._weights is None:
            return weight, self._bias("", layer.c_out)
        gamma, beta, mean, var = (
            self._weights[f"{layer.key}.bn.{part}"]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / np.sqrt(var + layer.eps)
        return weight * scale[:, None, None, None], beta - mean * scale

    def _weight(self, key: str, shape: Tuple[int, ...], gain: float = 1.0) -> Array:
        if self._weights is not None:
            return self._weights[key]
        std = gain * math.sqrt(2 / math.prod(shape[1:]))  # He initialisation
        return _noise(round(2 * math.log2(std)), math.prod(shape)).reshape(shape)

    def _bias(self, key: str, size: int) -> Array:
        return np.zeros(size, np.float32) if self._weights is None else self._weights[key]


_shared_noise: Dict[int, Array] = {}


def _noise(half_octave: int, size: int) -> Array:
    """`size` normal numbers of std 2 ** (half_octave / 2), from a buffer that all layers share.

    Timing does not depend on the values as long as there are no denormals and infinities. So a
    std within 20 % is good enough, and nothing is computed twice.
    """
    known = _shared_noise.get(half_octave)
    if known is None or known.size < size:
        fresh = np.random.default_rng(0).standard_normal(size, np.float32)
        known = _shared_noise[half_octave] = fresh * np.float32(2 ** (half_octave / 2))
    return known[:size]
