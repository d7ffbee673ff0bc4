"""Pictures -> the orders of channels that ship: `python -m tests.studies.channel_orders`.

`--pictures` is a folder of ImageNet's sample pictures, whose names begin with the number of their
class. Every third one is left out, so that `tests.studies.pretrained` can judge the orders by it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ramnas_edge.vision.preprocessing import prepare, read_image
from ramnas_edge.vision.sources import list_images
from ramnas_models.importers import channel_order, efficientnet_lite
from ramnas_models.importers.efficientnet_lite import PREPROCESSING
from ramnas_models.supernet import Subnet, Supernet

SIDE, COUNT, BATCH = 160, 256, 16  # 64 times as many pixels as channels, and quick


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=channel_order.FILE)
    args = parser.parse_args()
    x = pictures(args.pictures)
    found = {}
    for model in efficientnet_lite.MODELS:
        file = efficientnet_lite.installed(model)
        space, tensors = efficientnet_lite.read(model, file, orders={})
        net = Supernet(space)
        net.load_state_dict(tensors)
        largest = net.extract(space.max())
        for key, covariance in covariances(largest, x).items():
            order = channel_order.least_loss(key, tensors, covariance, space.bn_eps)
            found[f"{model}/{key}"] = order.numpy().astype(np.uint16)
        print(f"{model}: {sum(key.startswith(model) for key in found)} blocks", flush=True)
    np.savez_compressed(args.out, **found)
    print(f"orders: {args.out}")


def pictures(folder: Path) -> Tensor:
    """COUNT of the pictures, as the networks take them, float32 [n, 3, SIDE, SIDE]."""
    files = sorted(map(str, list_images(str(folder))))
    rest = [file for i, file in enumerate(files) if i % 3]
    taken = np.random.default_rng(0).permutation(len(rest))[:COUNT]
    how = PREPROCESSING.at(SIDE)
    read = [prepare(read_image(rest[i]), how, (SIDE, SIDE)) for i in taken]
    rgb = torch.from_numpy(np.ascontiguousarray(np.stack(read)[..., ::-1])).permute(0, 3, 1, 2)
    return (rgb.float() - 127) / 128


@torch.no_grad()
def covariances(net: Subnet, x: Tensor) -> dict[str, Tensor]:
    """By block, the covariance [c, c] over all pixels of what its projection reads, in float64."""
    sums: dict[str, list[Tensor]] = {}
    hooks = []
    for block in net.plan.blocks:
        if block.expand:
            key = block.project.key.removesuffix(".project")

            def note(_: object, __: object, y: Tensor, key: str = key) -> None:
                flat = y.transpose(0, 1).flatten(1)
                part = [torch.tensor(flat.shape[1]), flat.sum(1).double(), (flat @ flat.T).double()]
                old = sums.get(key)
                sums[key] = [a + b for a, b in zip(old, part, strict=True)] if old else part

            module = net.get_submodule(block.depthwise.key)
            hooks.append(module.register_forward_hook(note))
    for part in x.split(BATCH):
        net(part)
    for hook in hooks:
        hook.remove()
    found = {}
    for key, (count, total, square) in sums.items():
        mean = total / count
        found[key] = square / count - torch.outer(mean, mean)
    return found


if __name__ == "__main__":
    main()
