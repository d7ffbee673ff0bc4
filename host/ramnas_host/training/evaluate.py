"""The true accuracy of an arch: cut it out, recalibrate its BatchNorm, count correct labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import torch

from ramnas_host.data.images import Dataset, Split
from ramnas_host.training.distributed import Ranks
from ramnas_models.space import Arch
from ramnas_models.supernet import Subnet, Supernet


class Scores(msgspec.Struct, frozen=True):
    """Top-1 and top-5 accuracy on a split, as shares from 0 to 1."""

    top1: float
    top5: float


def recalibrated_subnet(net: Supernet, arch: Arch, calibration: Split) -> Subnet:
    """Cut out `arch` and give it BatchNorm statistics of its own, taken from `calibration`."""
    return recalibrated(net.extract(arch), calibration)


def recalibrated(subnet: Subnet, calibration: Split) -> Subnet:
    """Recalibrate the BatchNorm of `subnet` in place on `calibration`, and return it."""
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
    """Cut out each arch, recalibrate its BatchNorm and score it on `split`.

    The ranks share the archs, and each returns all scores, in the order of `archs`. `on_done` is
    called with the number of archs that are done, estimated from this rank's own.
    """
    own = []
    for count, arch in enumerate(ranks.share(archs), start=1):
        own.append(score(recalibrated_subnet(net, arch, dataset.calibration), dataset.split(split)))
        on_done(min(count * ranks.world, len(archs)))
    parts = ranks.gather(own)
    return [parts[i % ranks.world][i // ranks.world] for i in range(len(archs))]
