"""What imported weights compute: `python -m tests.studies.pretrained exactness --pictures DIR`.

DIR has pictures of ImageNet whose names begin with the number of their class, `n01440764_tench`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

from ramnas_edge.vision.preprocessing import prepare, read_image
from ramnas_edge.vision.sources import list_images
from ramnas_models import imagenet
from ramnas_models.bundle import Preprocessing
from ramnas_models.importers.efficientnet_lite import MODELS, PREPROCESSING, installed, read
from ramnas_models.supernet import Supernet

_BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    verb = verbs.add_parser(
        "exactness", help="top-1 of the publisher's network and of ours, by how pictures are cut"
    )
    verb.add_argument("--pictures", type=Path, required=True)
    verb.set_defaults(call=exactness)
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
