from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from ramnas_edge.engines import backend_ort, backends
from ramnas_edge.engines.auto import fastest
from ramnas_edge.engines.backends import Options, Stages
from ramnas_models import onnx_graph
from ramnas_models.errors import BackendError
from ramnas_models.plan import plan
from ramnas_models.quantise import quantised
from ramnas_models.space import load_space


def model() -> bytes:
    space = load_space("micro")
    data: bytes = onnx_graph.build(plan(space, space.min(), num_classes=10)).SerializeToString()
    return data


def test_a_session_describes_what_runs_and_its_inputs_and_outputs() -> None:
    backend = backends.load("onnxruntime-cpu")
    session = backend.open(model(), Options(threads=min(2, os.cpu_count() or 1)))
    (source,), (sink,) = session.inputs, session.outputs
    assert (source.name, source.shape, source.dtype) == ("image", (1, 3, 24, 24), "tensor(float)")
    assert (sink.name, sink.shape) == ("logits", (1, 10))
    running = session.running
    assert (running.engine, running.version) == ("onnxruntime-cpu", ort.__version__)
    assert running.providers == ("CPUExecutionProvider",)
    (logits,) = session.infer({"image": np.zeros((1, 3, 24, 24), np.float32)})
    assert logits.shape == (1, 10)
    session.close()


def test_the_cpu_engine_is_always_available() -> None:
    assert ("onnxruntime-cpu", ort.__version__) in backends.available()


def test_only_engines_that_open_a_model_are_available(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with onnxruntime-gpu without a GPU: CUDA is built in but does not load."""
    monkeypatch.setattr(
        backend_ort.ort, "get_available_providers",
        lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
    )  # fmt: skip
    names = {engine for engine, _ in backends.available()}
    if ort.get_device() == "CPU":
        assert names == {"onnxruntime-cpu"}


def test_auto_chooses_an_engine_that_works_and_says_why_not_the_others() -> None:
    found = fastest([model()], Options())
    assert found.engine in {engine for engine, _ in backends.available()}
    assert f"fastest of {found.engine}" in found.why
    for engine in backends.ENGINES:
        assert engine in found.why
    with pytest.raises(BackendError, match=r"no engine runs this model: .*onnxruntime-cpu"):
        fastest([b"no model"], Options())


def test_for_an_unknown_engine_the_known_ones_are_named() -> None:
    with pytest.raises(BackendError, match="unknown engine 'tvm': known are onnxruntime-cpu"):
        backends.load("tvm")


def test_a_missing_provider_is_an_error_and_never_a_silent_run_on_the_cpu() -> None:
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(BackendError, match="has no CUDAExecutionProvider"):
        backends.load("onnxruntime-cuda")


def test_a_provider_that_does_not_load_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with onnxruntime-gpu without a GPU: CUDA is listed, but the session runs on the CPU."""
    backend = backend_ort.OrtBackend("onnxruntime-cuda", "CUDAExecutionProvider")
    real = ort.InferenceSession

    def on_the_cpu(data: bytes, settings: ort.SessionOptions, **options: object) -> object:
        plain = ort.SessionOptions()
        return real(data, plain, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(backend_ort.ort, "InferenceSession", on_the_cpu)
    with pytest.raises(BackendError, match=r"CUDAExecutionProvider did not load, .* pip install"):
        backend.open(model(), Options())


def test_a_library_that_a_provider_needs_and_lacks_is_named(tmp_path: Path) -> None:
    """A real library needs another one that is missing, as the CUDA provider may lack cuBLAS."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    (tmp_path / "needed.c").write_text("int needed(void) { return 1; }")
    (tmp_path / "provider.c").write_text("int needed(void); int f(void) { return needed(); }")
    build = [compiler, "-shared", "-fPIC", "-o"]
    needed, provider = tmp_path / "libneeded.so.13", tmp_path / "libonnxruntime_providers_cuda.so"
    subprocess.run(
        [*build, needed, tmp_path / "needed.c", "-Wl,-soname,libneeded.so.13"], check=True
    )
    subprocess.run([*build, provider, tmp_path / "provider.c", needed], check=True)
    needed.unlink()
    missing = backend_ort.missing_library("CUDAExecutionProvider", tmp_path)
    assert missing.startswith("libneeded.so.13: cannot open shared object file")
    assert backend_ort.missing_library("CPUExecutionProvider", tmp_path) == ""


def test_an_inference_in_stages_gives_the_same_logits() -> None:
    session = backends.load("onnxruntime-cpu").open(model(), Options())
    image = np.random.default_rng(0).standard_normal((1, 3, 24, 24)).astype(np.float32)
    for _ in range(2):
        (plain,) = session.infer({"image": image})
        clock = itertools.count().__next__
        (staged,), stages = session.infer_staged({"image": image}, clock)
        np.testing.assert_allclose(staged, plain, atol=1e-5)
        assert stages == Stages(1, 1, 1)  # the clock is read once between two stages
    session.close()


@pytest.mark.engines
def test_openvino_runs_the_whole_graph_where_it_is_installed() -> None:
    if "OpenVINOExecutionProvider" not in ort.get_available_providers():
        pytest.skip("needs onnxruntime-openvino in place of onnxruntime")
    image = np.random.default_rng(0).standard_normal((1, 3, 24, 24)).astype(np.float32)
    found = [
        backends.load(engine).open(model(), Options()).infer({"image": image})[0]
        for engine in ("onnxruntime-cpu", "onnxruntime-openvino")
    ]
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)


def test_an_unsupported_operator_is_named_with_its_node() -> None:
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("AffineGrid", ["x", "size"], ["y"], name="grid")], "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 2, 3]),
         onnx.helper.make_tensor_value_info("size", onnx.TensorProto.INT64, [4])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
    )  # fmt: skip
    opset = [onnx.helper.make_opsetid("", 17)]
    made = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
    with pytest.raises(
        BackendError, match=r'\("grid", AffineGrid.*No Op registered for AffineGrid'
    ):
        backends.load("onnxruntime-cpu").open(made.SerializeToString(), Options())


def test_a_bad_model_input_or_precision_is_refused_with_the_reason() -> None:
    backend = backends.load("onnxruntime-cpu")
    with pytest.raises(BackendError, match="refuses the model"):
        backend.open(b"no model", Options())
    with pytest.raises(BackendError, match="precision fp16"):
        backend.open(model(), Options(precision="fp16"))
    session = backend.open(model(), Options())
    with pytest.raises(BackendError, match="failed"):
        session.infer({"image": np.zeros((1, 3, 7, 7), np.float32)})


def test_int8_runs_a_quantised_graph_and_refuses_a_float_one() -> None:
    backend = backends.load("onnxruntime-cpu")
    with pytest.raises(BackendError, match="int8 needs a quantised graph"):
        backend.open(model(), Options(precision="int8"))
    space = load_space("micro")
    graph = quantised(onnx_graph.build(plan(space, space.min(), num_classes=2)))
    session = backend.open(graph.SerializeToString(), Options(precision="int8"))
    assert session.running.precision == "int8"
    (logits,) = session.infer({"image": np.zeros((1, 3, 24, 24), np.float32)})
    assert np.isfinite(logits).all()
    session.close()


def test_probe_runs_a_network_in_the_requested_precision() -> None:
    for precision in ("fp32", "int8"):
        assert backends.probe("onnxruntime-cpu", Options(precision=precision)).version
    with pytest.raises(BackendError, match="runs fp32, int8"):
        backends.probe("onnxruntime-cpu", Options(precision="fp16"))
