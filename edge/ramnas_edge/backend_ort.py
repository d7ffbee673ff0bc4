"""ONNX Runtime: one execution provider, required, never replaced by a quiet CPU run."""

from __future__ import annotations

from typing import TYPE_CHECKING, List, Mapping

import onnxruntime as ort

from ramnas_edge.backends import Options, Running, Tensor
from ramnas_models.errors import BackendError

if TYPE_CHECKING:
    from ramnas_edge.backends import Array


def load(engine: str, provider: str) -> OrtBackend:
    if provider not in ort.get_available_providers():
        raise BackendError(
            f"engine {engine}: this onnxruntime {ort.__version__} has no {provider} "
            f"(it has {', '.join(ort.get_available_providers())}); install a build that does"
        )
    return OrtBackend(engine, provider)


class OrtBackend:
    def __init__(self, engine: str, provider: str) -> None:
        self.engine, self.provider = engine, provider
        self.version: str = ort.__version__

    def open(self, model: bytes, options: Options) -> OrtSession:
        if options.precision != "fp32":
            raise BackendError(
                f"engine {self.engine} runs fp32 graphs as they are; "
                f"precision {options.precision} needs another engine"
            )
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = options.threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 3  # errors reach us as exceptions
        if self.provider != "CPUExecutionProvider":
            settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        try:
            session = ort.InferenceSession(model, settings, providers=[self.provider])
        except Exception as error:  # onnxruntime raises its own classes and RuntimeError
            raise BackendError(f"engine {self.engine} refuses the model: {error}") from error
        loaded = session.get_providers()
        if loaded[0] != self.provider:
            raise BackendError(
                f"engine {self.engine}: {self.provider} did not load, {loaded[0]} would run "
                "instead; check the driver and the libraries of that provider"
            )
        running = Running(self.engine, self.version, tuple(loaded), options.precision)
        return OrtSession(session, running)


class OrtSession:
    def __init__(self, session: ort.InferenceSession, running: Running) -> None:
        self._session = session
        self.running = running
        self.inputs = [_tensor(t) for t in session.get_inputs()]
        self.outputs = [_tensor(t) for t in session.get_outputs()]

    def infer(self, feeds: Mapping[str, Array]) -> List[Array]:
        try:
            outputs: List[Array] = self._session.run(None, feeds)
        except Exception as error:
            raise BackendError(f"engine {self.running.engine} failed: {error}") from error
        return outputs

    def close(self) -> None:
        del self._session


def _tensor(arg: ort.NodeArg) -> Tensor:
    return Tensor(arg.name, tuple(arg.shape), arg.type)
