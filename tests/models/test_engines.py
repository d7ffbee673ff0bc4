"""What engines, old and new, make of our graphs."""

from __future__ import annotations

import itertools
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest

from ramnas_models import onnx_graph
from ramnas_models.onnx_graph import Normalisation
from ramnas_models.plan import plan
from ramnas_models.space import load_space

SPACES = ("micro", "table1", "ofa_mbv3")
PYTHON38 = Path(__file__).parents[2] / ".venv38/bin/python"

# Operator -> version of it that opset 17 selects. Sources: onnxruntime's list of kernels (the CPU
# and CUDA providers have every one of these versions since 1.12, JetPack 5's builds included) and
# the operator table of the ONNX parser of TensorRT 8.5 (opset 17 or lower, no uint8).
VERSIONS = {
    "Add": 14, "AveragePool": 11, "Cast": 13, "Conv": 11, "Flatten": 13, "Gemm": 13,
    "GlobalAveragePool": 1, "HardSigmoid": 6, "Mul": 14, "Relu": 14, "Sigmoid": 13, "Sub": 14,
    "Transpose": 13,
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


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("engine", ENGINES)
def test_every_operator_that_we_emit_runs_on_every_engine(engine: str, name: str) -> None:
    limits, space = ENGINES[engine], load_space(name)
    forms = [False, True] if limits["uint8"] else [False]  # else it is given the float form
    for arch, image_input in itertools.product((space.min(), space.max()), forms):
        model = onnx_graph.build(plan(space, arch), image_input=image_input)
        assert model.opset_import[0].version <= limits["opset"]
        assert model.ir_version <= limits["ir"]
        emitted = {node.op_type for node in model.graph.node}
        assert emitted <= set(VERSIONS)
        assert not emitted & limits["lacks"]
        for op in emitted:
            schema = onnx.defs.get_schema(op, onnx_graph.OPSET)
            assert schema.since_version == VERSIONS[op], op


def test_float_form_has_no_integer_tensor() -> None:
    space = load_space("table1")
    model = onnx_graph.build(plan(space, space.max()))
    types = {t.data_type for t in model.graph.initializer}
    types |= {v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)}
    assert types == {onnx.TensorProto.FLOAT}


def test_uint8_enters_through_a_cast_that_is_the_first_node() -> None:
    space = load_space("table1")
    model = onnx_graph.build(plan(space, space.min()), image_input=True)
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert model.graph.node[0].op_type == "Cast"


def test_real_photographs_give_what_torch_gives() -> None:
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
def test_the_same_file_agrees_under_python_3_8_and_onnxruntime_1_19(
    name: str, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    if not PYTHON38.exists():
        pytest.skip("no .venv38: make test38 makes it where there is a Python 3.8")
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


def test_five_graphs_pass_nvidias_parser() -> None:
    """TensorRT-RTX parses ONNX without a GPU; its parser is NVIDIA's own."""
    reason = "pip install tensorrt-rtx-cu12-libs tensorrt-rtx-cu12-bindings runs this test"
    pytest.importorskip("tensorrt_rtx_libs", reason=reason)
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason=reason)
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    rng = np.random.default_rng(0)
    for name in ("micro", "table1", "table1", "ofa_mbv3", "ofa_mbv3"):
        space = load_space(name)
        network = builder.create_network(0)
        parser = trt.OnnxParser(network, logger)
        model = onnx_graph.build(plan(space, space.sample(rng)))
        faults = [] if parser.parse(model.SerializeToString()) else [
            str(parser.get_error(i)) for i in range(parser.num_errors)
        ]  # fmt: skip
        assert not faults
        assert network.num_layers > 20
