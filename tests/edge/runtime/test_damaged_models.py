"""Graphs that a bundle holds but no engine can run well are refused in one line that says why."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Dict

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

from ramnas_edge.__main__ import main
from ramnas_edge.engines import auto, backends
from ramnas_edge.engines.backends import Options, check_finite
from ramnas_edge.runtime import Runtime
from ramnas_edge.vision.pipeline import open_pipeline
from ramnas_models.bundle import Bundle
from ramnas_models.errors import BackendError, BundleError
from tests.edge.vision.test_sources import an_image
from tests.models.bundles import classifiers, heads, written

Change = Callable[[ModelProto], None]


@pytest.fixture(autouse=True)
def nothing_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def changed(path: Path, task: str, change: Change) -> Bundle:
    """A bundle of which every graph was changed; its hashes are right."""
    front, files = classifiers() if task == "classification" else heads(task)
    new: Dict[str, bytes] = {}
    for name, data in files.items():
        proto = ModelProto.FromString(data)
        change(proto)
        new[name] = proto.SerializeToString()
    return written(path, (front, new))


def weights(change: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Change the weights of every convolution."""

    def changing(proto: ModelProto) -> None:
        for tensor in proto.graph.initializer:
            values = numpy_helper.to_array(tensor)
            if values.dtype == np.float32 and values.ndim == 4:
                new = change(values).astype(np.float32)
                tensor.CopyFrom(numpy_helper.from_array(new, tensor.name))

    return changing


def external(proto: ModelProto) -> None:
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")


def newer_opset(proto: ModelProto) -> None:
    proto.opset_import[0].version = 99


def newer_ir(proto: ModelProto) -> None:
    proto.ir_version = 99


def unknown_operator(proto: ModelProto) -> None:
    next(node for node in proto.graph.node if node.op_type == "Conv").op_type = "Convolve"


def custom_operator(proto: ModelProto) -> None:
    next(node for node in proto.graph.node if node.op_type == "Conv").domain = "com.acme"


def swapped(proto: ModelProto) -> None:
    outputs = list(proto.graph.output)
    del proto.graph.output[:]
    proto.graph.output.extend(outputs[::-1])


def one_output(proto: ModelProto) -> None:
    del proto.graph.output[1:]


def no_output(proto: ModelProto) -> None:
    del proto.graph.output[:]


def no_input(proto: ModelProto) -> None:
    del proto.graph.input[:]


NAN = weights(lambda values: values * np.nan)
CASES = (
    ("classification", external, "lie in another file (external data)"),
    ("classification", newer_opset, "install a newer onnxruntime"),
    ("classification", newer_ir, "Unsupported model IR version: 99"),
    ("classification", unknown_operator, "No Op registered for Convolve"),
    ("classification", custom_operator, "com.acme"),
    ("classification", no_output, "has 1 inputs and 0 outputs"),
    ("classification", no_input, "has 0 inputs and 1 outputs"),
    ("classification", NAN, "answers with NaN or infinity in fp32"),
    ("detection", NAN, "answers with NaN or infinity in fp32"),
    ("detection", swapped, "has outputs box_regression of shape [210, 4], class_logits of"),
    ("detection", one_output, "but the 3 classes of the manifest need [210, 4] and [210, 4]"),
)  # fmt: skip


@pytest.mark.parametrize(("task", "change", "reason"), CASES)
def test_a_model_that_cannot_be_run_is_one_line_and_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], task: str, change: Change, reason: str
) -> None:
    changed(tmp_path / "b", task, change)
    an_image(tmp_path / "x.png")
    for engine in ("onnxruntime-cpu", "auto"):
        argv = ["run", "--bundle", f"{tmp_path}/b", "--source", f"{tmp_path}/x.png"]
        assert main([*argv, "--engine", engine]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        (line,) = err.splitlines()
        assert line.startswith("error: ")
        assert reason in line


def test_the_line_names_the_model(tmp_path: Path) -> None:
    for number, (task, change, _) in enumerate(CASES):
        bundle = changed(tmp_path / str(number), task, change)
        model = bundle.front().models[-1]
        with pytest.raises((BackendError, BundleError), match=f"{model.name}|{model.file}"):
            Runtime.open(bundle.path, engine="onnxruntime-cpu")


@pytest.mark.parametrize("task", ["classification", "detection", "segmentation"])
def test_classes_of_another_number_than_those_of_the_graph_are_refused(
    tmp_path: Path, task: str
) -> None:
    import msgspec

    front, files = classifiers() if task == "classification" else heads(task)
    backend = backends.load("onnxruntime-cpu")
    for classes in (("a", "b"), ("a",), ("a", "b", "c", "d")):
        other = msgspec.structs.replace(front, classes=classes)
        bundle = written(tmp_path / str(len(classes)), (other, files))
        opened = bundle.front()
        if task == "segmentation" and len(classes) > 2:
            open_pipeline(bundle, opened, opened.models[0], backend, Options()).close()
            continue  # a class that never comes is no fault of a class map
        if task == "segmentation" and len(classes) == 2:
            continue  # it depends on the weights whether the third class comes
        with pytest.raises(BundleError, match=f"the {len(classes)} classes of the manifest need"):
            open_pipeline(bundle, opened, opened.models[0], backend, Options())


def test_an_engine_that_answers_nan_is_not_the_fastest_but_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where fp16 overflows in one engine only, another one runs the model."""
    bundle = written(tmp_path / "b", classifiers())
    real = backends.load("onnxruntime-cpu")

    class Overflowing:
        version, thread_bound = real.version, False

        def open(self, model: bytes, options: Options) -> backends.Session:
            session = real.open(model, options)
            infer = session.infer
            monkeypatch.setattr(
                session, "infer", lambda feeds: [out * np.float32(np.nan) for out in infer(feeds)]
            )
            return session

    def load(engine: str) -> backends.Backend:
        if engine == "onnxruntime-cuda":
            return Overflowing()
        if engine == "onnxruntime-cpu":
            return real
        raise BackendError(f"engine {engine} is not here")

    monkeypatch.setattr(backends, "load", load)
    model = bundle.read_model(bundle.front().models[0])
    found = auto.fastest([model], Options())
    assert found.engine == "onnxruntime-cpu"
    assert "answers with NaN or infinity in fp32" in found.why
    with pytest.raises(BackendError, match=r"model .* answers with NaN or infinity"):
        Runtime.open(tmp_path / "b", engine="onnxruntime-cuda")


def test_answers_of_all_types_are_looked_at() -> None:
    running = backends.Running("some", "1", (), "fp16")
    for dtype in (np.float16, np.float32, np.float64):
        check_finite(running, [np.full((2, 3), -65_000, dtype)])
        for bad in (np.nan, np.inf, -np.inf):
            answer = np.zeros((2, 3), dtype)
            answer[1, 2] = bad
            with pytest.raises(BackendError, match=r"engine some answers with NaN .* in fp16"):
                check_finite(running, [np.zeros(1, dtype), answer])
    check_finite(running, [np.zeros(3, np.uint8), np.zeros(3, np.int64)])
