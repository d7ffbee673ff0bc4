"""Engine `auto`: try every engine on the model at hand and take the fastest that works."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Dict, List

import msgspec
import numpy as np

from ramnas_edge import backends
from ramnas_models.errors import BackendError

if TYPE_CHECKING:
    from ramnas_edge.backends import Array, Options, Session

_DTYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}


class Fastest(msgspec.Struct, frozen=True):
    """The engine taken, and why, in one line that names every engine that was tried."""

    engine: str
    why: str


def fastest(model: bytes, options: Options, runs: int = 20) -> Fastest:
    """Open `model` on each engine and time `runs` runs; BackendError if none works."""
    median_ms: Dict[str, float] = {}
    refused: List[str] = []
    for engine in backends.ENGINES:
        try:
            session = backends.load(engine).open(model, options)
            median_ms[engine] = _median_ms(session, runs)
            session.close()
        except BackendError as error:
            refused.append(str(error))
    if not median_ms:
        raise BackendError(f"no engine runs this model: {'; '.join(refused)}")
    order = sorted(median_ms, key=lambda engine: median_ms[engine])
    figures = ", ".join(f"{engine} {median_ms[engine]:.3g} ms" for engine in order)
    return Fastest(order[0], "; ".join([f"fastest of {figures}", *refused]))


def _median_ms(session: Session, runs: int) -> float:
    feeds: Dict[str, Array] = {
        t.name: np.zeros([n if isinstance(n, int) else 1 for n in t.shape], _DTYPES[t.dtype])
        for t in session.inputs
    }
    times = []
    for run in range(runs + 3):  # the first ones allocate, or compile
        start = time.perf_counter()
        session.infer(feeds)
        if run >= 3:
            times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times))
