from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from ramnas_models import onnx_graph
from ramnas_models.plan import plan
from ramnas_models.quantise import quantised
from ramnas_models.space import load_space

SPACE = load_space("micro")


def run(model: onnx.ModelProto, image: np.ndarray, *extra: str) -> list[np.ndarray]:
    """The logits and then the activations named in `extra`."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in extra)
    session = ort.InferenceSession(shown.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": image})


def activations(model: onnx.ModelProto) -> list[str]:
    names = [node.output[0] for node in model.graph.node]
    return [n for n in names if n != "logits"]


@pytest.mark.parametrize("image_input", [False, True])
def test_int8_with_calibrated_ranges_gives_nearly_the_float_logits(image_input: bool) -> None:
    rng = np.random.default_rng(0)
    for arch in (SPACE.min(), SPACE.max(), SPACE.sample(rng)):
        layout = plan(SPACE, arch, num_classes=10)
        model = onnx_graph.build(layout, image_input=image_input)
        height, width = layout.input_hw
        if image_input:
            image = rng.integers(0, 256, (1, height, width, 3), np.uint8)
        else:
            image = rng.standard_normal((1, 3, height, width)).astype(np.float32)
        names = activations(model)
        expected, *values = run(model, image, *names)
        ranges = {name: float(np.abs(value).max()) for name, value in zip(names, values)}
        ranges["image"] = float(np.abs(image).max())
        small = quantised(model, ranges)
        onnx.checker.check_model(small, full_check=True)
        (found,) = run(small, image)
        error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        assert error < 0.1
        (rough,) = run(quantised(model, dict.fromkeys(ranges, 100.0)), image)
        assert np.linalg.norm(rough - expected) > np.linalg.norm(found - expected)


@pytest.mark.parametrize("largest", [1, 8])
def test_what_a_relu6_reads_has_the_range_of_what_it_writes(largest: int) -> None:
    """Otherwise the values that it cuts off would make the steps of those that it keeps coarse."""
    space = load_space("lite")
    model = onnx_graph.build(plan(space, space.max(), num_classes=10, input_hw=(64, 64)))
    image = largest * np.random.default_rng(0).standard_normal((1, 3, 64, 64), np.float32)
    names = activations(model)
    expected, *values = run(model, image, *names)
    ranges = {name: float(np.abs(value).max()) for name, value in zip(names, values)}
    ranges["image"] = float(np.abs(image).max())
    small = quantised(model, ranges)
    scales = {t.name: onnx.numpy_helper.to_array(t) for t in small.graph.initializer}
    clips = [node for node in model.graph.node if node.op_type == "Clip"]
    for clip in clips:
        assert scales[f"{clip.input[0]}.scale"] == np.float32(ranges[clip.output[0]] / 127)
    assert any(ranges[clip.input[0]] > 6 for clip in clips)
    (found,) = run(small, image)
    assert np.linalg.norm(found - expected) < 0.1 * np.linalg.norm(expected)  # 0.15 without


def test_int8_of_a_net_with_relu6_keeps_its_constants_and_has_every_convolution_in_int8(
    tmp_path: Path,
) -> None:
    space = load_space("lite")
    model = onnx_graph.build(plan(space, space.min(), num_classes=10))
    small = quantised(model)
    floats = [t for t in small.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    others = {t.name for t in floats if not t.name.endswith(".scale")}
    assert others == {"relu6.0", "relu6.6"}
    for node in (n for n in small.graph.node if n.op_type == "Clip"):
        assert node.input[1:] == ["relu6.0", "relu6.6"]
    ops = optimised(small, tmp_path)
    assert ops.count("QLinearConv") == sum(n.op_type == "Conv" for n in model.graph.node)
    assert not {"Conv", "Gemm", "Add"} & set(ops)


def test_the_graph_shrinks_and_no_float_weight_stays() -> None:
    layout = plan(SPACE, SPACE.max(), num_classes=10)
    model = onnx_graph.build(layout)
    small = quantised(model)
    assert small.ByteSize() < 0.45 * model.ByteSize()
    floats = [t for t in small.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    assert all(t.name.endswith(".scale") for t in floats)


def optimised(model: onnx.ModelProto, tmp_path: Path) -> list[str]:
    """The operators that onnxruntime turns the graph into, with the settings of our engine."""
    settings = ort.SessionOptions()
    settings.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.qdqisint8allowed", "1")
    ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    return [n.op_type for n in onnx.load(settings.optimized_model_filepath).graph.node]


def test_onnxruntime_runs_every_convolution_and_swish_in_int8(tmp_path: Path) -> None:
    model = onnx_graph.build(plan(SPACE, SPACE.max(), num_classes=10))
    ops = optimised(quantised(model), tmp_path)
    convolutions = [n for n in model.graph.node if n.op_type == "Conv"]
    assert ops.count("QLinearConv") == len(convolutions)
    assert not {"Conv", "Gemm", "Sigmoid", "Add"} & set(ops)
    assert ops.count("Mul") == 1  # in the last swish, whose output is only reshaped


def test_float_biases_give_the_same_logits_without_int32_tensors() -> None:
    layout = plan(SPACE, SPACE.max(), num_classes=10)
    weights = {
        layer.key + ".bias": np.linspace(-2, 2, layer.c_out, dtype=np.float32)
        for layer in layout.layers()
    }
    model = onnx_graph.build(layout)
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            tensor.raw_data = weights[tensor.name].tobytes()
    image = np.random.default_rng(0).standard_normal((1, 3, *layout.input_hw), np.float32)
    small = quantised(model, integer_bias=False)
    onnx.checker.check_model(small, full_check=True)
    assert all(t.data_type != onnx.TensorProto.INT32 for t in small.graph.initializer)
    (found,), (expected,) = run(small, image), run(quantised(model), image)
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
    (bare,) = run(quantised(onnx_graph.build(layout), integer_bias=False), image)
    assert np.abs(found - bare).max() > 0.05 * np.abs(expected).max()  # so the biases took part
