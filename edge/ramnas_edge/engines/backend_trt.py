"""TensorRT: ONNX bytes -> an engine, from the cache or newly built -> a session on the GPU.

One code path serves TensorRT 8.5 to 10: it addresses tensors by name, which came with 8.5.
"""

from __future__ import annotations

import importlib
import threading
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional, Tuple

import numpy as np

from ramnas_edge.board.device import this_device
from ramnas_edge.engines import device_memory, engine_cache, trt_builder
from ramnas_edge.engines.backends import Clock, Options, Running, Stages, TensorSpec
from ramnas_edge.engines.device_memory import DeviceMemory, Gpu
from ramnas_edge.engines.engine_cache import EngineCache
from ramnas_edge.engines.trt_builder import MAX_BATCH
from ramnas_models.errors import BackendError

if TYPE_CHECKING:
    from ramnas_edge.engines.backends import Array

OLDEST = (8, 5)  # JetPack 5.1
# TensorRT's type -> ours and numpy's; its own `nptype` fails under numpy 1.24 in TensorRT 8.5
_DTYPES: Dict[str, Tuple[str, Any]] = {
    "FLOAT": ("tensor(float)", np.float32),
    "HALF": ("tensor(float16)", np.float16),
    "UINT8": ("tensor(uint8)", np.uint8),
    "INT8": ("tensor(int8)", np.int8),
    "INT32": ("tensor(int32)", np.int32),
    "INT64": ("tensor(int64)", np.int64),
    "BOOL": ("tensor(bool)", np.bool_),
}


def load(engine: str, module: str) -> TrtBackend:
    """The backend on the first GPU; BackendError names what is missing.

    That may be the driver, a device, TensorRT, or a package that manages the GPU's memory.
    """
    try:
        gpu = device_memory.find_gpu()
        try:
            trt = importlib.import_module(module)
        except ImportError as error:
            raise BackendError(
                f"TensorRT is not installed ({error}): pip install 'tensorrt<11'; on a Jetson it "
                "comes with JetPack (apt install python3-libnvinfer, and a virtual environment "
                "made with --system-site-packages)"
            ) from error
        open_memory = device_memory.memory_of_gpu()
    except BackendError as error:
        raise BackendError(f"engine {engine}: {error}") from error
    return TrtBackend(trt, gpu, open_memory, EngineCache(engine_cache.default_folder()))


class TrtBackend:
    """Opens sessions on `gpu` and keeps their engines in `cache`."""

    thread_bound = True

    def __init__(
        self, trt: Any, gpu: Gpu, open_memory: Callable[[], DeviceMemory], cache: EngineCache
    ) -> None:
        self.version: str = trt.__version__
        if tuple(int(n) for n in self.version.split(".")[:2]) < OLDEST:
            raise BackendError(
                f"engine tensorrt: TensorRT {self.version} is too old; 8.5 or later is needed, "
                "which comes with JetPack 5.1"
            )
        self.cache = cache
        self._trt, self._gpu, self._open_memory = trt, gpu, open_memory
        self._logger = trt_builder.logger(trt)
        self._runtime = trt.Runtime(self._logger)

    def open(self, model: bytes, options: Options) -> TrtSession:
        """A session for the calling thread only. The first time on a device this takes minutes.

        Of `options` only the precision is used. BackendError if TensorRT refuses the model or the
        precision; FileError if the engine cannot be stored.
        """
        trt_builder.check_precision(self._trt, self._gpu, model, options.precision)
        memory = self._open_memory()
        try:
            engine = self.cache.engine(
                engine_cache.key(model, *self._facts(), options.precision, f"N<={MAX_BATCH}"),
                build=lambda: self._build(model, options.precision),
                load=self._runtime.deserialize_cuda_engine,
            )
            if engine is None:
                raise BackendError(
                    f"engine tensorrt cannot load its engine: {self._logger.take_errors()}"
                )
            running = Running("tensorrt", self.version, ("TensorRT",), options.precision)
            return TrtSession(self._trt, engine, memory, running)
        except BaseException:
            memory.close()
            raise

    def _build(self, model: bytes, precision: str) -> bytes:
        """Build an engine; layers that were timed before, in any network, are not timed again."""
        timings = engine_cache.key(b"", *self._facts()) + ".timings"
        engine, learnt = trt_builder.build(
            self._trt, model, precision, self.cache.read(timings) or b""
        )
        self.cache.write(timings, learnt)
        return engine

    def _facts(self) -> Tuple[str, ...]:
        """What an engine depends on, besides its model and its precision."""
        major, minor = self._gpu.compute_capability
        return self.version, self._gpu.name, f"{major}.{minor}", this_device().system


class _Buffer:
    """One input or output: its address on the device and its page-locked array on the host."""

    def __init__(self, tensor: TensorSpec, address: int, host: Array) -> None:
        self.tensor, self.address, self.host = tensor, address, host
        self.used = host  # with a symbolic batch only the part that the current batch fills

    @property
    def has_symbolic_batch(self) -> bool:
        return self.tensor.shape[:1] == ("N",)


class TrtSession:
    """A session for the thread that opened it. All buffers are allocated here, none by `infer`.

    A symbolic batch is called `N` and may be 1 to MAX_BATCH.
    """

    def __init__(self, trt: Any, engine: Any, memory: DeviceMemory, running: Running) -> None:
        self._owner = threading.get_ident()
        self._logger = trt_builder.logger(trt)
        self._memory: Optional[DeviceMemory] = memory
        self._context = engine.create_execution_context()  # it keeps the engine alive
        if self._context is None:
            raise BackendError(
                f"engine tensorrt cannot run the model: {self._logger.take_errors()}"
            )
        self.running = running
        self._sources: List[_Buffer] = []
        self._sinks: List[_Buffer] = []
        for name in (engine.get_tensor_name(i) for i in range(engine.num_io_tensors)):
            is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            buffer = self._buffer(name, engine)
            (self._sources if is_input else self._sinks).append(buffer)
        self._by_name = {b.tensor.name: b for b in self._sources}
        self._batched = next((b for b in self._sources if b.has_symbolic_batch), None)
        self._leading: Tuple[int, ...] = ()  # the batch that the context is set to
        self.inputs = [b.tensor for b in self._sources]
        self.outputs = [b.tensor for b in self._sinks]
        self._logger.errors.clear()  # such as those of a cached engine that could not be used

    def infer(self, feeds: Mapping[str, Array]) -> List[Array]:
        """Allocates only the arrays it returns. BackendError names an input that does not fit."""
        memory = self._mine()
        self._copy_in(memory, feeds)
        self._run(memory)
        self._copy_out(memory)
        memory.sync()
        return [b.used.copy() for b in self._sinks]

    def infer_staged(self, feeds: Mapping[str, Array], clock: Clock) -> Tuple[List[Array], Stages]:
        memory = self._mine()
        start = clock()
        self._copy_in(memory, feeds)
        memory.sync()
        copied = clock()
        self._run(memory)
        memory.sync()
        ran = clock()
        self._copy_out(memory)
        memory.sync()
        outputs = [b.used.copy() for b in self._sinks]
        return outputs, Stages(copied - start, ran - copied, clock() - ran)

    def close(self) -> None:
        """Free the device's memory; only the owner thread may. A second call does nothing."""
        if self._memory is None:
            return
        memory = self._mine()
        memory.sync()  # an interrupted inference may still be under way
        self._memory = None
        self._sources, self._sinks, self._by_name, self._batched = [], [], {}, None
        del self._context
        memory.close()

    def _mine(self) -> DeviceMemory:
        if self._memory is None:
            raise BackendError("engine tensorrt: this session is closed; open a new one")
        if threading.get_ident() != self._owner:
            raise BackendError(
                "engine tensorrt: a session belongs to the thread that opened it, as its CUDA "
                "context does; open one in the thread that uses it"
            )
        return self._memory

    def _buffer(self, name: str, engine: Any) -> _Buffer:
        memory = self._mine()
        kind = engine.get_tensor_dtype(name).name
        shape = tuple(engine.get_tensor_shape(name))
        if kind not in _DTYPES or any(n < 0 for n in shape[1:]):
            raise BackendError(
                f"engine tensorrt: tensor {name} is {kind} {shape}; it must be one of "
                f"{', '.join(_DTYPES)}, with a fixed shape except for the batch"
            )
        notation, dtype = _DTYPES[kind]
        host = memory.host([MAX_BATCH if n < 0 else n for n in shape], dtype)
        address = memory.alloc(host.nbytes)
        self._context.set_tensor_address(name, address)
        dims = tuple("N" if n < 0 else int(n) for n in shape)
        return _Buffer(TensorSpec(name, dims, notation), address, host)

    def _copy_in(self, memory: DeviceMemory, feeds: Mapping[str, Array]) -> None:
        if feeds.keys() != self._by_name.keys():
            raise BackendError(
                f"engine tensorrt takes the inputs {', '.join(self._by_name)}, "
                f"but got {', '.join(feeds) or 'none'}"
            )
        if self._batched is not None:
            self._set_batch(feeds[self._batched.tensor.name].shape[:1])
        for name, array in feeds.items():
            buffer = self._by_name[name]
            if array.shape != buffer.used.shape or array.dtype != buffer.host.dtype:
                raise BackendError(
                    f"engine tensorrt: input {name} must be {buffer.tensor.dtype} "
                    f"{list(buffer.tensor.shape)}, but is {array.dtype} {list(array.shape)}"
                )
            np.copyto(buffer.used, array)
            memory.h2d(buffer.address, buffer.used)

    def _set_batch(self, leading: Tuple[int, ...]) -> None:
        if leading == self._leading:
            return
        if not (1,) <= leading <= (MAX_BATCH,):
            raise BackendError(
                f"engine tensorrt: a symbolic batch may be 1 to {MAX_BATCH}, not "
                f"{', '.join(map(str, leading)) or 'absent'}; to run another one, build the graph "
                "with it"
            )
        for buffer in (*self._sources, *self._sinks):
            if buffer.has_symbolic_batch:
                buffer.used = buffer.host[: leading[0]]
        for source in self._sources:
            if source.has_symbolic_batch:
                self._context.set_input_shape(source.tensor.name, source.used.shape)
        self._leading = leading

    def _run(self, memory: DeviceMemory) -> None:
        if not self._context.execute_async_v3(memory.stream):
            raise BackendError(f"engine tensorrt failed: {self._logger.take_errors()}")

    def _copy_out(self, memory: DeviceMemory) -> None:
        for buffer in self._sinks:
            memory.d2h(buffer.used, buffer.address)
