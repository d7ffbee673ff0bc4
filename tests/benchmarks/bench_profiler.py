"""How well two calibrations of the same table1 archs agree, against one visit per arch."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.stats import kendalltau

from ramnas_edge.engines import backends
from ramnas_edge.measuring.drift import corrected_ms, visits_of
from ramnas_edge.measuring.local import profile
from ramnas_edge.measuring.record import LatencyRecord, Target
from ramnas_edge.measuring.request import Request
from ramnas_edge.measuring.runner import Runner
from ramnas_edge.measuring.store import Store
from ramnas_models.space import Arch, load_space

ARCHS = 60
_BURSTS = """
import os, time
parent = os.getppid()
while os.getppid() == parent:
    end = time.monotonic() + 5
    while time.monotonic() < end:
        sum(range(10_000))
    time.sleep(5)
"""


def run() -> dict[str, float]:
    """Kendall tau and standard deviation of the log ratio between two passes, on one thread.

    It is done on a quiet machine and on a busy one. The peer is the usual method: one visit per
    arch, the median of 15 runs after 3 warm-up runs.
    """
    space = load_space("table1")
    rng = np.random.default_rng(0)
    archs: dict[str, Arch] = {}
    while len(archs) < ARCHS:
        arch = space.sample(rng)
        archs[arch.id] = arch
    found: dict[str, float] = {}
    for state, beside in (("quiet", contextlib.nullcontext), ("busy", _bursts)):
        ours, peers = [], []
        for number in range(2):
            with beside(), tempfile.TemporaryDirectory() as folder:
                request = Request(f"pass {number}", space, Target(), [*archs.values()], seed=number)
                store = Store(Path(folder) / "records.sqlite")
                start = time.monotonic()
                profile(request, store)
                wall_s = time.monotonic() - start
                records = store.records(request.run)
                store.close()
                peers.append(_one_visit(archs, number))
            corrected = corrected_ms(records)
            ours.append({arch_id: corrected[arch_id] for arch_id in archs if arch_id in corrected})
            validity = Counter(r.validity for r in records)
            found[f"{state} {number}: inconclusive"] = validity["inconclusive"]
            warm_s, timed_s = _seconds(records)
            found[f"{state} {number}: wall s"] = wall_s
            found[f"{state} {number}: warm-up or timed share"] = warm_s / wall_s
            found[f"{state} {number}: timed share"] = timed_s / wall_s
        for name, (first, second) in (("ours", ours), ("one visit", peers)):
            tau, sd = _agreement(first, second)
            found[f"{state}: {name}: tau"] = tau
            found[f"{state}: {name}: sd of log ratio"] = sd
    return found


@contextlib.contextmanager
def _bursts() -> Iterator[None]:
    """Run a process that keeps one core busy, 5 seconds on and 5 seconds off."""
    process = subprocess.Popen([sys.executable, "-c", _BURSTS])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _one_visit(archs: dict[str, Arch], seed: int) -> dict[str, float]:
    backend, space = backends.load("onnxruntime-cpu"), load_space("table1")
    found = {}
    for arch_id in np.random.default_rng(seed).permutation(list(archs)).tolist():
        runner = Runner(backend, archs[arch_id], space, Target())
        for _ in range(3):
            runner.call()
        found[arch_id] = float(np.median(runner.time(15, 0.0, time.monotonic_ns)))
        runner.close()
    return found


def _seconds(records: list[LatencyRecord]) -> tuple[float, float]:
    """Seconds of warm-up and timed inference together, and of timed inference alone.

    A visit of an anchor is part of several records; it counts once.
    """
    visits = visits_of(records)
    whole = sum(v.end_s - v.start_s for v in visits)
    return whole, sum(sum(v.times_ms) for v in visits) / 1e3


def _agreement(first: dict[str, float], second: dict[str, float]) -> tuple[float, float]:
    both = [a for a in first if a in second]
    x, y = (np.log([values[a] for a in both]) for values in (first, second))
    return float(kendalltau(x, y).statistic), float(np.std(x - y, ddof=1))
