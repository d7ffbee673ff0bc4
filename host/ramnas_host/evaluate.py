"""The true accuracy of an arch: cut it out, recalibrate its BatchNorm, count the hits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ramnas_host.data import Dataset, Split
from ramnas_models.space import Arch
from ramnas_models.supernet import Subnet, Supernet


def calibrated(net: Supernet, arch: Arch, calibration: Split) -> Subnet:
    """`arch` with BatchNorm statistics of its own, from a fixed set of training images."""
    return net.extract(arch).recalibrate(calibration.batches(arch.resolution))


@torch.no_grad()
def top1(subnet: Subnet, split: Split) -> float:
    """Share of `split` whose most likely class is the label, at the subnet's own resolution."""
    found = [subnet(images).argmax(1) for images in split.batches(subnet.plan.input_hw[0])]
    return float((torch.cat(found) == split.labels).double().mean())


def true_top1(
    net: Supernet,
    archs: Sequence[Arch],
    dataset: Dataset,
    split: str,
    *,
    on_done: Callable[[int], None] = lambda count: None,
) -> list[float]:
    """`top1` of each arch on `split`, BatchNorm recalibrated; `on_done` hears how many are done."""
    calibration, part = dataset.calibration, dataset.split(split)
    found = []
    for count, arch in enumerate(archs, start=1):
        for images in (calibration, part):
            images.at(arch.resolution)  # prepared once a resolution, not again for every arch
        found.append(top1(calibrated(net, arch, calibration), part))
        on_done(count)
    return found
