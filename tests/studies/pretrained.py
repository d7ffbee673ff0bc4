"""What imported weights and their slices compute: `python -m tests.studies.pretrained VERB`.

`exactness` compares with the publisher's network, `slices` prints what networks cut out of lite0
can do without any training. `--pictures` is a folder of ImageNet's sample pictures, whose names
begin with the number of their class, as in n01440764_tench.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

from ramnas_edge.vision.preprocessing import prepare, read_image
from ramnas_edge.vision.sources import list_images
from ramnas_models import imagenet
from ramnas_models.bundle import Preprocessing
from ramnas_models.importers.channel_order import sort_channels
from ramnas_models.importers.efficientnet_lite import MODELS, PREPROCESSING, installed, read
from ramnas_models.recalibration import Reference
from ramnas_models.space import Arch, Space, StageArch
from ramnas_models.supernet import Subnet, Supernet

_BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    verb = verbs.add_parser(
        "exactness", help="top-1 of the publisher's network and of ours, by how pictures are cut"
    )
    verb.add_argument("--pictures", type=Path, required=True)
    verb.set_defaults(call=exactness)
    verb = verbs.add_parser("slices", help="top-1 of slices of lite0 by the order of its channels")
    verb.add_argument("--pictures", type=Path, required=True)
    verb.set_defaults(call=slices)
    args = parser.parse_args()
    args.call(args)


@torch.no_grad()
def exactness(args: argparse.Namespace) -> None:
    """Print top-1 of both networks with the published crop and with a crop of 0.875."""
    torch.set_num_threads(1)
    order = imagenet.synsets()
    files = [Path(file) for file in list_images(args.pictures)]
    labels = torch.tensor([order.index(file.name.split("_")[0]) for file in files])
    print(f"{'model':7}{'pixels':>7}  {'crop':10}{'theirs':>8}{'ours':>8}{'n':>7}  largest error")
    for model in MODELS:
        file = installed(model)
        space, tensors = read(model, file)
        net = Supernet(space)
        net.load_state_dict(tensors)
        ours, side = net.extract(space.max()), space.max().resolution
        theirs = EfficientNet.from_name(f"efficientnet-{model}").eval()
        theirs.load_state_dict(torch.load(file, weights_only=True))
        whole = round(side / 0.875)
        other = Preprocessing(PREPROCESSING.normalisation, "bicubic", whole, side)
        for name, how in (("margin 32", PREPROCESSING.at(side)), ("0.875", other)):
            logits = [
                torch.stack([_logits(each, x) for each in (theirs, ours)])
                for x in _batches(files, how, side)
            ]
            both = torch.cat(logits, 1)
            top1 = (both.argmax(2) == labels).double().mean(1) * 100
            error = (both[0] - both[1]).abs().max() / both[0].abs().max()
            print(
                f"{model:7}{side:>7}  {name:10}{top1[0]:8.1f}{top1[1]:8.1f}{len(files):>7}"
                f"  {error:.1e}",
                flush=True,
            )


ORDERS = ("as published", "by size", "shipped")


@torch.no_grad()
def slices(args: argparse.Namespace) -> None:
    """Print top-1 on every third picture of slices whose BatchNorm 334 others recalibrated.

    With the channels in three orders the statistics are controlled by those of the max net. Two
    more columns have the shipped order with the published statistics as they are, and with those
    of the pictures alone.
    """
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    files = [Path(file) for file in sorted(map(str, list_images(args.pictures)))]
    names = imagenet.synsets()
    judged = files[::3]
    labels = torch.tensor([names.index(file.name.split("_")[0]) for file in judged])
    rest = [file for i, file in enumerate(files) if i % 3]
    recalibrating = [rest[i] for i in np.random.default_rng(0).permutation(len(rest))[:334]]
    nets = {order: _ordered(order) for order in ORDERS}
    space = nets["shipped"].space
    columns = [*ORDERS, "published statistics", "pictures alone"]
    print(f"{'slice of lite0':34}{'MMACs':>7}" + "".join(f"{name:>22}" for name in columns))
    known: dict[tuple[str, int], dict[str, Reference]] = {}
    for name, arch in _slices(space).items():
        how = PREPROCESSING.at(arch.resolution)
        images = list(_batches(recalibrating, how, arch.resolution))
        seen = list(_batches(judged, how, arch.resolution))
        largest = msgspec.structs.replace(space.max(), resolution=arch.resolution)
        found = []
        for order, net in nets.items():
            key = order, arch.resolution
            if key not in known:
                known[key] = net.extract(largest).references(images)
            cut = net.extract(arch).recalibrate(images, known[key])
            found.append(_top1(cut, seen, labels))
        net = nets["shipped"]
        found.append(_top1(net.extract(arch), seen, labels))
        found.append(_top1(net.extract(arch).recalibrate(images), seen, labels))
        cells = "".join(f"{value:>22.1f}" for value in found)
        print(f"{name:34}{net.plan(arch).macs / 1e6:7.0f}{cells}", flush=True)
    print(f"top-1 in %, n {len(judged)}; one standard error is about {50 / len(judged) ** 0.5:.1f}")


def _ordered(order: str) -> Supernet:
    """lite0 with its expanded channels in one of ORDERS.

    `by size` is by the sum of the projection's weights that read a channel, in magnitude, times the
    magnitude of the gamma before it.
    """
    file = installed("lite0")
    space, tensors = read("lite0", file, orders=None if order == "shipped" else {})
    net = Supernet(space)
    if order == "by size":
        layout, orders = net.plan(space.max()), {}
        for block in layout.blocks:
            weight = tensors[f"{block.project.key}.weight"].abs().sum((0, 2, 3))
            size = weight * tensors[f"{block.depthwise.key}.bn.weight"].abs()
            key = block.project.key.removesuffix(".project")
            orders[key] = size.argsort(descending=True).numpy().astype(np.uint16)
        tensors = sort_channels(tensors, layout, orders)
    net.load_state_dict(tensors)
    return net


def _slices(space: Space) -> dict[str, Arch]:
    """Networks with some choices smaller than max, by what was made smaller."""
    largest = space.max()

    def cut(
        *, expand: int | None = None, kernel: int | None = None, shorter: Sequence[int] = (),
        stages: Sequence[int] = range(7), resolution: int = largest.resolution,
    ) -> Arch:  # fmt: skip
        made = []
        for i, stage in enumerate(largest.stages):
            depth = stage.depth - (i in shorter)
            slots = range(len(stage.kernels))
            expands = [
                (min(e, expand) if expand and i in stages else e) * (j < depth)
                for j, e in zip(slots, stage.expands, strict=True)
            ]
            kernels = [
                (min(k, kernel) if kernel else k) * (j < depth)
                for j, k in zip(slots, stage.kernels, strict=True)
            ]
            made.append(StageArch(stage.width, depth, tuple(kernels), tuple(expands), stage.se))
        arch = msgspec.structs.replace(largest, resolution=resolution, stages=tuple(made))
        return space.check(arch)

    return {
        "max (lite0)": largest,
        "160 pixels": cut(resolution=160),
        "last block of each stage left out": cut(shorter=[1, 2, 3, 4, 5]),
        "expand 3 in the sixth stage": cut(expand=3, stages=[5]),
        "expand 4 in stages 5 to 7": cut(expand=4, stages=[4, 5, 6]),
        "kernels 3": cut(kernel=3),
        "expand 4": cut(expand=4),
        "expand 3": cut(expand=3),
        "min at 224 pixels": msgspec.structs.replace(space.min(), resolution=largest.resolution),
    }


def _top1(net: Subnet, batches: Iterable[Tensor], labels: Tensor) -> float:
    """Top-1 in percent."""
    found = torch.cat([_logits(net, x).argmax(1) for x in batches])
    return float((found == labels).double().mean()) * 100


def _logits(net: nn.Module, x: Tensor) -> Tensor:
    found: Tensor = net(x)
    return found


def _batches(files: list[Path], how: Preprocessing, side: int) -> Iterator[Tensor]:
    """The pictures as the networks take them, float32 [n, 3, side, side]."""
    for start in range(0, len(files), _BATCH):
        part = files[start : start + _BATCH]
        pictures = np.stack([prepare(read_image(str(f)), how, (side, side)) for f in part])
        rgb = torch.from_numpy(np.ascontiguousarray(pictures[..., ::-1])).permute(0, 3, 1, 2)
        yield (rgb.float() - 127) / 128


if __name__ == "__main__":
    main()
