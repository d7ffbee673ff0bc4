"""The driver is asked through real shared libraries; pycuda and cuda-bindings are stand-ins."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any, Dict, Iterator, Tuple

import numpy as np
import pytest

from ramnas_edge.engines import device_memory
from ramnas_edge.engines.device_memory import CudaBindingsMemory, Gpu, PycudaMemory
from ramnas_models.errors import BackendError, OutOfMemoryError

# The functions of libcuda that `find_gpu` calls; the macros set their answers.
DRIVER = r"""
#include <string.h>
int cuInit(unsigned flags) { return INIT; }
int cuDeviceGetCount(int *n) { *n = COUNT; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = 5; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "Orin", size); return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  if (device != 5) return 101;
  *value = attribute == 75 ? 8 : attribute == 76 ? 7 : -1;
  return 0;
}
int cuGetErrorName(int code, const char **name) {
  *name = code == 803 ? "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH" : 0;
  return 0;
}
"""


def driver(folder: Path, *, init: int = 0, count: int = 1) -> str:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    source = folder / "driver.c"
    source.write_text(DRIVER)
    library = folder / "libcuda.so.1"
    flags = [f"-DINIT={init}", f"-DCOUNT={count}", "-w"]
    subprocess.run([compiler, "-shared", "-fPIC", *flags, "-o", library, source], check=True)
    return str(library)


def test_the_gpu_is_read_from_the_driver(tmp_path: Path) -> None:
    assert device_memory.find_gpu(driver(tmp_path)) == Gpu("Orin", (8, 7))


@pytest.mark.parametrize(
    ("init", "count", "words"),
    [
        (100, 0, "finds no device: look at nvidia-smi"),
        (0, 0, "finds no device: look at nvidia-smi"),
        (803, 0, r"\(CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, 803\): reboot after a driver update"),
        (9999, 0, r"\(error, 9999\)"),
    ],
)
def test_the_error_names_what_the_driver_lacks(
    tmp_path: Path, init: int, count: int, words: str
) -> None:
    with pytest.raises(BackendError, match=words):
        device_memory.find_gpu(driver(tmp_path, init=init, count=count))


def test_a_missing_driver_is_reported_with_the_way_out() -> None:
    words = (
        r"no CUDA driver \(libcuda-not-there.*: cannot open .* on a Jetson it comes with JetPack"
    )
    with pytest.raises(BackendError, match=words):
        device_memory.find_gpu("libcuda-not-there.so.1")


def test_without_either_package_the_error_names_both(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pycuda", "pycuda.driver", "cuda", "cuda.bindings", "cuda.cudart"):
        monkeypatch.setitem(sys.modules, name, None)
    words = "neither pycuda nor cuda-bindings .*pip install cuda-bindings; on a Jetson pip .*pycuda"
    with pytest.raises(BackendError, match=words):
        device_memory.memory_of_gpu()


class HandedOut:
    """What a stand-in has handed out, by address. Like real ones, its copies wait for `sync`."""

    def __init__(self) -> None:
        self.blocks: Dict[int, Any] = {}
        self.queue: Any = []
        self.streams = self.contexts = self.retained = 0

    def take(self, nbytes: int) -> int:
        block = np.zeros(nbytes, np.uint8)
        self.blocks[block.ctypes.data] = block
        return int(block.ctypes.data)

    def give_back(self, address: int) -> None:
        assert not self.queue, "freed while a copy may still use it"
        del self.blocks[address]

    def copy(self, target: int, source: int, nbytes: int) -> None:
        for end in (target, source):
            assert any(a <= end and end + nbytes <= a + b.size for a, b in self.blocks.items())
        self.queue.append(lambda: ctypes.memmove(target, source, nbytes))

    def sync(self) -> None:
        while self.queue:
            self.queue.pop(0)()

    def empty(self) -> bool:
        return not (self.blocks or self.queue or self.streams or self.contexts or self.retained)


def cudart(live: HandedOut) -> Any:
    """A stand-in for cuda.bindings.runtime, whose functions return (error, value)."""
    module: Any = types.ModuleType("cudart")
    module.cudaMemcpyKind = types.SimpleNamespace(
        cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2
    )

    def malloc(size: int) -> Tuple[Any, ...]:
        return (0, live.take(size)) if size < 1 << 40 else (2, None)

    def free(address: int) -> Tuple[int]:
        live.give_back(address)
        return (0,)

    def copy(dst: int, src: int, count: int, kind: int, stream: int) -> Tuple[int]:
        assert kind in (1, 2) and stream == 7
        live.copy(dst, src, count)
        return (0,)

    def create() -> Tuple[int, int]:
        live.streams += 1
        return 0, 7

    def destroy(stream: int) -> Tuple[int]:
        live.streams -= 1
        return (0,)

    def synchronize(stream: int) -> Tuple[int]:
        live.sync()
        return (0,)

    module.cudaMalloc = module.cudaMallocHost = malloc
    module.cudaFree = module.cudaFreeHost = free
    module.cudaMemcpyAsync = copy
    module.cudaSetDevice = lambda device: (0 if device == 0 else 101,)
    module.cudaStreamCreate, module.cudaStreamDestroy = create, destroy
    module.cudaStreamSynchronize = synchronize
    module.cudaGetErrorString = lambda code: (0, f"error {int(code)}".encode())
    return module


def pycuda(live: HandedOut) -> Any:
    """A stand-in for the used part of pycuda.driver: objects with `free`, a stack of contexts."""
    cuda: Any = types.ModuleType("pycuda.driver")

    class Error(Exception):
        pass

    class MemoryError(Error):
        pass

    class PrimaryContext:
        def __init__(self) -> None:
            live.retained += 1

        def push(self) -> None:
            live.contexts += 1

        @staticmethod
        def pop() -> None:
            live.contexts -= 1

        def detach(self) -> None:
            live.retained -= 1

    class Allocation:
        def __init__(self, nbytes: int) -> None:
            if nbytes >= 1 << 40:
                raise MemoryError("cuMemAlloc failed: out of memory")
            assert live.contexts
            self.address = live.take(nbytes)

        def __int__(self) -> int:
            return self.address

        def free(self) -> None:
            assert live.contexts
            live.give_back(self.address)

    class PageLocked(Allocation):
        @property
        def __array_interface__(self) -> Any:
            size = live.blocks[self.address].size
            return {"data": (self.address, False), "shape": (size,), "typestr": "|u1", "version": 3}

    class Locked(np.ndarray):  # its `base` is the allocation, as with pycuda's arrays
        base: Any = None

    class Stream:
        handle = 7

        def __init__(self) -> None:
            live.streams += 1

        def synchronize(self) -> None:
            live.sync()

        def __del__(self) -> None:
            live.streams -= 1

    def pagelocked_empty(shape: Tuple[int, ...], dtype: Any) -> Any:
        allocation = PageLocked(int(np.prod(shape)) * np.dtype(dtype).itemsize)
        array = np.asarray(allocation).view(dtype).reshape(shape).view(Locked)
        array.base = allocation
        return array

    cuda.Error, cuda.MemoryError, cuda.Context, cuda.Stream = (
        Error,
        MemoryError,
        PrimaryContext,
        Stream,
    )
    cuda.init = lambda: None
    cuda.Device = lambda i: types.SimpleNamespace(retain_primary_context=PrimaryContext)
    cuda.mem_alloc, cuda.pagelocked_empty = Allocation, pagelocked_empty
    cuda.memcpy_htod_async = lambda to, array, stream: live.copy(
        to, array.ctypes.data, array.nbytes
    )
    cuda.memcpy_dtoh_async = lambda array, at, stream: live.copy(
        array.ctypes.data, at, array.nbytes
    )
    return cuda


@pytest.fixture(params=["pycuda.driver", "cuda.bindings.runtime", "cuda.cudart"])
def live(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[HandedOut]:
    """The parameter's module is the only one of the three that can be imported."""
    live = HandedOut()
    for name in ("pycuda", "pycuda.driver", "cuda", "cuda.bindings", "cuda.cudart"):
        monkeypatch.setitem(sys.modules, name, None)
    parts = request.param.split(".")
    for i in range(1, len(parts)):
        monkeypatch.setitem(sys.modules, ".".join(parts[:i]), types.ModuleType("package"))
    make = pycuda if parts[0] == "pycuda" else cudart
    monkeypatch.setitem(sys.modules, request.param, make(live))
    yield live
    assert live.empty()


def test_data_copied_to_the_device_comes_back(live: HandedOut) -> None:
    memory = device_memory.memory_of_gpu()()
    assert type(memory) in (PycudaMemory, CudaBindingsMemory)
    assert memory.stream == 7
    there, back = memory.host((2, 3), np.float32), memory.host((2, 3), np.float32)
    assert there.shape == (2, 3) and there.dtype == np.float32
    there[:], back[:] = np.arange(6).reshape(2, 3), 0
    address = memory.alloc(there.nbytes)
    memory.h2d(address, there[:1])
    memory.h2d(address + 12, there[1:])
    memory.d2h(back, address)
    assert not back.any()  # copies may not have happened before `sync`
    memory.sync()
    np.testing.assert_array_equal(back, np.arange(6).reshape(2, 3))
    memory.d2h(back, address)  # `close` waits for this copy
    del there, back
    memory.close()


def test_two_memories_close_in_either_order(live: HandedOut) -> None:
    opener = device_memory.memory_of_gpu()
    for order in ((0, 1), (1, 0)):
        memories = [opener(), opener()]
        for memory in memories:
            memory.alloc(8)
        for i in order:
            memories[i].close()
        assert not live.blocks and not live.streams


def test_a_full_device_has_an_error_of_its_own(live: HandedOut) -> None:
    memory = device_memory.memory_of_gpu()()
    with pytest.raises(OutOfMemoryError, match="memory is used up"):
        memory.alloc(1 << 40)
    memory.close()


def test_real_cuda_bindings_without_a_driver_is_a_backend_error() -> None:
    runtime = pytest.importorskip(
        "cuda.bindings.runtime", reason="pip install cuda-bindings runs this test"
    )
    if int(runtime.cudaSetDevice(0)[0]) == 0:
        pytest.skip("this machine has a GPU; the gpu tests cover that case")
    with pytest.raises(BackendError, match=r"CUDA: cudaSetDevice: .* \(\d+\)"):
        CudaBindingsMemory(runtime)
