"""The same archs measured twice -> how well the two orders of their latencies agree."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Dict, List

import numpy as np
import torch

from ramnas_edge.measuring.drift import corrected_ms
from ramnas_edge.measuring.local import profile
from ramnas_edge.measuring.record import Target
from ramnas_edge.measuring.request import Request
from ramnas_edge.measuring.store import Store
from ramnas_models.sampling import sample_by_macs
from ramnas_models.space import load_space
from tests.gpu.sizes import Sizes
from tests.gpu.table import Rows


def run(rows: Rows, sizes: Sizes, device: torch.device) -> None:
    """Each pass has an order of its own. Latencies have the drift of the machine taken out."""
    engine = "onnxruntime-cuda" if device.type == "cuda" else "onnxruntime-cpu"
    space = load_space(sizes.measured_space)
    archs = sample_by_macs(space, np.random.default_rng(0), sizes.measured)
    found: List[Dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "records.sqlite")
        for seed, name in enumerate(("first pass", "second pass")):
            request = Request(name, space, Target(engine=engine), archs, seed=seed)
            with rows.row(f"{len(archs)} archs of {space.name}, {engine}, {name}") as figures:
                start = time.perf_counter()
                device_class = profile(
                    request, store, on_progress=lambda p: figures.update({"archs": p.done})
                )
                figures["seconds"] = time.perf_counter() - start
                figures.update(store.count(name, device_class))
                ms = corrected_ms(store.records(name, device_class))
                ms = {arch.id: ms[arch.id] for arch in archs if arch.id in ms}  # no anchors
                figures["fastest ms"], figures["slowest ms"] = min(ms.values()), max(ms.values())
                found.append(ms)
        store.close()
    with rows.row("the two passes against each other") as figures:
        from scipy.stats import kendalltau

        assert len(found) == 2, "a pass is missing"
        both = sorted(set(found[0]) & set(found[1]))
        first, second = (np.array([ms[arch] for arch in both]) for ms in found)
        figures["archs"] = len(both)
        figures["Kendall tau"] = float(kendalltau(first, second).statistic)
        figures["median difference %"] = float(100 * np.median(np.abs(second / first - 1)))
        figures["largest difference %"] = float(100 * np.max(np.abs(second / first - 1)))
