"""Old and new engines run our graphs and give the right outputs."""

from __future__ import annotations

import itertools
import subprocess
from pathlib import Path
from typing import Any, Callable, Dict, Optional

import numpy as np
import onnx
import pytest

from ramnas_models import onnx_graph
from ramnas_models.head_plan import AnyPlan, LRASPPPlan, SSDLitePlan, lraspp, ssdlite
from ramnas_models.onnx_graph import Normalisation
from ramnas_models.plan import Plan, plan
from ramnas_models.quantise import quantised
from ramnas_models.space import load_space

SPACES = ("micro", "table1", "ofa_mbv3", "lite")
PYTHON38 = Path(__file__).parents[2] / ".venv38/bin/python"

# Operator -> the version of it that opset 17 selects. Sources: onnxruntime's list of kernels (its
# CPU and CUDA providers have all of these versions since 1.12, also in JetPack 5's builds), and
# the operator table of TensorRT 8.5's ONNX parser (opset 17 or lower, no uint8).
VERSIONS = {
    "Add": 14, "ArgMax": 13, "AveragePool": 11, "Cast": 13, "Clip": 13, "Concat": 13, "Conv": 11,
    "Flatten": 13, "Gemm": 13, "GlobalAveragePool": 1, "HardSigmoid": 6, "Mul": 14, "Relu": 14,
    "Reshape": 14, "Resize": 13, "Sigmoid": 13, "Sub": 14, "Transpose": 13,
}  # fmt: skip
ENGINES = {
    "onnxruntime CPU >= 1.12": {"opset": 17, "ir": 8, "lacks": set(), "uint8": True},
    "onnxruntime CUDA >= 1.12 (JetPack 5, 6)": {
        "opset": 17, "ir": 8, "lacks": {"ArgMax", "NonMaxSuppression"}, "uint8": True,
    },
    "TensorRT 8.5 (JetPack 5)": {
        "opset": 17, "ir": 8, "lacks": {"NonZero", "HardSwish"}, "uint8": False,
    },
    "TensorRT 10 (JetPack 6, 7)": {"opset": 20, "ir": 10, "lacks": {"NonZero"}, "uint8": True},
}  # fmt: skip


PLANS: Dict[str, Callable[[Plan], AnyPlan]] = {
    "classifier": lambda backbone: backbone,
    "ssdlite": lambda backbone: ssdlite(backbone, 10),
    "lraspp": lambda backbone: lraspp(backbone, 11),
    "lraspp, two inputs": lambda backbone: lraspp(backbone, 11, "two_input", 16),
}


@pytest.mark.parametrize("kind", PLANS)
@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("engine", ENGINES)
def test_every_operator_that_we_emit_runs_on_every_engine(
    engine: str, name: str, kind: str
) -> None:
    limits, space = ENGINES[engine], load_space(name)
    # an engine without uint8 gets float images; one without ArgMax or uint8 is asked for the logits
    inputs = [False, True] if limits["uint8"] else [False]
    class_map = limits["uint8"] and "ArgMax" not in limits["lacks"]
    outputs = [True, False] if class_map else [True]
    for arch, image_input, logits in itertools.product((space.min(), space.max()), inputs, outputs):
        layout = PLANS[kind](plan(space, arch))
        model = onnx_graph.build(layout, image_input=image_input, logits=logits)
        assert model.opset_import[0].version <= limits["opset"]
        assert model.ir_version <= limits["ir"]
        emitted = {node.op_type for node in model.graph.node}
        assert emitted <= set(VERSIONS)
        assert not emitted & limits["lacks"]
        for op in emitted:
            schema = onnx.defs.get_schema(op, onnx_graph.OPSET)
            assert schema.since_version == VERSIONS[op], op


@pytest.mark.parametrize("kind", PLANS)
def test_the_float_form_has_no_integers_except_shapes(kind: str) -> None:
    space = load_space("table1")
    model = onnx_graph.build(PLANS[kind](plan(space, space.max())), logits=True)
    types = {t.data_type for t in model.graph.initializer if not t.name.endswith(".shape")}
    types |= {v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)}
    assert types == {onnx.TensorProto.FLOAT}
    shapes = {i for n in model.graph.node if n.op_type == "Reshape" for i in n.input[1:]}
    assert shapes == {t.name for t in model.graph.initializer if t.name.endswith(".shape")}


def test_a_uint8_input_is_cast_by_the_first_node() -> None:
    space = load_space("table1")
    model = onnx_graph.build(plan(space, space.min()), image_input=True)
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert model.graph.node[0].op_type == "Cast"


def test_photographs_give_the_same_logits_as_in_torch() -> None:
    torch = pytest.importorskip("torch")
    datasets = pytest.importorskip("sklearn.datasets")
    import onnxruntime as ort

    from ramnas_models.supernet import Supernet
    from tests.models.randomised import randomise

    net = Supernet(load_space("table1"), num_classes=10).eval()
    randomise(net)
    norm = Normalisation()
    rng = np.random.default_rng(0)
    for photograph in datasets.load_sample_images().images:
        for arch in (net.space.min(), net.space.sample(rng)):
            subnet, size = net.extract(arch), arch.resolution
            rgb = photograph[50 : 50 + size, 50 : 50 + size]
            scaled = ((rgb / 255 - norm.mean) / norm.std).astype(np.float32)
            with torch.no_grad():
                expected = subnet(torch.from_numpy(scaled.transpose(2, 0, 1)[None])).numpy()
            model = onnx_graph.build(
                subnet.plan, subnet.numpy_weights(), image_input=True, normalisation=norm
            )
            session = ort.InferenceSession(
                model.SerializeToString(), providers=["CPUExecutionProvider"]
            )
            bgr = np.ascontiguousarray(rgb[None, ..., ::-1])
            (found,) = session.run(None, {"image": bgr})
            assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("name", SPACES)
def test_classifiers_give_the_same_outputs_under_python_3_8_and_onnxruntime_1_19(
    name: str, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    if not PYTHON38.exists():
        pytest.skip("needs .venv38, which make test38 creates if there is a Python 3.8")
    from ramnas_models.supernet import Supernet
    from tests.models.randomised import randomise

    net = Supernet(load_space(name), num_classes=10).eval()
    randomise(net)
    rng = np.random.default_rng(0)
    expected = []
    for i, arch in enumerate((net.space.min(), net.space.sample(rng))):
        subnet = net.extract(arch)
        x = torch.randn(1, 3, *subnet.plan.input_hw)
        with torch.no_grad():
            expected.append(subnet(x).numpy())
        model = onnx_graph.build(subnet.plan, subnet.numpy_weights())
        (tmp_path / f"{i}.onnx").write_bytes(model.SerializeToString())
        np.save(tmp_path / f"{i}.npy", x.numpy())
    code = """
import sys, numpy as np, onnxruntime as ort
print(sys.version_info[:2], ort.__version__)
for i in range(2):
    session = ort.InferenceSession(f"{i}.onnx", providers=["CPUExecutionProvider"])
    np.save(f"{i}.out.npy", session.run(None, {"image": np.load(f"{i}.npy")})[0])
"""
    ran = subprocess.run(
        [PYTHON38, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert ran.stdout.startswith("(3, 8) 1.19")
    for i, logits in enumerate(expected):
        found = np.load(tmp_path / f"{i}.out.npy")
        assert np.abs(found - logits).max() <= 1e-4 * np.abs(logits).max()


@pytest.mark.parametrize("kind", [kind for kind in PLANS if kind != "classifier"])
def test_heads_give_the_same_outputs_under_python_3_8_and_onnxruntime_1_19(
    kind: str, tmp_path: Path
) -> None:
    if not PYTHON38.exists():
        pytest.skip("needs .venv38, which make test38 creates if there is a Python 3.8")
    import onnxruntime as ort

    rng = np.random.default_rng(0)
    expected = []
    forms = list(itertools.product(SPACES, (False, True), (False, True)))
    for i, (name, image_input, logits) in enumerate(forms):
        space = load_space(name)
        layout = PLANS[kind](plan(space, space.sample(rng), input_hw=(90, 161)))
        model = onnx_graph.build(layout, image_input=image_input, logits=logits).SerializeToString()
        image = rng.integers(0, 256, (1, 90, 161, 3), np.uint8)
        if not image_input:
            image = rng.standard_normal((1, 3, 90, 161), np.float32)
        session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
        expected.append(session.run(None, {"image": image}))
        (tmp_path / f"{i}.onnx").write_bytes(model)
        np.save(tmp_path / f"{i}.npy", image)
    code = f"""
import sys, numpy as np, onnxruntime as ort
print(sys.version_info[:2], ort.__version__)
for i in range({len(forms)}):
    session = ort.InferenceSession(f"{{i}}.onnx", providers=["CPUExecutionProvider"])
    np.savez(f"{{i}}.out.npz", *session.run(None, {{"image": np.load(f"{{i}}.npy")}}))
"""
    ran = subprocess.run(
        [PYTHON38, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert ran.stdout.startswith("(3, 8) 1.19")
    for i, outputs in enumerate(expected):
        found = np.load(tmp_path / f"{i}.out.npz")
        for j, value in enumerate(outputs):
            other = found[f"arr_{j}"]
            assert other.dtype == value.dtype
            if value.dtype == np.uint8:
                assert (other != value).mean() < 1e-3  # two logits may differ by rounding only
            else:
                assert np.abs(other - value).max() <= 1e-4 * np.abs(value).max()


def nvidia() -> Any:
    """TensorRT-RTX, which contains NVIDIA's own ONNX parser and needs no GPU for parsing."""
    reason = "pip install tensorrt-rtx-cu12-libs tensorrt-rtx-cu12-bindings runs this test"
    pytest.importorskip("tensorrt_rtx_libs", reason=reason)
    return pytest.importorskip("tensorrt_rtx_bindings", reason=reason)


def parsed(trt: Any, model: onnx.ModelProto) -> Any:
    """Parse `model` with NVIDIA's parser, which must report no error; returns its network."""
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    faults = [] if parser.parse(model.SerializeToString()) else [
        str(parser.get_error(i)) for i in range(parser.num_errors)
    ]  # fmt: skip
    assert not faults
    return network, builder  # the network lives only as long as its builder


@pytest.mark.engines
@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("batch", [1, 4, None])
@pytest.mark.parametrize("image_input", [False, True])
def test_every_form_of_our_graphs_passes_nvidias_parser(
    name: str, batch: Optional[int], image_input: bool
) -> None:
    trt, space = nvidia(), load_space(name)
    for arch in (space.min(), space.max(), space.sample(np.random.default_rng(0))):
        layout = plan(space, arch)
        network, _builder = parsed(
            trt, onnx_graph.build(layout, image_input=image_input, batch=batch)
        )
        n = -1 if batch is None else batch
        shape = (n, *layout.input_hw, 3) if image_input else (n, 3, *layout.input_hw)
        assert tuple(network.get_input(0).shape) == shape
        assert tuple(network.get_output(0).shape) == (n, layout.classifier.c_out)
        assert network.num_layers > 20


@pytest.mark.engines
@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("batch", [1, None])
@pytest.mark.parametrize("image_input", [False, True])
def test_every_form_of_detectors_and_segmenters_passes_nvidias_parser(
    name: str, batch: Optional[int], image_input: bool
) -> None:
    trt, space = nvidia(), load_space(name)
    n = -1 if batch is None else batch
    for hw in ((360, 640), (33, 47)):
        detector, *segmenters = (
            PLANS[kind](plan(space, space.min(), input_hw=hw))
            for kind in ("ssdlite", "lraspp", "lraspp, two inputs")
        )
        assert isinstance(detector, SSDLitePlan)
        network, _builder = parsed(
            trt, onnx_graph.build(detector, image_input=image_input, batch=batch)
        )
        shapes = [tuple(network.get_output(i).shape) for i in range(network.num_outputs)]
        assert shapes == [(n, detector.anchors.count, 11), (n, detector.anchors.count, 4)]
        for segmenter, logits in itertools.product(segmenters, (False, True)):
            assert isinstance(segmenter, LRASPPPlan)
            model = onnx_graph.build(segmenter, image_input=image_input, batch=batch, logits=logits)
            network, _builder = parsed(trt, model)
            output = network.get_output(0)
            at = segmenter.output_hw
            assert tuple(output.shape) == ((n, 11, *at) if logits else (n, *at))
            assert output.dtype == (trt.float32 if logits else trt.uint8)


@pytest.mark.engines
@pytest.mark.parametrize("kind", PLANS)
@pytest.mark.parametrize("name", SPACES)
def test_int8_graphs_with_float_biases_pass_nvidias_parser(name: str, kind: str) -> None:
    trt, space = nvidia(), load_space(name)
    layout = PLANS[kind](plan(space, space.min()))
    for image_input in (False, True):
        model = onnx_graph.build(layout, image_input=image_input)
        network, _builder = parsed(trt, quantised(model, integer_bias=False))
        layers = [network.get_layer(i).type for i in range(network.num_layers)]
        convolutions = sum(node.op_type == "Conv" for node in model.graph.node)
        assert layers.count(trt.LayerType.CONVOLUTION) == convolutions
        assert layers.count(trt.LayerType.DEQUANTIZE) > convolutions


@pytest.mark.engines
@pytest.mark.parametrize("kind", PLANS)
def test_openvino_gives_the_outputs_of_onnxruntime_for_relu6_and_same_padding(kind: str) -> None:
    import onnxruntime as ort

    if "OpenVINOExecutionProvider" not in ort.get_available_providers():
        pytest.skip("needs onnxruntime-openvino in place of onnxruntime")
    space = load_space("lite")
    layout = PLANS[kind](plan(space, space.max(), input_hw=(97, 128)))
    model = onnx_graph.build(layout, logits=True).SerializeToString()
    image = np.random.default_rng(0).standard_normal((1, 3, 97, 128), np.float32)
    found = [
        ort.InferenceSession(model, providers=[f"{name}ExecutionProvider"]).run(
            None, {"image": image}
        )
        for name in ("CPU", "OpenVINO")
    ]
    for ours, theirs in zip(*found):
        assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(ours).max()
