"""Archs of a supernet -> how many pictures per second their evaluation takes."""

from __future__ import annotations

import time

import numpy as np
import torch

from ramnas_host.data.images import Arrays, Dataset, Split
from ramnas_host.training.evaluate import true_scores
from ramnas_models.bundle import Preprocessing
from ramnas_models.onnx_graph import Normalisation
from ramnas_models.space import load_space
from ramnas_models.supernet import Supernet
from tests.gpu.sizes import Sizes
from tests.gpu.table import Rows

CLASSES = 1000


def run(rows: Rows, sizes: Sizes, device: torch.device) -> None:
    """Twice the same archs: the first pass also resizes the pictures, the second has them ready."""
    torch.manual_seed(0)
    net = Supernet(load_space(sizes.space), CLASSES).to(device)
    rng = np.random.default_rng(0)
    archs = [net.space.sample(rng) for _ in range(sizes.archs)]
    pictures = dataset(sizes.pixels, sizes.pictures, rng)
    for case in ("first pass", "again, pictures ready"):
        with rows.row(f"{sizes.archs} archs of {sizes.space}, {case}") as figures:
            start = time.perf_counter()
            true_scores(net, archs, pictures, "selection")
            seconds = time.perf_counter() - start
            each = len(pictures.selection) + len(pictures.calibration)
            figures["pictures of each arch"] = each
            figures["pictures/s"] = len(archs) * each / seconds
            figures["seconds"] = seconds


def dataset(side: int, n: int, rng: np.random.Generator) -> Dataset:
    """Random pictures: `n` of the selection split, and a quarter as many in each other one."""

    def split(count: int) -> Split:
        pixels = rng.integers(0, 256, (count, side, side, 3), np.uint8)
        labels = torch.from_numpy(rng.integers(0, CLASSES, count))
        return Split(Arrays(pixels), labels, Preprocessing(Normalisation()))

    train, calibration, report = (split(max(1, n // 4)) for _ in range(3))
    classes = tuple(map(str, range(CLASSES)))
    return Dataset("random", classes, "none", "made up", train, calibration, split(n), report)
