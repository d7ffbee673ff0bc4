"""True top-1 of 20 archs, cache warm, against a plain loop over torch modules on the same files.

The peer is what one writes without ramnas: `nn.Conv2d` and `nn.BatchNorm2d` modules for each arch,
`momentum=None` to recalibrate, and files that are decoded batch by batch.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from ramnas_edge.vision import preprocessing
from ramnas_host.data.images import Dataset, Files, Split
from ramnas_host.data.photographs import PHOTOGRAPHS
from ramnas_host.training.evaluate import true_scores
from ramnas_models.bundle import Preprocessing
from ramnas_models.onnx_graph import Normalisation
from ramnas_models.sampling import sample_by_macs
from ramnas_models.space import load_space
from ramnas_models.supernet import Subnet, Supernet
from tests.gpu.plain import plain

_CALIBRATION, _SCORED, _BATCH = 64, 64, 32
_HOW = Preprocessing(Normalisation(), "bicubic", resize_short=256, crop=224)


def run() -> dict[str, float]:
    """The cheaper 20 of 60 archs of `attentivenas` that are spread over its MACs.

    64 photographs recalibrate and 64 are scored, JPEGs of 500 x 375. Each arch is timed with both
    sides in turn.
    """
    space = load_space("attentivenas")
    torch.manual_seed(0)
    net = Supernet(space).eval()
    spread = sample_by_macs(space, np.random.default_rng(0), 60)
    archs = sorted(spread, key=lambda arch: net.plan(arch).macs)[:20]
    ours_s = peer_s = 0.0
    with tempfile.TemporaryDirectory() as name, mock.patch.dict(
        os.environ, {"XDG_CACHE_HOME": f"{name}/cache"}
    ):
        dataset = _dataset(Path(name))
        for split in (dataset.calibration, dataset.report):
            next(split.batches(224))  # fills the cache
        for arch in archs:
            start = time.perf_counter()
            true_scores(net, [arch], dataset, "report")
            middle = time.perf_counter()
            _plain_top1(net.extract(arch), dataset)
            ours_s += middle - start
            peer_s += time.perf_counter() - middle
    pictures = len(archs) * (_CALIBRATION + _SCORED)
    return {
        "pictures_per_s": pictures / ours_s,
        "peer_pictures_per_s": pictures / peer_s,
        "times_as_fast": peer_s / ours_s,
    }


def _dataset(folder: Path) -> Dataset:
    """Random crops of the photographs that ramnas carries, enlarged as little as possible."""
    rng, paths = np.random.default_rng(0), []
    whole = [one.read() for part in PHOTOGRAPHS.values() for one in part]
    for i in range(_CALIBRATION + _SCORED):
        image = whole[i % len(whole)]
        scale = max(1.0, 400 / min(image.shape[:2]), 520 / max(image.shape[:2]))
        image = cv2.resize(image, None, fx=scale, fy=scale)
        top, left = (int(rng.integers(0, max(1, n - m))) for n, m in zip(image.shape, (375, 500)))
        paths.append(folder / f"{i:03}.jpg")
        crop = image[top : top + 375, left : left + 500]
        cv2.imwrite(str(paths[-1]), crop, [cv2.IMWRITE_JPEG_QUALITY, 90])
    labels = torch.arange(len(paths)) % 1000
    whole_split = Split(Files(paths), labels, _HOW)
    calibration = whole_split.take(np.arange(_CALIBRATION))
    scored = whole_split.take(np.arange(_CALIBRATION, len(paths)))
    return Dataset("bench", (), "", "", scored, calibration, scored, scored)


@torch.no_grad()
def _plain_top1(subnet: Subnet, dataset: Dataset) -> float:
    """Top-1 as it is usually written."""
    network, side = plain(subnet), subnet.plan.input_hw[0]
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the mean over all batches
    network.train()
    for images, _ in _plain_batches(dataset.calibration, side):
        network(images)
    network.eval()
    hits = 0
    for images, labels in _plain_batches(dataset.report, side):
        hits += int((network(images).argmax(1) == labels).sum())
    return hits / len(dataset.report)


def _plain_batches(split: Split, side: int) -> Iterator[tuple[Tensor, Tensor]]:
    norm = _HOW.normalisation
    mean, std = (torch.tensor(values)[:, None, None] for values in (norm.mean, norm.std))
    for start in range(0, len(split), _BATCH):
        index = range(start, min(start + _BATCH, len(split)))
        frames = [preprocessing.prepare(split.images[i], _HOW, (side, side)) for i in index]
        pixels = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)
        yield (pixels.flip(1) / 255 - mean) / std, split.labels[start : index.stop]
