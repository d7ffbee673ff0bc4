"""ONNX bytes -> a serialised TensorRT engine, with progress, on TensorRT 8.5 to 10 (11 in part)."""

from __future__ import annotations

import collections
import functools
import logging
import threading
import time
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any, Deque, Dict, Optional, Tuple

from ramnas_models.errors import BackendError

if TYPE_CHECKING:
    from ramnas_edge.engines.device_memory import Gpu

log = logging.getLogger(__name__)

MAX_BATCH = 8  # the largest for graphs with a symbolic batch; kernels are chosen for batch 1
PROGRESS_S = 5.0
# precision -> builder flag; TF32, which TensorRT sets by default, is cleared first
_FLAGS: Dict[str, Optional[str]] = {"fp32": None, "tf32": "TF32", "fp16": "FP16", "int8": "INT8"}


def check_precision(trt: Any, gpu: Gpu, model: bytes, precision: str) -> None:
    """BackendError if `model` would not run in `precision` on this TensorRT and this GPU."""
    if precision not in _FLAGS:
        raise BackendError(f"engine tensorrt runs {', '.join(_FLAGS)}, but not {precision}")
    if precision == "tf32" and gpu.compute_capability < (8, 0):
        raise BackendError(
            f"engine tensorrt: tf32 needs a GPU of compute capability 8.0 or more, {gpu.name} has "
            f"{'.'.join(map(str, gpu.compute_capability))}; use fp32 or fp16"
        )
    if precision == "int8" and b"DequantizeLinear" not in model:
        raise BackendError(
            "engine tensorrt: int8 needs a quantised graph, with QuantizeLinear and "
            "DequantizeLinear nodes; use fp16 for this one"
        )
    if precision == "fp16" and not hasattr(trt.BuilderFlag, "FP16"):
        raise BackendError(
            f"engine tensorrt: TensorRT {trt.__version__} takes fp16 from the graph only; "
            "pip install 'tensorrt<11'"
        )


@functools.lru_cache(maxsize=None)
def logger(trt: Any) -> Any:
    """TensorRT's logger, which keeps errors and passes the rest to `logging`.

    TensorRT wants only one logger per process.
    """

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: Deque[str] = collections.deque(maxlen=4)

        def log(self, severity: Any, msg: str) -> None:
            if severity.name in ("INTERNAL_ERROR", "ERROR"):
                self.errors.append(msg)
            elif severity.name == "WARNING":
                log.warning("TensorRT: %s", msg)
            elif severity.name == "INFO":
                log.debug("TensorRT: %s", msg)

        def take_errors(self) -> str:
            """The last errors in one line; they are then forgotten."""
            errors = "; ".join(self.errors) or "TensorRT gives no reason"
            self.errors.clear()
            return errors

    return Logger()


def build(trt: Any, model: bytes, precision: str, timings: bytes = b"") -> Tuple[bytes, bytes]:
    """Build the engine of `model`; returns it and its kernel timings, for the next build.

    This takes minutes. It runs in a thread of its own, so that Ctrl-C works: TensorRT 10 then stops
    at its next step. Older versions cannot stop and go on unnoticed until the process ends.
    BackendError if the parser refuses the model, with operator and node, or if the builder fails.
    """
    monitor = _monitor(trt) if hasattr(trt, "IProgressMonitor") else None
    future: Any = Future()

    def work() -> None:
        try:
            future.set_result(_build(trt, model, precision, timings, monitor))
        except BaseException as error:
            future.set_exception(error)

    start = time.monotonic()
    log.info("building an engine, which may take minutes (%s)", precision)
    thread = threading.Thread(target=work, name="tensorrt-build", daemon=True)
    try:
        thread.start()
        built: Tuple[bytes, bytes] = future.result()
    except (KeyboardInterrupt, SystemExit):
        if monitor is not None:
            monitor.cancelled = True
            if thread.is_alive():
                wait([future])
        raise
    log.info("engine built in %.0f s", time.monotonic() - start)
    return built


def _build(
    trt: Any, model: bytes, precision: str, timings: bytes, monitor: Optional[Any]
) -> Tuple[bytes, bytes]:
    logs = logger(trt)
    logs.errors.clear()  # errors about another model
    builder = trt.Builder(logs)
    explicit = getattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
    # TensorRT 8 has another mode by default, 10 has only this one, 11 does not name it any more
    network = builder.create_network(0 if explicit is None else 1 << int(explicit))
    parser = trt.OnnxParser(network, logs)
    if not parser.parse(model):
        raise BackendError(f"engine tensorrt refuses the model: {_faults(parser, model)}")
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    flag = getattr(trt.BuilderFlag, _FLAGS[precision] or "", None)
    if flag is not None:  # TensorRT 11 has no flag for INT8, it reads that from the graph
        config.set_flag(flag)
    profile = _batch_profile(builder, network)
    if profile is not None:
        config.add_optimization_profile(profile)
    cache = config.create_timing_cache(timings)
    if cache is not None:
        config.set_timing_cache(cache, ignore_mismatch=False)
    if monitor is not None:
        config.progress_monitor = monitor
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise BackendError(f"engine tensorrt cannot build the model: {logs.take_errors()}")
    learnt = config.get_timing_cache()
    return bytes(engine), timings if learnt is None else bytes(learnt.serialize())


def _batch_profile(builder: Any, network: Any) -> Optional[Any]:
    """Allows batch 1 to MAX_BATCH for inputs with a symbolic batch; None if no input has one."""
    profile = None
    for i in range(network.num_inputs):
        source = network.get_input(i)
        batch, *rest = source.shape
        if any(n < 0 for n in rest):
            raise BackendError(
                f"engine tensorrt: input {source.name} has the shape {tuple(source.shape)}; only "
                "the batch may be symbolic; export the graph with fixed height and width"
            )
        if batch < 0:
            profile = profile or builder.create_optimization_profile()
            profile.set_shape(source.name, (1, *rest), (1, *rest), (MAX_BATCH, *rest))
    return profile


def _faults(parser: Any, model: bytes) -> str:
    """The parser's errors, each with its operator and node, which are read from the graph.

    TensorRT 8 itself gives only the number of the node.
    """
    from onnx import ModelProto, TensorProto

    try:
        graph = ModelProto.FromString(model).graph
    except Exception:  # protobuf's DecodeError, whose class depends on the build of protobuf
        return "it is not ONNX"
    faults = []
    for error in (parser.get_error(i) for i in range(parser.num_errors)):
        number = error.node()
        if 0 <= number < len(graph.node):
            node = graph.node[number]
            faults.append(
                f"unsupported operator {node.op_type} at node {node.name or number}: {error.desc()}"
            )
        else:
            faults.append(error.desc())
    if any(i.type.tensor_type.elem_type == TensorProto.UINT8 for i in graph.input):
        faults.append("if the uint8 input is the reason, use the float form of the graph")
    return "; ".join(faults)


def _monitor(trt: Any) -> Any:
    """A monitor that logs how far a build is and stops it once `cancelled` is set."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.cancelled = False
            self._steps: Dict[str, int] = {}
            self._logged_s = time.monotonic()

        def phase_start(self, phase_name: str, parent_phase: Optional[str], num_steps: int) -> None:
            self._steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            if time.monotonic() - self._logged_s >= PROGRESS_S:
                self._logged_s = time.monotonic()
                log.info("%s: step %d of %d", phase_name, step + 1, self._steps.get(phase_name, 0))
            return not self.cancelled

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Monitor()
