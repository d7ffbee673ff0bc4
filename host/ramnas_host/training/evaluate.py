"""The true accuracy of an arch: cut it out, recalibrate its BatchNorm, count the hits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import torch

from ramnas_host.data.images import Dataset, Split
from ramnas_host.training.distributed import Ranks
from ramnas_models.space import Arch
from ramnas_models.supernet import Subnet, Supernet


class Scores(msgspec.Struct, frozen=True):
    """Shares of a split whose label is the most likely class, and among the five most likely."""

    top1: float
    top5: float


def recalibrated_subnet(net: Supernet, arch: Arch, calibration: Split) -> Subnet:
    """`arch` with BatchNorm statistics of its own, from a fixed set of training images."""
    return recalibrated(net.extract(arch), calibration)


def recalibrated(subnet: Subnet, calibration: Split) -> Subnet:
    """The subnet itself, its BatchNorm statistics taken from `calibration`."""
    device = next(subnet.parameters()).device
    batches = calibration.batches(subnet.plan.input_hw[0])
    return subnet.recalibrate(images.to(device) for images, _ in batches)


@torch.no_grad()
def score(subnet: Subnet, split: Split) -> Scores:
    """Top-1 and top-5 on `split`, at the subnet's own resolution."""
    device = next(subnet.parameters()).device
    hits1 = hits5 = count = 0
    for images, labels in split.batches(subnet.plan.input_hw[0]):
        logits = subnet(images.to(device))
        found = logits.topk(min(5, logits.shape[1])).indices.cpu() == labels[:, None]
        hits1 += int(found[:, 0].sum())
        hits5 += int(found.sum())
        count += len(labels)
    return Scores(hits1 / count, hits5 / count)


def true_scores(
    net: Supernet,
    archs: Sequence[Arch],
    dataset: Dataset,
    split: str,
    *,
    ranks: Ranks = Ranks(),
    on_done: Callable[[int], None] = lambda count: None,
) -> list[Scores]:
    """`score` of each arch on `split`, BatchNorm recalibrated; the ranks share the archs.

    `on_done` hears how many are done, as far as this rank can tell.
    """
    own = []
    for count, arch in enumerate(ranks.share(archs), start=1):
        own.append(score(recalibrated_subnet(net, arch, dataset.calibration), dataset.split(split)))
        on_done(min(count * ranks.world, len(archs)))
    parts = ranks.gather(own)
    return [parts[i % ranks.world][i // ranks.world] for i in range(len(archs))]
