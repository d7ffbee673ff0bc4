"""ONNX Runtime with one required execution provider, never silently replaced by the CPU."""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Mapping, Optional, Tuple

import onnxruntime as ort

from ramnas_edge.engines.backends import (
    Clock,
    Options,
    Running,
    Stages,
    TensorSpec,
    check_threads,
)
from ramnas_models.errors import BackendError, OutOfMemoryError

if TYPE_CHECKING:
    from ramnas_edge.engines.backends import Array

# provider -> precision -> the provider's options for it. TF32 is off unless it is asked for.
_PRECISIONS: Dict[str, Dict[str, Dict[str, str]]] = {
    "CPUExecutionProvider": {"fp32": {}, "int8": {}},
    "CUDAExecutionProvider": {"fp32": {"use_tf32": "0"}, "tf32": {"use_tf32": "1"}},
    "TensorrtExecutionProvider": {
        "fp32": {},
        "fp16": {"trt_fp16_enable": "1"},
        "int8": {"trt_int8_enable": "1"},
    },
    "OpenVINOExecutionProvider": {
        "fp32": {"device_type": "CPU", "precision": "FP32"},
        "fp16": {"device_type": "GPU", "precision": "FP16"},
    },
}

_WAY_OUT = {
    "CUDAExecutionProvider": "pip install 'onnxruntime-gpu[cuda,cudnn]' brings CUDA and cuDNN; "
    "on a Jetson install JetPack's own build of onnxruntime",
    "TensorrtExecutionProvider": "install TensorRT and CUDA (pip install tensorrt "
    "'onnxruntime-gpu[cuda,cudnn]'); on a Jetson both come with JetPack",
    "OpenVINOExecutionProvider": "pip install onnxruntime-openvino in place of onnxruntime",
}


def load(engine: str, provider: str) -> OrtBackend:
    """The backend `engine`; BackendError if this onnxruntime was built without `provider`."""
    if provider not in ort.get_available_providers():
        raise BackendError(
            f"engine {engine}: this onnxruntime {ort.__version__} has no {provider} (it has "
            f"{', '.join(ort.get_available_providers())}); {_WAY_OUT.get(provider, 'install it')}"
        )
    return OrtBackend(engine, provider)


class OrtBackend:
    thread_bound = False

    def __init__(self, engine: str, provider: str) -> None:
        self.engine, self.provider = engine, provider
        self.version: str = ort.__version__

    def open(self, model: bytes, options: Options) -> OrtSession:
        """A session; BackendError if the provider does not load or cannot run the whole model."""
        precisions = _PRECISIONS[self.provider]
        if options.precision not in precisions:
            raise BackendError(
                f"engine {self.engine} runs {', '.join(precisions)}; "
                f"precision {options.precision} needs another engine"
            )
        if options.precision == "int8" and b"DequantizeLinear" not in model:
            raise BackendError(
                f"engine {self.engine}: precision int8 needs a quantised graph, but this one "
                "is float; ramnas_models.quantise quantises it"
            )
        check_threads(options.threads)
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = options.threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 3  # errors reach us as exceptions
        # without it x86 keeps a layer in float if two nodes read its output, as in swish
        settings.add_session_config_entry("session.qdqisint8allowed", "1")
        if self.provider != "CPUExecutionProvider":
            settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        try:
            session = ort.InferenceSession(
                model, settings, providers=[self.provider],
                provider_options=[precisions[options.precision]], enable_fallback=0,
            )  # fmt: skip
            loaded: List[str] = session.get_providers()
        except Exception as error:  # onnxruntime raises its own classes and RuntimeError
            self._check_libraries(error)
            raise _failure(f"engine {self.engine} refuses the model", error) from error
        if loaded[0] != self.provider:
            self._check_libraries(None)
            raise BackendError(
                f"engine {self.engine}: {self.provider} did not load, so {loaded[0]} would run "
                f"instead; {_WAY_OUT.get(self.provider, 'check its driver and libraries')}"
            )
        running = Running(self.engine, self.version, tuple(loaded), options.precision)
        return OrtSession(session, running)

    def _check_libraries(self, error: Optional[Exception]) -> None:
        """BackendError that names the library that the provider could not find, if there is one.

        onnxruntime's own error only says that nodes would run on the CPU.
        """
        missing = missing_library(self.provider, Path(ort.__file__).parent / "capi")
        if missing:
            raise BackendError(
                f"engine {self.engine}: {self.provider} did not load: {missing}; "
                f"{_WAY_OUT[self.provider]}"
            ) from error


def missing_library(provider: str, folder: Path) -> str:
    """The dynamic linker's error for the library of `provider` in `folder`; empty if it loads.

    For example "libcublasLt.so.13: cannot open shared object file: No such file or directory".
    """
    name = provider.replace("ExecutionProvider", "").lower()
    library = folder / f"libonnxruntime_providers_{name}.so"
    if not library.exists():  # this provider is built into onnxruntime
        return ""
    try:
        # the provider calls functions of this library, which onnxruntime loads first
        shared = library.with_name("libonnxruntime_providers_shared.so")
        if shared.exists():
            ctypes.CDLL(str(shared), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(library), mode=ctypes.RTLD_LOCAL)
    except OSError as error:
        return str(error)
    return ""


class OrtSession:
    def __init__(self, session: Any, running: Running) -> None:
        self._session = session
        self._binding = session.io_binding()
        self.running = running
        self.inputs = [_tensor(t) for t in session.get_inputs()]
        self.outputs = [_tensor(t) for t in session.get_outputs()]
        # the device where the provider reads inputs and writes outputs
        on_gpu = running.providers[0] in ("CUDAExecutionProvider", "TensorrtExecutionProvider")
        self._device = "cuda" if on_gpu else "cpu"

    def infer(self, feeds: Mapping[str, Array]) -> List[Array]:
        with self._failing():
            outputs: List[Array] = self._session.run(None, feeds)
            return outputs

    def infer_staged(self, feeds: Mapping[str, Array], clock: Clock) -> Tuple[List[Array], Stages]:
        with self._failing():
            start = clock()
            for name, array in feeds.items():
                value = ort.OrtValue.ortvalue_from_numpy(array, self._device, 0)
                self._binding.bind_ortvalue_input(name, value)
            for output in self.outputs:
                self._binding.bind_output(output.name, self._device)
            copied = clock()
            self._session.run_with_iobinding(self._binding)
            self._binding.synchronize_outputs()
            ran = clock()
            outputs: List[Array] = self._binding.copy_outputs_to_cpu()
            return outputs, Stages(copied - start, ran - copied, clock() - ran)

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # onnxruntime raises its own classes and RuntimeError
            raise _failure(f"engine {self.running.engine} failed", error) from error

    def close(self) -> None:
        del self._binding, self._session


def _failure(what: str, error: Exception) -> BackendError:
    """OutOfMemoryError or BackendError, in one line; onnxruntime's message tells the two apart."""
    said = " ".join(str(error).split())
    if any(sign in said for sign in ("IR version", "opset", "Op registered")):
        said += f"; export it for onnxruntime {ort.__version__}, or install a newer onnxruntime"
    lacks_memory = isinstance(error, MemoryError) or any(
        sign in said for sign in ("bad_alloc", "Failed to allocate memory", "out of memory")
    )
    return (OutOfMemoryError if lacks_memory else BackendError)(f"{what}: {said}")


def _tensor(arg: Any) -> TensorSpec:
    shape: Tuple[Any, ...] = tuple(arg.shape)
    return TensorSpec(arg.name, shape, arg.type)
