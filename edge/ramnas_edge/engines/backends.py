"""The interface of all engines: a model in, a session out; each is imported only when asked for."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, List, Mapping, Protocol, Tuple

from ramnas_edge.board.cores import usable
from ramnas_models import onnx_graph
from ramnas_models.errors import BackendError
from ramnas_models.plan import plan
from ramnas_models.quantise import quantised
from ramnas_models.space import load_space

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from onnx import ModelProto

    Array = NDArray[np.generic]

Clock = Callable[[], int]  # nanoseconds, monotonic

# engine -> (its module, the name that the module's `load` takes)
ENGINES: Dict[str, Tuple[str, str]] = {
    "onnxruntime-cpu": ("ramnas_edge.engines.backend_ort", "CPUExecutionProvider"),
    "onnxruntime-cuda": ("ramnas_edge.engines.backend_ort", "CUDAExecutionProvider"),
    "onnxruntime-tensorrt": ("ramnas_edge.engines.backend_ort", "TensorrtExecutionProvider"),
    "onnxruntime-openvino": ("ramnas_edge.engines.backend_ort", "OpenVINOExecutionProvider"),
    "tensorrt": ("ramnas_edge.engines.backend_trt", "tensorrt"),
}


@dataclass(frozen=True)
class Options:
    """How to run a model.

    `precision` is fp32, tf32, fp16 or int8, if the engine has it. Only CPU engines use `threads`.
    """

    precision: str = "fp32"
    threads: int = 1


@dataclass(frozen=True)
class TensorSpec:
    """The name, shape and type of an input or output; a symbolic dimension is a str."""

    name: str
    shape: Tuple[Any, ...]
    dtype: str


@dataclass(frozen=True)
class Running:
    """What really runs, as the engine itself reports it."""

    engine: str
    version: str
    providers: Tuple[str, ...]
    precision: str


@dataclass(frozen=True)
class Stages:
    """One inference in nanoseconds: input to the engine, the engine's work, outputs to the host."""

    copy_in_ns: int
    run_ns: int
    copy_out_ns: int

    def by_stage(self) -> Dict[str, float]:
        """Milliseconds by the name of the stage."""
        return {
            "copy_in": self.copy_in_ns / 1e6,
            "run": self.run_ns / 1e6,
            "copy_out": self.copy_out_ns / 1e6,
        }


class Session(Protocol):
    inputs: List[TensorSpec]
    outputs: List[TensorSpec]
    running: Running

    def infer(self, feeds: Mapping[str, Array]) -> List[Array]:
        """Host buffers in, outputs back on the host, in the order of `outputs`."""
        ...

    def infer_staged(self, feeds: Mapping[str, Array], clock: Clock) -> Tuple[List[Array], Stages]:
        """`infer` in three stages, each waited for and timed; a little slower than `infer`."""
        ...

    def close(self) -> None: ...


class Backend(Protocol):
    version: str
    thread_bound: bool  # a session may be used only in the thread that opened it

    def open(self, model: bytes, options: Options) -> Session:
        """Bytes of ONNX -> session; BackendError if the engine refuses the model or `options`."""
        ...


def check_threads(threads: int) -> None:
    """BackendError if an engine cannot sensibly have so many threads on this machine.

    An engine would start all of them. Many thousands take all memory, and no signal ends that.
    """
    processors = os.cpu_count() or 1
    if threads < 1:
        raise BackendError(f"an engine needs 1 thread or more, not {threads}")
    if threads > processors:
        raise BackendError(
            f"{threads} threads are more than the {processors} processors of this machine, of "
            f"which this process may use {usable()}; ask for fewer"
        )


def check_finite(running: Running, outputs: Iterable[Array]) -> None:
    """BackendError if an answer holds NaN or infinity; engines themselves do not mind them.

    It costs about as much as a copy of the outputs, and is meant for one answer after the opening.
    """
    import numpy as np

    for output in outputs:
        if output.dtype.kind == "f" and not np.isfinite(output).all():
            raise BackendError(
                f"engine {running.engine} answers with NaN or infinity in {running.precision}: "
                "the model's weights are damaged, or too large for this precision; try fp32, or "
                "export the model again"
            )


def load(engine: str) -> Backend:
    """The backend of `engine`; BackendError if it is unknown, not installed or has no device."""
    if engine not in ENGINES:
        raise BackendError(f"unknown engine '{engine}': known are {', '.join(ENGINES)}")
    module, name = ENGINES[engine]
    try:
        opener = importlib.import_module(module)
    except ImportError as error:
        raise BackendError(
            f"engine {engine} is not installed ({error}); "
            "pip install onnxruntime, or JetPack's build of it on a Jetson"
        ) from error
    backend: Backend = opener.load(engine, name)
    return backend


def in_precision(model: ModelProto, engine: str, precision: str) -> ModelProto:
    """The graph to give to `engine`; for int8 it is quantised in the form that `engine` takes."""
    if precision != "int8":
        return model
    # NVIDIA's parser refuses int32 biases, but onnxruntime 1.19 needs them
    return quantised(model, integer_bias=not engine.endswith("tensorrt"))


def probe(engine: str, options: Options = Options()) -> Backend:
    """The backend of `engine` after it has run a small network here; BackendError if it cannot."""
    import numpy as np

    space = load_space("micro")
    model = onnx_graph.build(plan(space, space.min(), num_classes=2))
    model = in_precision(model, engine, options.precision)
    backend = load(engine)
    session = backend.open(model.SerializeToString(), options)
    shape = session.inputs[0].shape
    session.infer({session.inputs[0].name: np.zeros(shape, np.float32)})
    session.close()
    return backend


def available() -> Tuple[Tuple[str, str], ...]:
    """(engine, version) of every engine that really runs a network on this machine."""
    found = []
    for engine in ENGINES:
        try:
            found.append((engine, probe(engine).version))
        except BackendError:
            continue
    return tuple(found)
