"""The TensorRT engine, on a stand-in for the old and the new API, and on a GPU if there is one."""

from __future__ import annotations

import functools
import itertools
import logging
import signal
import threading
import time
import types
import weakref
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from ramnas_edge.engines import backend_trt, backends, trt_builder
from ramnas_edge.engines.backend_trt import TrtBackend
from ramnas_edge.engines.backends import Options, Stages
from ramnas_edge.engines.device_memory import Gpu
from ramnas_edge.engines.engine_cache import EngineCache
from ramnas_models import onnx_graph
from ramnas_models.errors import BackendError, OutOfMemoryError
from ramnas_models.plan import plan
from ramnas_models.space import load_space
from tests.edge.engines import fake_tensorrt
from tests.edge.engines.fake_tensorrt import HostMemory

VERSIONS = ("8.5.2.2", "10.3.0")  # JetPack 5.1, JetPack 6
ORIN = Gpu("Orin", (8, 7))
SPACE = load_space("micro")


def graph(*, image_input: bool = False, batch: Any = 1) -> bytes:
    layout = plan(SPACE, SPACE.min(), num_classes=10)
    model = onnx_graph.build(layout, image_input=image_input, batch=batch)
    data: bytes = model.SerializeToString()
    return data


def serialised(made: onnx.GraphProto) -> bytes:
    opset = [helper.make_opsetid("", 17)]
    data: bytes = helper.make_model(made, opset_imports=opset, ir_version=8).SerializeToString()
    return data


def image(batch: int = 1) -> Any:
    return np.random.default_rng(batch).integers(0, 256, (batch, 24, 24, 3), np.uint8)


def floats(batch: int = 1) -> Any:
    return np.random.default_rng(batch).standard_normal((batch, 3, 24, 24)).astype(np.float32)


def logits_of_onnxruntime(model: bytes, feeds: Dict[str, Any]) -> Any:
    session = backends.load("onnxruntime-cpu").open(model, Options())
    (logits,) = session.infer(feeds)
    session.close()
    return logits


@pytest.fixture(params=VERSIONS)
def trt(request: pytest.FixtureRequest) -> Any:
    return fake_tensorrt.make(request.param)


@pytest.fixture(autouse=True)
def _all_memory_is_freed() -> Any:
    yield
    assert HostMemory.live == []


def backend(trt: Any, folder: Path, gpu: Gpu = ORIN) -> TrtBackend:
    return TrtBackend(trt, gpu, HostMemory, EngineCache(folder))


@pytest.mark.parametrize("image_input", [False, True])
def test_a_session_computes_the_same_as_onnxruntime(
    trt: Any, tmp_path: Path, image_input: bool
) -> None:
    model = graph(image_input=image_input)
    session = backend(trt, tmp_path).open(model, Options())
    (source,), (sink,) = session.inputs, session.outputs
    assert (source.name, sink.name, sink.shape) == ("image", "logits", (1, 10))
    assert source.dtype == ("tensor(uint8)" if image_input else "tensor(float)")
    assert source.shape == ((1, 24, 24, 3) if image_input else (1, 3, 24, 24))
    running = session.running
    assert (running.engine, running.version) == ("tensorrt", trt.__version__)
    assert (running.providers, running.precision) == (("TensorRT",), "fp32")
    for shift in (0, 1):
        given = np.roll(image() if image_input else floats(), shift)
        feeds = {"image": given}
        (logits,) = session.infer(feeds)
        np.testing.assert_array_equal(logits, logits_of_onnxruntime(model, feeds))
    session.close()


def test_outputs_are_new_arrays_and_inputs_need_not_be_contiguous(trt: Any, tmp_path: Path) -> None:
    session = backend(trt, tmp_path).open(graph(), Options())
    turned = np.asfortranarray(floats())
    (first,) = session.infer({"image": turned})
    kept = first.copy()
    (second,) = session.infer({"image": np.zeros_like(turned)})
    np.testing.assert_array_equal(first, kept)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(kept, logits_of_onnxruntime(graph(), {"image": floats()}))
    session.close()


def test_stages_are_waited_for_and_timed_separately(trt: Any, tmp_path: Path) -> None:
    session = backend(trt, tmp_path).open(graph(), Options())
    clock = itertools.count().__next__
    (logits,), stages = session.infer_staged({"image": floats()}, clock)
    np.testing.assert_array_equal(logits, logits_of_onnxruntime(graph(), {"image": floats()}))
    assert stages == Stages(1, 1, 1)  # the clock is read once between two stages
    session.close()


def test_inference_allocates_no_device_memory_and_no_page_locked_memory(
    trt: Any, tmp_path: Path
) -> None:
    session = backend(trt, tmp_path).open(graph(batch=None), Options())
    (memory,) = HostMemory.live
    before = memory.allocations
    for batch in (1, 3, 1):
        session.infer({"image": floats(batch)})
    assert memory.allocations == before == 4
    session.close()


def test_a_symbolic_batch_runs_at_every_size_of_its_profile(trt: Any, tmp_path: Path) -> None:
    model = graph(batch=None, image_input=True)
    session = backend(trt, tmp_path).open(model, Options())
    assert session.inputs[0].shape == ("N", 24, 24, 3)
    assert session.outputs[0].shape == ("N", 10)
    for batch in (2, 1, trt_builder.MAX_BATCH, 1):
        (logits,) = session.infer({"image": image(batch)})
        np.testing.assert_array_equal(logits, logits_of_onnxruntime(model, {"image": image(batch)}))
    for wrong, words in ((9, "1 to 8, not 9"), (0, "1 to 8, not 0")):
        with pytest.raises(BackendError, match=words):
            session.infer({"image": np.zeros((wrong, 24, 24, 3), np.uint8)})
    with pytest.raises(BackendError, match="absent"):
        session.infer({"image": np.uint8(0)})
    session.close()


def test_inputs_that_do_not_fit_are_named(trt: Any, tmp_path: Path) -> None:
    session = backend(trt, tmp_path).open(graph(), Options())
    good = floats()
    cases: List[Tuple[Dict[str, Any], str]] = [
        ({}, "takes the inputs image, but got none"),
        ({"picture": good}, "takes the inputs image, but got picture"),
        ({"image": good, "more": good}, "but got image, more"),
        ({"image": good[:, :, :7]}, r"tensor\(float\) \[1, 3, 24, 24\], .*float32 \[1, 3, 7, 24\]"),
        ({"image": good.astype(np.float64)}, r"but is float64 \[1, 3, 24, 24\]"),
    ]
    for feeds, words in cases:
        with pytest.raises(BackendError, match=words):
            session.infer(feeds)
    (logits,) = session.infer({"image": good})
    np.testing.assert_array_equal(logits, logits_of_onnxruntime(graph(), {"image": good}))
    session.close()


def test_a_session_works_only_in_the_thread_that_opened_it(trt: Any, tmp_path: Path) -> None:
    session = backend(trt, tmp_path).open(graph(), Options())
    errors: List[str] = []

    def elsewhere() -> None:
        calls = (
            lambda: session.infer({"image": floats()}),
            lambda: session.infer_staged({"image": floats()}, lambda: 0),
            session.close,
        )
        for call in calls:
            try:
                call()
            except BackendError as error:
                errors.append(str(error))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert len(errors) == 3
    assert all("belongs to the thread that opened it" in error for error in errors)
    session.infer({"image": floats()})
    session.close()


def test_a_session_may_be_closed_twice_and_then_refuses_to_run(trt: Any, tmp_path: Path) -> None:
    session = backend(trt, tmp_path).open(graph(), Options())
    session.close()
    assert HostMemory.live == []
    session.close()
    with pytest.raises(BackendError, match="this session is closed"):
        session.infer({"image": floats()})


def test_close_waits_for_an_interrupted_inference_before_it_drops_the_context(
    trt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = backend(trt, tmp_path).open(graph(), Options())
    (memory,) = HostMemory.live
    order: List[str] = []
    sync = memory.sync

    def interrupted() -> None:
        monkeypatch.setattr(memory, "sync", lambda: (sync(), order.append("waited"))[0])
        raise KeyboardInterrupt

    monkeypatch.setattr(memory, "sync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        session.infer({"image": floats()})
    weakref.finalize(session._context, order.append, "context dropped")
    session.close()
    assert order[:2] == ["waited", "context dropped"]


def test_sessions_close_in_any_order(trt: Any, tmp_path: Path) -> None:
    opener = backend(trt, tmp_path)
    first, second = opener.open(graph(), Options()), opener.open(graph(), Options())
    first.close()
    (logits,) = second.infer({"image": floats()})
    np.testing.assert_array_equal(logits, logits_of_onnxruntime(graph(), {"image": floats()}))
    second.close()


@pytest.mark.parametrize(
    ("precision", "flags"), [("fp32", []), ("tf32", ["TF32"]), ("fp16", ["FP16"])]
)
def test_tf32_is_off_unless_it_is_asked_for(
    trt: Any, tmp_path: Path, precision: str, flags: List[str]
) -> None:
    session = backend(trt, tmp_path).open(graph(), Options(precision=precision))
    assert trt.builds == [flags]
    assert session.running.precision == precision
    session.close()


def test_a_precision_that_would_not_really_run_is_refused(tmp_path: Path) -> None:
    xavier = backend(fake_tensorrt.make("8.5.2"), tmp_path, Gpu("Xavier", (7, 2)))
    newest = backend(fake_tensorrt.make("11.4.1"), tmp_path)
    for opener, precision, words in (
        (xavier, "tf32", "compute capability 8.0 or more, Xavier has 7.2"),
        (xavier, "int8", "int8 needs a quantised graph"),
        (xavier, "bf16", "runs fp32, tf32, fp16, int8, but not bf16"),
        (newest, "fp16", "takes fp16 from the graph only; pip install 'tensorrt<11'"),
    ):
        with pytest.raises(BackendError, match=words):
            opener.open(graph(), Options(precision=precision))
    newest.open(graph(), Options(precision="tf32")).close()


def quantised() -> bytes:
    """A graph with one pair of QuantizeLinear and DequantizeLinear, with zero points of 0."""
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["logits"], name="dq"),
    ]
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in ("image", "logits")
    ]
    constants = [
        helper.make_tensor("scale", TensorProto.FLOAT, [], [0.5]),
        helper.make_tensor("zero", TensorProto.INT8, [], [0]),
    ]
    made = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    return serialised(made)


@pytest.mark.parametrize(("version", "flags"), [("10.3.0", ["INT8"]), ("11.4.1", [])])
def test_int8_runs_a_quantised_graph(version: str, flags: List[str], tmp_path: Path) -> None:
    trt = fake_tensorrt.make(version)
    session = backend(trt, tmp_path).open(quantised(), Options(precision="int8"))
    (found,) = session.infer({"image": np.array([[0.1, 0.4, 3, 99]], np.float32)})
    assert found.tolist() == [[0.0, 0.5, 3.0, 63.5]]
    assert trt.builds == [flags]
    session.close()


def test_a_tensorrt_that_is_too_old_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"8\.4\.1 is too old; .* JetPack 5\.1"):
        backend(fake_tensorrt.make("8.4.1"), tmp_path)


def test_an_engine_is_built_once_and_again_when_anything_it_depends_on_changes(
    trt: Any, tmp_path: Path
) -> None:
    for _ in range(2):
        backend(trt, tmp_path).open(graph(), Options()).close()
    assert len(trt.builds) == 1
    for opener, model, precision in (
        (backend(trt, tmp_path), graph(image_input=True), "fp32"),
        (backend(trt, tmp_path), graph(), "fp16"),
        (backend(trt, tmp_path, Gpu("Orin Nano", (8, 7))), graph(), "fp32"),
        (backend(trt, tmp_path, Gpu("Orin", (8, 9))), graph(), "fp32"),
    ):
        before = len(trt.builds)
        opener.open(model, Options(precision=precision)).close()
        assert len(trt.builds) == before + 1
    other = fake_tensorrt.make("10.13.0")
    backend(other, tmp_path).open(graph(), Options()).close()
    assert len(other.builds) == 1


@pytest.mark.parametrize("damage", ["cut short", "changed", "empty", "of another version"])
def test_an_engine_whose_cache_file_is_unusable_is_built_again(
    trt: Any, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    opener = backend(trt, tmp_path)
    opener.open(graph(), Options()).close()
    (file,) = tmp_path.glob("*.engine")
    good = file.read_bytes()
    if damage == "of another version":  # undamaged, but TensorRT refuses it
        opener.cache.write(file.name, b'{"version": "7.1", "profiles": {}}\0' + graph())
    else:
        bad = {"cut short": good[:-9], "changed": good[:-1] + b"?", "empty": b""}[damage]
        file.write_bytes(bad)
    session = opener.open(graph(), Options())
    (logits,) = session.infer({"image": floats()})
    np.testing.assert_array_equal(logits, logits_of_onnxruntime(graph(), {"image": floats()}))
    session.close()
    assert len(trt.builds) == 2
    assert file.read_bytes() == good
    assert "cannot be used; building the engine again" in caplog.text


def test_kernel_timings_are_passed_from_one_build_to_the_next(trt: Any, tmp_path: Path) -> None:
    opener = backend(trt, tmp_path)
    opener.open(graph(), Options()).close()
    opener.open(graph(image_input=True), Options()).close()
    (file,) = tmp_path.glob("*.timings")
    assert opener.cache.read(file.name) == b"++"  # each build adds what it learnt
    file.write_bytes(b"garbage")
    opener.open(graph(), Options(precision="fp16")).close()
    assert opener.cache.read(file.name) == b"+"


def unsupported() -> bytes:
    nodes = [
        helper.make_node("Relu", ["x"], ["z"], name="first"),
        helper.make_node("NonZero", ["z"], ["y"], name="where"),
    ]
    ends = [
        helper.make_tensor_value_info(name, kind, [None] * 2)
        for name, kind in (("x", TensorProto.FLOAT), ("y", TensorProto.INT64))
    ]
    made = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    return serialised(made)


def test_the_parsers_errors_name_the_operator_and_the_node(trt: Any, tmp_path: Path) -> None:
    opener = backend(trt, tmp_path)
    with pytest.raises(BackendError, match=r"unsupported operator NonZero at node where: No imp"):
        opener.open(unsupported(), Options())
    with pytest.raises(BackendError, match="refuses the model: it is not ONNX"):
        opener.open(b"no model", Options())
    assert not list(tmp_path.glob("*.engine"))


def test_if_uint8_is_refused_the_error_names_the_float_form(tmp_path: Path) -> None:
    opener = backend(fake_tensorrt.make("8.5.2", takes_uint8=False), tmp_path)
    with pytest.raises(BackendError, match=r"UINT8 .*use the float form of the graph"):
        opener.open(graph(image_input=True), Options())
    opener.open(graph(), Options()).close()


def test_only_the_batch_may_be_symbolic(trt: Any, tmp_path: Path) -> None:
    model = onnx.ModelProto.FromString(graph())
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "H"
    with pytest.raises(BackendError, match=r"input image has the shape \(1, 3, -1, 24\); only the"):
        backend(trt, tmp_path).open(model.SerializeToString(), Options())


def test_lack_of_memory_has_an_error_of_its_own(trt: Any, tmp_path: Path) -> None:
    small = TrtBackend(trt, ORIN, lambda: HostMemory(limit=64), EngineCache(tmp_path))
    with pytest.raises(OutOfMemoryError, match="memory is used up"):
        small.open(graph(), Options())


def test_the_error_of_a_failed_run_contains_tensorrts_message(
    trt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = backend(trt, tmp_path).open(graph(), Options())
    monkeypatch.setattr(session._context, "_addresses", {})
    with pytest.raises(BackendError, match="failed: image has no address or no shape"):
        session.infer({"image": floats()})
    session.close()


def test_a_build_logs_its_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trt_builder, "PROGRESS_S", 0.0)
    caplog.set_level(logging.INFO)
    backend(fake_tensorrt.make("10.3.0"), tmp_path).open(graph(), Options()).close()
    lines = caplog.messages
    assert lines[0] == "building an engine, which may take minutes (fp32)"
    assert lines[1:11] == [f"Timing graph nodes: step {i} of 10" for i in range(1, 11)]
    assert lines[-1].startswith("engine built in")


def ctrl_c() -> None:
    """Send a real SIGINT to the main thread, as a terminal does."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def comes_true(condition: Callable[[], bool]) -> bool:
    for _ in range(6000):
        if condition():
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("version", VERSIONS)
def test_ctrl_c_during_a_build_leaves_no_engine_and_no_lock(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The build runs in another thread. With TensorRT 10 that ends too, at its next step."""
    steps: List[int] = []
    ended: List[bool] = []
    caught = threading.Event()

    def step() -> None:
        steps.append(len(steps))
        if steps == [0]:
            ctrl_c()
            if version.startswith("10"):  # the build is told to stop, and main waits for it
                (monitor,) = monitors
                assert comes_true(lambda: bool(monitor.cancelled))
                time.sleep(0.2)
                ended.append(True)
            else:  # main has gone on, although the build has not ended
                assert caught.wait(60)

    trt = fake_tensorrt.make(version, step=step)
    monitors: List[Any] = []
    make_monitor = trt_builder._monitor
    monkeypatch.setattr(
        trt_builder, "_monitor", lambda trt: monitors.append(make_monitor(trt)) or monitors[0]
    )
    with pytest.raises(KeyboardInterrupt):
        backend(trt, tmp_path).open(graph(), Options())
    assert ended == ([True] if version.startswith("10") else [])
    caught.set()
    assert comes_true(lambda: "tensorrt-build" not in {t.name for t in threading.enumerate()})
    assert len(steps) == (1 if version.startswith("10") else 10)
    assert not list(tmp_path.glob("*.engine"))
    monitors.clear()
    backend(trt, tmp_path).open(graph(), Options()).close()  # the lock is free


def test_a_missing_gpu_is_reported_before_tensorrt_is_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_gpu() -> Gpu:
        raise BackendError("no CUDA driver (libcuda.so.1: not found): install NVIDIA's driver")

    monkeypatch.setattr(backend_trt.device_memory, "find_gpu", no_gpu)
    monkeypatch.setattr(backend_trt.importlib, "import_module", pytest.fail)
    with pytest.raises(BackendError, match=r"engine tensorrt: no CUDA driver .* install NVIDIA's"):
        backend_trt.load("tensorrt", "tensorrt")


def test_a_missing_tensorrt_is_reported_with_the_way_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backend_trt.device_memory, "find_gpu", lambda: ORIN)
    with pytest.raises(BackendError, match=r"TensorRT is not installed .*python3-libnvinfer"):
        backend_trt.load("tensorrt", "tensorrt_that_is_not_there")


@functools.lru_cache(maxsize=None)  # TensorRT wants one logger per process, so one module
def rtx() -> Any:
    """TensorRT-RTX: NVIDIA's own parser and builder, which need no GPU to build for one."""
    reason = "pip install tensorrt-rtx-cu12-libs tensorrt-rtx-cu12-bindings runs this test"
    pytest.importorskip("tensorrt_rtx_libs", reason=reason)
    real = pytest.importorskip("tensorrt_rtx_bindings", reason=reason)

    class BuilderForSm86:
        def __init__(self, logger: Any) -> None:
            self._real = real.Builder(logger)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

        def create_builder_config(self) -> Any:
            config = self._real.create_builder_config()
            config.num_compute_capabilities = 1
            config.set_compute_capability(real.ComputeCapability.SM86, 0)
            return config

    trt: Any = types.ModuleType("tensorrt_rtx_for_sm86")
    trt.__dict__.update({name: getattr(real, name) for name in dir(real)})
    trt.Builder = BuilderForSm86
    return trt


@pytest.mark.engines
@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")
def test_nvidias_builder_builds_every_form_of_our_graphs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trt = rtx()
    monkeypatch.setattr(trt_builder, "PROGRESS_S", 0.0)
    caplog.set_level(logging.INFO)
    for image_input, batch in itertools.product((False, True), (1, None)):
        model = graph(image_input=image_input, batch=batch)
        engine, timings = trt_builder.build(trt, model, "fp32")
        assert len(engine) > 10_000
        assert timings
    assert any(": step 1 of " in line for line in caplog.messages)


@pytest.mark.engines
@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")
def test_errors_of_nvidias_parser_and_builder_name_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trt = rtx()
    for model, words in (
        (unsupported(), "unsupported operator NonZero at node where: "),
        (b"no model", "it is not ONNX"),
    ):
        with pytest.raises(BackendError, match=words):
            trt_builder.build(trt, model, "fp32")
    with pytest.raises(BackendError, match="takes fp16 from the graph only"):
        trt_builder.check_precision(trt, ORIN, graph(), "fp16")
    monkeypatch.setattr(trt_builder, "_batch_profile", lambda builder, network: None)
    with pytest.raises(BackendError, match=r"cannot build the model: .* no optimization profile"):
        trt_builder.build(trt, graph(batch=None), "fp32")


@pytest.mark.engines
@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")
def test_nvidias_builder_stops_at_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    trt = rtx()
    real = trt_builder._monitor(trt)
    step_complete = real.step_complete
    steps: List[int] = []

    def interrupting(phase_name: str, step: int) -> bool:
        steps.append(step)
        if not real.cancelled:
            ctrl_c()
            assert comes_true(lambda: bool(real.cancelled))
        return bool(step_complete(phase_name, step))

    monkeypatch.setattr(real, "step_complete", interrupting)
    monkeypatch.setattr(trt_builder, "_monitor", lambda trt: real)
    with pytest.raises(KeyboardInterrupt):
        trt_builder.build(trt, graph(), "fp32")
    assert len(steps) < 5  # a complete build has hundreds of steps


@pytest.fixture
def on_this_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrtBackend:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    try:
        return backend_trt.load("tensorrt", "tensorrt")
    except BackendError as error:
        pytest.skip(str(error))


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("precision", "tolerance"), [("fp32", 1e-4), ("tf32", 1e-2), ("fp16", 2e-2)]
)
@pytest.mark.parametrize("image_input", [False, True])
def test_logits_on_the_gpu_equal_those_of_onnxruntime(
    on_this_gpu: TrtBackend, precision: str, tolerance: float, image_input: bool
) -> None:
    """The tolerance is the largest difference over the largest logit."""
    model = graph(image_input=image_input, batch=None)
    try:
        session = on_this_gpu.open(model, Options(precision=precision))
    except BackendError as error:
        if "compute capability" in str(error) or "from the graph only" in str(error):
            pytest.skip(str(error))
        raise
    for batch in (1, 4, 1):
        feeds = {"image": image(batch) if image_input else floats(batch)}
        expected = logits_of_onnxruntime(model, feeds)
        for found in (session.infer(feeds), session.infer_staged(feeds, time.perf_counter_ns)[0]):
            assert np.abs(found[0] - expected).max() <= tolerance * np.abs(expected).max()
    session.close()


@pytest.mark.gpu
def test_on_the_gpu_the_second_session_takes_its_engine_from_the_cache(
    on_this_gpu: TrtBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_this_gpu.open(graph(), Options()).close()
    assert len(list(tmp_path.rglob("*.engine"))) == 1
    monkeypatch.setattr(trt_builder, "build", lambda *args: pytest.fail("built again"))
    first, second = (on_this_gpu.open(graph(), Options()) for _ in range(2))
    feeds = {"image": floats()}
    np.testing.assert_array_equal(first.infer(feeds)[0], second.infer(feeds)[0])
    first.close()
    second.close()


@pytest.mark.gpu
def test_stages_on_the_gpu_take_time(on_this_gpu: TrtBackend) -> None:
    session = on_this_gpu.open(graph(), Options())
    _, stages = session.infer_staged({"image": floats()}, time.perf_counter_ns)
    assert min(stages.copy_in_ns, stages.run_ns, stages.copy_out_ns) > 0
    session.close()


@pytest.mark.gpu
def test_the_gpu_refuses_damaged_engines_without_a_crash(
    on_this_gpu: TrtBackend, tmp_path: Path
) -> None:
    on_this_gpu.open(graph(), Options()).close()
    (file,) = tmp_path.rglob("*.engine")
    content = on_this_gpu.cache.read(file.name)
    assert content is not None
    # half the engine with the right hash, so that only TensorRT can notice
    on_this_gpu.cache.write(file.name, content[: len(content) // 2])
    on_this_gpu.open(graph(), Options()).close()
    assert on_this_gpu.cache.read(file.name) != content[: len(content) // 2]
