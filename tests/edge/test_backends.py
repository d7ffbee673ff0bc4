from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

from ramnas_edge import backend_ort, backends
from ramnas_edge.backends import Options
from ramnas_models import onnx_graph
from ramnas_models.errors import BackendError
from ramnas_models.plan import plan
from ramnas_models.space import load_space


def model() -> bytes:
    space = load_space("micro")
    data: bytes = onnx_graph.build(plan(space, space.min(), num_classes=10)).SerializeToString()
    return data


def test_session_says_what_runs_and_what_goes_in_and_out() -> None:
    backend = backends.load("onnxruntime-cpu")
    session = backend.open(model(), Options(threads=2))
    (source,), (sink,) = session.inputs, session.outputs
    assert (source.name, source.shape, source.dtype) == ("image", (1, 3, 24, 24), "tensor(float)")
    assert (sink.name, sink.shape) == ("logits", (1, 10))
    running = session.running
    assert (running.engine, running.version) == ("onnxruntime-cpu", ort.__version__)
    assert running.providers == ("CPUExecutionProvider",)
    (logits,) = session.infer({"image": np.zeros((1, 3, 24, 24), np.float32)})
    assert logits.shape == (1, 10)
    session.close()


def test_cpu_is_always_available() -> None:
    assert ("onnxruntime-cpu", ort.__version__) in backends.available()


def test_unknown_engine_says_what_is_known() -> None:
    with pytest.raises(BackendError, match="unknown engine 'tvm': known are onnxruntime-cpu"):
        backends.load("tvm")


def test_absent_provider_is_an_error_and_never_a_quiet_cpu_run() -> None:
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(BackendError, match="has no CUDAExecutionProvider"):
        backends.load("onnxruntime-cuda")


def test_provider_that_does_not_load_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with onnxruntime-gpu and no GPU: the provider is listed, the session is another's."""
    backend = backend_ort.OrtBackend("onnxruntime-cuda", "CUDAExecutionProvider")
    real = ort.InferenceSession

    def quiet(data: bytes, settings: ort.SessionOptions, providers: object) -> object:
        plain = ort.SessionOptions()
        return real(data, plain, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(backend_ort.ort, "InferenceSession", quiet)
    with pytest.raises(BackendError, match="CUDAExecutionProvider did not load"):
        backend.open(model(), Options())


def test_bad_model_input_and_precision_are_named() -> None:
    backend = backends.load("onnxruntime-cpu")
    with pytest.raises(BackendError, match="refuses the model"):
        backend.open(b"no model", Options())
    with pytest.raises(BackendError, match="precision fp16"):
        backend.open(model(), Options(precision="fp16"))
    session = backend.open(model(), Options())
    with pytest.raises(BackendError, match="failed"):
        session.infer({"image": np.zeros((1, 3, 7, 7), np.float32)})
