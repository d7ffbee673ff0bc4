"""A stand-in with TensorRT's documented Python API, old (8.5) and new (10, 11), on ONNX Runtime.

Nothing here needs a GPU. Streams and copies of `HostMemory` are as lazy as CUDA's may be: nothing
happens before `sync`, so a result that was not waited for is wrong.
"""

from __future__ import annotations

import ctypes
import enum
import json
import types
from typing import Any, Callable, ClassVar, Dict, List, Sequence

import numpy as np
import onnx
import onnxruntime as ort

from ramnas_models.errors import OutOfMemoryError

_STREAMS: Dict[int, List[Callable[[], None]]] = {}


class HostMemory:
    """A DeviceMemory in the host's memory, which remembers what has not been freed."""

    live: ClassVar[List[HostMemory]] = []

    def __init__(self, limit: int = 1 << 30) -> None:
        self.stream = max(_STREAMS, default=0) + 1
        _STREAMS[self.stream] = []
        self._limit = limit
        self._kept: List[Any] = []
        self.allocations = 0
        self.live.append(self)

    def alloc(self, nbytes: int) -> int:
        self.allocations += 1
        if nbytes > self._limit:
            raise OutOfMemoryError("the GPU's memory is used up")
        block = np.full(nbytes, 0xAB, np.uint8)
        self._kept.append(block)
        return block.ctypes.data

    def host(self, shape: Sequence[int], dtype: Any) -> Any:
        self.allocations += 1
        array = np.zeros(tuple(shape), dtype)
        self._kept.append(array)
        return array

    def h2d(self, address: int, array: Any) -> None:
        assert array.flags.c_contiguous
        _STREAMS[self.stream].append(
            lambda: ctypes.memmove(address, array.ctypes.data, array.nbytes) and None
        )

    def d2h(self, array: Any, address: int) -> None:
        assert array.flags.c_contiguous
        _STREAMS[self.stream].append(
            lambda: ctypes.memmove(array.ctypes.data, address, array.nbytes) and None
        )

    def sync(self) -> None:
        for work in _STREAMS[self.stream]:
            work()
        _STREAMS[self.stream].clear()

    def close(self) -> None:
        self.sync()
        self.live.remove(self)
        del _STREAMS[self.stream], self._kept


class DataType(enum.IntEnum):
    FLOAT, HALF, INT8, INT32, BOOL, UINT8 = range(6)


class TensorIOMode(enum.IntEnum):
    NONE, INPUT, OUTPUT = range(3)


class Severity(enum.IntEnum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


_TYPES = {"tensor(float)": DataType.FLOAT, "tensor(uint8)": DataType.UINT8}
_NUMPY = {DataType.FLOAT: np.float32, DataType.UINT8: np.uint8}
# what the parser knows, as far as the tests need it
_OPERATORS = {
    "Add", "AveragePool", "Cast", "Conv", "DequantizeLinear", "Flatten", "Gemm",
    "GlobalAveragePool", "HardSigmoid", "Mul", "QuantizeLinear", "Relu", "Sigmoid", "Sub",
    "Transpose",
}  # fmt: skip


class ILogger:
    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


class IProgressMonitor:
    """Only TensorRT 10 and later have it."""


class ParserError:
    """As in TensorRT 8, without `node_name` and `node_operator`."""

    def __init__(self, node: int, desc: str) -> None:
        self._node, self._desc = node, desc

    def node(self) -> int:
        return self._node

    def desc(self) -> str:
        return self._desc


class NetworkInput:
    """An input of a network, an `ITensor` in TensorRT."""

    def __init__(self, name: str, shape: Sequence[Any]) -> None:
        self.name, self.shape = name, tuple(n if isinstance(n, int) else -1 for n in shape)


class NetworkDefinition:
    def __init__(self, explicit_batch: bool) -> None:
        self.explicit_batch = explicit_batch
        self.model = b""
        self.sources: List[NetworkInput] = []

    @property
    def num_inputs(self) -> int:
        return len(self.sources)

    def get_input(self, index: int) -> NetworkInput:
        return self.sources[index]


class OnnxParser:
    takes_uint8 = True

    def __init__(self, network: NetworkDefinition, logger: ILogger) -> None:
        self._network = network
        self._errors: List[ParserError] = []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def parse(self, model: bytes) -> bool:
        try:
            graph = onnx.ModelProto.FromString(model).graph
        except Exception:
            self._errors = [ParserError(-1, "Failed to parse the ONNX model.")]
            return False
        if not self._network.explicit_batch:
            self._errors = [ParserError(-1, "network must have an explicit batch")]
        for i, node in enumerate(graph.node):
            if node.op_type not in _OPERATORS:
                self._errors.append(ParserError(i, "No importer registered for op"))
        for source in graph.input:
            kind = source.type.tensor_type
            if kind.elem_type == onnx.TensorProto.UINT8 and not self.takes_uint8:
                self._errors.append(ParserError(-1, "Unsupported ONNX data type: UINT8 (2)"))
            dims = [d.dim_param or d.dim_value for d in kind.shape.dim]
            self._network.sources.append(NetworkInput(source.name, dims))
        self._network.model = model
        return not self._errors


class OptimizationProfile:
    def __init__(self) -> None:
        self.shapes: Dict[str, Any] = {}

    def set_shape(self, name: str, low: Any, best: Any, high: Any) -> None:
        assert len(low) == len(best) == len(high)
        self.shapes[name] = [list(low), list(best), list(high)]


class TimingCache:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def serialize(self) -> bytes:
        return self._data + b"+"


class BuilderConfig:
    def __init__(self, flags: Any) -> None:
        self._flags = {flags.TF32}  # set by default, as in TensorRT
        self.profiles: List[OptimizationProfile] = []
        self.progress_monitor: Any = None
        self._timings = TimingCache(b"")

    def set_flag(self, flag: Any) -> None:
        self._flags.add(flag)

    def clear_flag(self, flag: Any) -> None:
        self._flags.discard(flag)

    @property
    def flags(self) -> List[str]:
        return sorted(flag.name for flag in self._flags)

    def add_optimization_profile(self, profile: OptimizationProfile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, data: bytes) -> TimingCache:
        return TimingCache(data)

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        self._timings = cache
        return True

    def get_timing_cache(self) -> TimingCache:
        return self._timings


class ExecutionContext:
    def __init__(self, engine: CudaEngine) -> None:
        self._engine = engine
        self._addresses: Dict[str, int] = {}
        self._shapes: Dict[str, Any] = {}

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        low, _, high = self._engine.profiles[name]
        assert all(a <= n <= b for a, n, b in zip(low, shape, high))
        self._shapes[name] = tuple(shape)
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        engine = self._engine
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        for name in names:
            shape = self._shapes.get(name, engine.get_tensor_shape(name))
            is_input = engine.get_tensor_mode(name) == TensorIOMode.INPUT
            if name not in self._addresses or (is_input and any(n < 0 for n in shape)):
                engine.logger.log(Severity.ERROR, f"{name} has no address or no shape")
                return False
        _STREAMS[stream_handle].append(self._execute)
        return True

    def _execute(self) -> None:
        feeds = {}
        for source in self._engine.session.get_inputs():
            shape = self._shapes.get(source.name, self._engine.get_tensor_shape(source.name))
            dtype = _NUMPY[_TYPES[source.type]]
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            data = ctypes.string_at(self._addresses[source.name], size)
            feeds[source.name] = np.frombuffer(data, dtype).reshape(shape)
        results = self._engine.session.run(None, feeds)
        for sink, result in zip(self._engine.session.get_outputs(), results):
            ctypes.memmove(self._addresses[sink.name], result.ctypes.data, result.nbytes)


class CudaEngine:
    """Addresses tensors by name only; TensorRT 10 has removed the bindings of 8.5."""

    def __init__(self, model: bytes, profiles: Dict[str, Any], logger: ILogger) -> None:
        self.session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
        self.profiles, self.logger = profiles, logger
        self._tensors = [
            (t, mode)
            for tensors, mode in (
                (self.session.get_inputs(), TensorIOMode.INPUT),
                (self.session.get_outputs(), TensorIOMode.OUTPUT),
            )
            for t in tensors
        ]
        self._by_name = {t.name: (t, mode) for t, mode in self._tensors}
        self.num_io_tensors = len(self._tensors)

    def get_tensor_name(self, index: int) -> str:
        name: str = self._tensors[index][0].name
        return name

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return self._by_name[name][1]

    def get_tensor_dtype(self, name: str) -> DataType:
        return _TYPES[self._by_name[name][0].type]

    def get_tensor_shape(self, name: str) -> Any:
        return tuple(n if isinstance(n, int) else -1 for n in self._by_name[name][0].shape)

    def create_execution_context(self) -> ExecutionContext:
        return ExecutionContext(self)


def make(version: str, *, takes_uint8: bool = True, step: Callable[[], None] = lambda: None) -> Any:
    """A module `tensorrt` of that version, whose `builds` lists the flags of every built engine.

    `step` is called before each of the ten steps of a build.
    """
    major = int(version.split(".", 1)[0])
    trt: Any = types.ModuleType("tensorrt")
    trt.__version__ = version
    trt.builds = []
    trt.DataType, trt.TensorIOMode = DataType, TensorIOMode
    trt.ILogger = ILogger
    flags = ["FP16", "INT8", "TF32"] if major < 11 else ["TF32"]
    trt.BuilderFlag = enum.IntEnum("BuilderFlag", flags, start=0)
    explicit = ["EXPLICIT_BATCH"] if major < 11 else ["STRONGLY_TYPED"]
    trt.NetworkDefinitionCreationFlag = enum.IntEnum("Creation", explicit, start=0)
    trt.OnnxParser = type("OnnxParser", (OnnxParser,), {"takes_uint8": takes_uint8})
    if major >= 10:
        trt.IProgressMonitor = IProgressMonitor

    class Builder:
        def __init__(self, logger: ILogger) -> None:
            self._logger = logger

        def create_network(self, flags: int = 0) -> NetworkDefinition:
            return NetworkDefinition(explicit_batch=major >= 10 or flags == 1)

        def create_builder_config(self) -> BuilderConfig:
            return BuilderConfig(trt.BuilderFlag)

        def create_optimization_profile(self) -> OptimizationProfile:
            return OptimizationProfile()

        def build_serialized_network(
            self, network: NetworkDefinition, config: BuilderConfig
        ) -> Any:
            profiles = config.profiles[0].shapes if config.profiles else {}
            for source in network.sources:
                if -1 in source.shape and source.name not in profiles:
                    self._logger.log(Severity.ERROR, f"{source.name} needs a profile")
                    return None
            monitor = config.progress_monitor
            if monitor is not None:
                monitor.phase_start("Timing graph nodes", None, 10)
            for i in range(10):
                step()
                if monitor is not None and not monitor.step_complete("Timing graph nodes", i):
                    self._logger.log(Severity.ERROR, "Build canceled by user")
                    return None
            if monitor is not None:
                monitor.phase_finish("Timing graph nodes")
            trt.builds.append(config.flags)
            header = json.dumps({"version": version, "profiles": profiles}).encode()
            return bytearray(header + b"\0" + network.model)

    class Runtime:
        def __init__(self, logger: ILogger) -> None:
            self._logger = logger

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
            try:
                header, model = serialized_engine.split(b"\0", 1)
                facts = json.loads(header)
                assert facts["version"] == version
            except (ValueError, AssertionError):
                self._logger.log(Severity.ERROR, "Serialization assertion failed")
                return None
            return CudaEngine(model, facts["profiles"], self._logger)

    trt.Builder, trt.Runtime = Builder, Runtime
    return trt
