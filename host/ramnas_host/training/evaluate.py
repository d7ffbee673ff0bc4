"""The true accuracy of an arch: cut it out, recalibrate its BatchNorm, count correct labels."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated
from weakref import WeakKeyDictionary

import msgspec
import torch

from ramnas_host.data.images import Dataset, Split
from ramnas_host.training.distributed import Ranks
from ramnas_models.recalibration import Reference
from ramnas_models.space import Arch
from ramnas_models.supernet import Subnet, Supernet

# Pixels of a batch on a CPU, for each thread. At 192 pixels, batches of 8 take half the time of 64.
_CPU_PIXELS = 2**17

# References keep two numbers for each image and channel: 190 MB for this many images of lite2.
CONTROL_IMAGES = 1024

_known_references: WeakKeyDictionary[Supernet, dict[tuple[str, int, str], dict[str, Reference]]] = (
    WeakKeyDictionary()
)

_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Scores(msgspec.Struct, frozen=True):
    """Top-1 and top-5 accuracy on a split, as shares from 0 to 1.

    `n` is the number of images that were counted: broken files are left out.
    """

    top1: _Share
    top5: _Share
    n: Annotated[int, msgspec.Meta(ge=1)]


def recalibrated_subnet(net: Supernet, arch: Arch, calibration: Split) -> Subnet:
    """Cut out `arch` and give it BatchNorm statistics of its own, taken from `calibration`.

    Where the statistics of the max net came with the weights, it keeps them at any resolution. They
    then are the control variate for those of all other networks (`recalibration.Controlled`), for
    which up to `CONTROL_IMAGES` images are enough.
    """
    subnet = net.extract(arch)
    if not net.published_statistics:
        return recalibrated(subnet, calibration)
    if keeps_statistics(net, arch):
        return subnet
    largest = _largest(net, arch.resolution)
    references = _references(net, largest, calibration)
    device = next(subnet.parameters()).device
    with full_precision(device):
        return subnet.recalibrate(_for_control(calibration, arch.resolution, device), references)


def keeps_statistics(net: Supernet, arch: Arch) -> bool:
    """Whether the statistics of `arch` came with the weights: it is the max net, of any size."""
    return net.published_statistics and arch == _largest(net, arch.resolution)


def _largest(net: Supernet, resolution: int) -> Arch:
    return msgspec.structs.replace(net.space.max(), resolution=resolution)


def recalibrated(subnet: Subnet, calibration: Split) -> Subnet:
    """Recalibrate the BatchNorm of `subnet` in place on `calibration`, and return it."""
    device = next(subnet.parameters()).device
    with full_precision(device):
        batches = calibration.batches(subnet.plan.input_hw[0], device=device)
        return subnet.recalibrate(images for images, _ in batches)


def _references(net: Supernet, largest: Arch, calibration: Split) -> dict[str, Reference]:
    """What the max net meets in the images, which is the same for all archs of a resolution."""
    device = next(net.parameters()).device
    known = _known_references.setdefault(net, {})
    key = (calibration.identity, largest.resolution, str(device))
    if key not in known:
        with full_precision(device):
            images = _for_control(calibration, largest.resolution, device)
            known[key] = net.extract(largest).references(images)
    return known[key]


def _for_control(
    calibration: Split, resolution: int, device: torch.device
) -> Iterator[torch.Tensor]:
    left = CONTROL_IMAGES
    for images, _ in calibration.batches(resolution, device=device):
        yield images[:left]
        left -= len(images)
        if left <= 0:
            return


def recalibrated_subnets(
    net: Supernet, archs: Sequence[Arch], calibration: Split, *, ranks: Ranks = Ranks()
) -> Iterator[Subnet]:
    """The recalibrated subnet of each arch, one at a time, on the device of `net`.

    The ranks share the recalibration. All of them must call this, and each gets all subnets.
    """
    own = {}
    for position in ranks.taken(len(archs), lambda count: None):
        state = recalibrated_subnet(net, archs[position], calibration).state_dict()
        own[position] = {key: state[key].cpu() for key in state if ".bn.running_" in key}
    parts = ranks.gather(own)
    found = {position: statistics for part in parts for position, statistics in part.items()}

    def subnet(position: int) -> Subnet:
        cut = net.extract(archs[position])
        cut.load_state_dict(found[position], strict=False)
        return cut

    return map(subnet, range(len(archs)))


def score(subnet: Subnet, split: Split, *, batch: int | None = None) -> Scores:
    """Top-1 and top-5 on `split`, at the subnet's own resolution and in full fp32.

    `batch` images at a time go through the network, or as many as suit the device. It decides the
    speed and the memory, and not the scores.
    """
    _, hits = answers(subnet, split, batch=batch)
    top1, top5 = (int(hit) / len(hits) for hit in hits.sum(0).tolist())
    return Scores(top1, top5, len(hits))


@torch.no_grad()
def answers(
    subnet: Subnet, split: Split, *, batch: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The label of each image that can be read, int64 [n], and whether the network found it.

    The latter is bool [n, 2] for top-1 and top-5. Both are on the device of the network, which is
    not waited for. `batch` is as for `score`.
    """
    device = next(subnet.parameters()).device
    batch = batch or _batch_size(subnet.plan.input_hw[0], device)
    known, hits = [], []
    with full_precision(device):
        for images, labels in split.batches(subnet.plan.input_hw[0], batch, device):
            logits = subnet(images)
            found = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
            known.append(labels)
            hits.append(torch.stack([found[:, 0], found.any(1)], 1))
    return torch.cat(known), torch.cat(hits)


def _batch_size(resolution: int, device: torch.device) -> int:
    """A size that is fast. On a CPU the outputs of a layer should stay in its cache."""
    if device.type != "cpu":
        return 256
    return min(256, max(1, _CPU_PIXELS * torch.get_num_threads() // resolution**2))


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Runs fp32 networks in fp32, whatever training has set: without autocast, without TF32.

    TF32 rounds the factors of a product to 10 bits, so a GPU would count other hits than a board.
    cuDNN's search for the fastest algorithm is off too: it would begin anew with every arch.
    """
    cudnn = torch.backends.cudnn
    before = torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark
    try:
        torch.set_float32_matmul_precision("highest")
        cudnn.allow_tf32 = cudnn.benchmark = False
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        cudnn.allow_tf32, cudnn.benchmark = before[1:]


@contextmanager
def _each_warning_once() -> Iterator[None]:
    """Hundreds of archs with the same few calibration images would give the same warning each."""
    said: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        known = record.getMessage() in said
        said.add(record.getMessage())
        return not known

    logger = logging.getLogger("ramnas_models.supernet")
    logger.addFilter(is_new)
    try:
        yield
    finally:
        logger.removeFilter(is_new)


def true_scores(
    net: Supernet,
    archs: Sequence[Arch],
    dataset: Dataset,
    split: str,
    *,
    ranks: Ranks = Ranks(),
    on_done: Callable[[int], None] = lambda count: None,
    on_score: Callable[[Arch, Scores], None] = lambda arch, scores: None,
) -> list[Scores]:
    """Cut out each arch, recalibrate its BatchNorm and score it on `split`.

    The ranks share the archs: each takes the next one when it is done with one. All of them return
    all scores, in the order of `archs`. A rank calls `on_score` as soon as it has scored an arch,
    and `on_done` with the number of archs that all ranks have done.
    """
    own: dict[int, Scores] = {}
    with _each_warning_once():
        for position in ranks.taken(len(archs), on_done):
            subnet = recalibrated_subnet(net, archs[position], dataset.calibration)
            own[position] = score(subnet, dataset.split(split))
            on_score(archs[position], own[position])
    parts = ranks.gather(own)
    if ranks.world > 1:
        on_done(len(archs))  # another rank may have done the last one
    found = {position: scores for part in parts for position, scores in part.items()}
    return [found[position] for position in range(len(archs))]
