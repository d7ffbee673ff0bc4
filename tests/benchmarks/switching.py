"""Twenty switches between two models of a bundle: peak and final memory, relative to one model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Tuple

import numpy as np

from ramnas_edge.engines import backends
from ramnas_edge.runtime.expected_latency import warm
from ramnas_edge.runtime.policy import WINDOW, Policy
from ramnas_edge.runtime.switching import Switching, SwitchPlan
from ramnas_edge.vision.detection import Limits
from ramnas_edge.vision.pipeline import Pipelines, open_pipelines
from ramnas_models.bundle import Model, open_bundle

SWITCHES, EVERY = 20, 10  # calls


class Alternating(Policy):
    """Asks for the other model every few calls, until there have been SWITCHES switches."""

    def add(self, call_ms: float, now_s: float) -> int:
        super().add(call_ms, now_s)
        self.calls = getattr(self, "calls", 0) + 1
        return 1 - self.model if self.calls > EVERY and not self.done else self.model

    def step(self, model: int, now_s: float) -> None:
        super().step(model, now_s)
        self.calls, self.steps = 0, getattr(self, "steps", 0) + 1

    @property
    def done(self) -> bool:
        return getattr(self, "steps", 0) >= SWITCHES


def main(path: str) -> None:
    bundle = open_bundle(path)
    front = bundle.front()
    backend = backends.load("onnxruntime-cpu")
    frame = np.zeros((480, 640, 3), np.uint8)

    def start(models: Tuple[Model, ...]) -> Pipelines:
        opened = open_pipelines(bundle, [front], models, backend, backends.Options())
        return warm(opened, (480, 640), 1)

    policy = Alternating((1.0, 2.0), 1e6, 1)
    ladder = [(front.models[0],), (front.models[-1],)]
    switching = Switching(start, SwitchPlan(ladder, policy), backend.thread_bound)
    for _ in range(EVERY // 2):
        switching([frame], Limits())
    one = _kib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the present value
    while not policy.done:
        switching([frame], Limits())
    for _ in range(2 * WINDOW):  # until the previous model has been freed
        switching([frame], Limits())
    print(_kib("VmHWM") / one, _kib("VmRSS") / one)
    switching.close()


def _kib(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    main(sys.argv[1])
