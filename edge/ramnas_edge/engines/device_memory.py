"""The first GPU: its name, and its memory with a stream of copies, by pycuda or cuda-bindings."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import importlib
import threading
from typing import TYPE_CHECKING, Any, Callable, Iterator, List, Protocol, Sequence, Tuple

import msgspec
import numpy as np

from ramnas_models.errors import BackendError, OutOfMemoryError

if TYPE_CHECKING:
    from ramnas_edge.engines.backends import Array

_NO_DEVICE, _OUT_OF_MEMORY, _OLD_DRIVER = 100, 2, 35  # the same in CUDA's driver and runtime
_CC_MAJOR, _CC_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


class Gpu(msgspec.Struct, frozen=True):
    """The first CUDA device."""

    name: str
    compute_capability: Tuple[int, int]


class DeviceMemory(Protocol):
    """The memory that a session uses on a GPU. It belongs to the thread that opened it.

    Copies run asynchronously and in order on `stream`; `sync` waits for them. Every method may
    raise BackendError, and OutOfMemoryError if the memory is used up.
    """

    stream: int  # the handle that TensorRT takes

    def alloc(self, nbytes: int) -> int:
        """Allocate `nbytes` on the device; returns their address."""
        ...

    def host(self, shape: Sequence[int], dtype: Any) -> Array:
        """A page-locked array on the host, which the device reads and writes directly."""
        ...

    def h2d(self, address: int, array: Array) -> None: ...

    def d2h(self, array: Array, address: int) -> None: ...

    def sync(self) -> None: ...

    def close(self) -> None:
        """Free everything, also the arrays of `host`, which must not be used after this."""
        ...


def find_gpu(library: str = "libcuda.so.1") -> Gpu:
    """Ask the driver itself, before TensorRT: without a device `trt.Runtime` crashes the process.

    BackendError that says what is missing: the driver, a device, or the right to use it.
    """
    try:
        cuda = ctypes.CDLL(library)
    except OSError as error:
        raise BackendError(
            f"no CUDA driver ({error}): install NVIDIA's driver; on a Jetson it comes with JetPack "
            "(a container needs --runtime nvidia, or --gpus all on x86)"
        ) from error
    count = ctypes.c_int()
    code = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
    if code == _NO_DEVICE or (code == 0 and count.value == 0):
        raise BackendError(
            "the CUDA driver finds no device: look at nvidia-smi and CUDA_VISIBLE_DEVICES "
            "(a container needs --runtime nvidia, or --gpus all on x86)"
        )
    if code != 0:
        name = ctypes.c_char_p()
        cuda.cuGetErrorName(code, ctypes.byref(name))
        raise BackendError(
            f"the CUDA driver does not start ({(name.value or b'error').decode()}, {code}): "
            "reboot after a driver update; on a Jetson the user must be in the group video"
        )
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    text = ctypes.create_string_buffer(256)
    cuda.cuDeviceGet(ctypes.byref(device), 0)
    cuda.cuDeviceGetName(text, len(text), device)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), _CC_MAJOR, device)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), _CC_MINOR, device)
    return Gpu(text.value.decode(), (major.value, minor.value))


def memory_of_gpu() -> Callable[[], DeviceMemory]:
    """A function that opens the first GPU's memory; BackendError if no package for it is there.

    pycuda is tried first: it is compiled against the machine's CUDA, so it fits every JetPack.
    """
    missing = []
    for module, kind in (
        ("pycuda.driver", PycudaMemory),
        ("cuda.bindings.runtime", CudaBindingsMemory),
        ("cuda.cudart", CudaBindingsMemory),  # its name until version 12.6
    ):
        try:
            loaded = importlib.import_module(module)
        except ImportError as error:  # it, or a library that it needs, is missing
            missing.append(str(error))
            continue
        return lambda: kind(loaded)
    raise BackendError(
        f"neither pycuda nor cuda-bindings is installed ({'; '.join(missing)}): "
        "pip install cuda-bindings; on a Jetson pip install pycuda, which needs JetPack's CUDA "
        "headers (export PATH=/usr/local/cuda/bin:$PATH first)"
    )


class _PycudaContext(threading.local):
    """Holds CUDA's primary context, which TensorRT works in, while this thread has memory open.

    The process must not end inside the context, because pycuda would abort it. And the context must
    be detached here: if it were only dropped, pycuda would detach it as if it had created it.
    """

    users = 0
    context: Any = None

    def enter(self, cuda: Any) -> None:
        if self.users == 0:
            cuda.init()
            self.context = cuda.Device(0).retain_primary_context()
            self.context.push()
            atexit.register(self._end, cuda)
        self.users += 1

    def leave(self, cuda: Any) -> None:
        self.users -= 1
        if self.users == 0:
            self._end(cuda)

    def _end(self, cuda: Any) -> None:
        context, self.context = self.context, None
        if context is not None:  # None if this runs at exit, in another thread
            atexit.unregister(self._end)
            cuda.Context.pop()
            context.detach()


_pycuda_context = _PycudaContext()


class PycudaMemory:
    """DeviceMemory through pycuda; `cuda` is the module pycuda.driver."""

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda
        self._allocations: List[Any] = []  # each has a method `free`
        with self._failing():
            _pycuda_context.enter(cuda)
            self._stream = cuda.Stream()
        self.stream: int = self._stream.handle

    def alloc(self, nbytes: int) -> int:
        with self._failing():
            memory = self._cuda.mem_alloc(nbytes)
        self._allocations.append(memory)
        return int(memory)

    def host(self, shape: Sequence[int], dtype: Any) -> Array:
        with self._failing():
            array: Array = self._cuda.pagelocked_empty(tuple(shape), dtype)
        self._allocations.append(array.base)
        return array

    def h2d(self, address: int, array: Array) -> None:
        with self._failing():
            self._cuda.memcpy_htod_async(address, array, self._stream)

    def d2h(self, array: Array, address: int) -> None:
        with self._failing():
            self._cuda.memcpy_dtoh_async(array, address, self._stream)

    def sync(self) -> None:
        with self._failing():
            self._stream.synchronize()

    def close(self) -> None:
        with self._failing():
            self._stream.synchronize()
            while self._allocations:
                self._allocations.pop().free()
            del self._stream
            _pycuda_context.leave(self._cuda)

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except self._cuda.MemoryError as error:
            raise OutOfMemoryError(_full(str(error))) from error
        except self._cuda.Error as error:
            raise BackendError(f"CUDA: {error}") from error


class CudaBindingsMemory:
    """DeviceMemory through cuda-bindings; `cudart` is the module cuda.bindings.runtime.

    Its functions return (error, value).
    """

    def __init__(self, cudart: Any) -> None:
        self._cudart = cudart
        self._allocations: List[Tuple[Any, int]] = []  # (what frees it, its address)
        self._call(cudart.cudaSetDevice, 0)
        self._stream = self._call(cudart.cudaStreamCreate)
        self.stream = int(self._stream)

    def alloc(self, nbytes: int) -> int:
        address = int(self._call(self._cudart.cudaMalloc, nbytes))
        self._allocations.append((self._cudart.cudaFree, address))
        return address

    def host(self, shape: Sequence[int], dtype: Any) -> Array:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        address = int(self._call(self._cudart.cudaMallocHost, size))
        self._allocations.append((self._cudart.cudaFreeHost, address))
        locked = (ctypes.c_byte * size).from_address(address)
        return np.frombuffer(locked, dtype).reshape(shape)

    def h2d(self, address: int, array: Array) -> None:
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(address, array.ctypes.data, array.nbytes, kind)

    def d2h(self, array: Array, address: int) -> None:
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._copy(array.ctypes.data, address, array.nbytes, kind)

    def _copy(self, target: int, source: int, nbytes: int, kind: Any) -> None:
        self._call(self._cudart.cudaMemcpyAsync, target, source, nbytes, kind, self._stream)

    def sync(self) -> None:
        self._call(self._cudart.cudaStreamSynchronize, self._stream)

    def close(self) -> None:
        self.sync()
        while self._allocations:
            free, address = self._allocations.pop()
            self._call(free, address)
        self._call(self._cudart.cudaStreamDestroy, self._stream)

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        code, *values = function(*args)
        if int(code) == 0:
            return values[0] if values else None
        reason = self._cudart.cudaGetErrorString(code)[1].decode()
        if int(code) == _OUT_OF_MEMORY:
            raise OutOfMemoryError(_full(reason))
        hint = "; pip install 'cuda-bindings<13'" if int(code) == _OLD_DRIVER else ""
        raise BackendError(f"CUDA: {function.__name__}: {reason} ({int(code)}){hint}")


def _full(reason: str) -> str:
    return f"the GPU's memory is used up ({reason}): close other sessions or take a smaller model"
