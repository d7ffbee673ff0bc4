"""Engine `auto`: try every engine on the given models and choose the fastest that works."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Collection, Dict, List, Sequence

import msgspec
import numpy as np

from ramnas_edge.engines import backends
from ramnas_models.errors import BackendError

if TYPE_CHECKING:
    from ramnas_edge.engines.backends import Array, Options, Session

_DTYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}


class Fastest(msgspec.Struct, frozen=True):
    """The chosen engine, and why in one line that names every engine that was tried."""

    engine: str
    why: str


def fastest(
    models: Sequence[bytes], options: Options, *, without: Collection[str] = (), runs: int = 20
) -> Fastest:
    """Time `runs` runs of every model on each engine except `without`.

    BackendError with all reasons if no engine runs all the models.
    """
    median_ms: Dict[str, float] = {}
    refused: List[str] = []
    for engine in (engine for engine in backends.ENGINES if engine not in without):
        try:
            backend = backends.load(engine)
            median_ms[engine] = sum(_median_ms(backend.open(m, options), runs) for m in models)
        except BackendError as error:
            refused.append(str(error))
    if not median_ms:
        refused += [f"engine {engine} is left out" for engine in without]
        raise BackendError(f"no engine runs this model: {'; '.join(refused)}")
    order = sorted(median_ms, key=lambda engine: median_ms[engine])
    figures = ", ".join(f"{engine} {median_ms[engine]:.3g} ms" for engine in order)
    return Fastest(order[0], "; ".join([f"fastest of {figures}", *refused]))


def _median_ms(session: Session, runs: int) -> float:
    """The median time of one run of `session`, which is then closed."""
    feeds: Dict[str, Array] = {
        t.name: np.zeros([n if isinstance(n, int) else 1 for n in t.shape], _DTYPES[t.dtype])
        for t in session.inputs
    }
    times = []
    for run in range(runs + 3):  # the first runs allocate or compile
        start = time.perf_counter()
        outputs = session.infer(feeds)
        if run >= 3:
            times.append(time.perf_counter() - start)
    backends.check_finite(session.running, outputs)
    session.close()
    return 1e3 * float(np.median(times))
