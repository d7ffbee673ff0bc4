"""What pretrained weights are worth to a supernet for a small folder of pictures.

    python -m tests.studies.pretrained_start --voc20 DIR --weights lite0.safetensors --out DIR

Cuts the objects of 20 classes out of the pictures in `voc20` and writes them as a labelled folder.
On it, one supernet is trained from the pretrained weights and one from random weights, at equal
steps and by one recipe, with three seeds each. The space is that of the weights at resolutions of
64, 80 and 96 pixels. At the end the last weights of min, max and 10 random subnets are scored on
the report split, each with recalibrated BatchNorm, and one table is printed. A study that was
interrupted continues where it stopped, and prints the table again if there is nothing left to do.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import torch

from ramnas_host.config import Override, Recipe, load_recipe
from ramnas_host.data.datasets import load_dataset
from ramnas_host.data.images import Dataset
from ramnas_host.training import checkpoint, train
from ramnas_host.training.checkpoint import Checkpoint
from ramnas_host.training.evaluate import true_scores
from ramnas_models.files import write_file
from ramnas_models.space import Space, load_space
from ramnas_models.whole_folder import new_folder

RESOLUTIONS = (64, 80, 96)
SEEDS = (0, 1, 2)
STARTS = ("pretrained", "scratch")
SMALLEST = 32  # pixels of the short side of a box
CONTEXT = 1.2  # the side of a crop over the long side of its box
LONGEST = 160  # pixels of a crop's side: enough for 96 pixels and the margin of 32


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--voc20", type=Path, required=True, help="pictures and their COCO files")
    parser.add_argument("--weights", type=Path, required=True, help="of ramnas import")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--most", type=int, default=400, help="training pictures of a class")
    parser.add_argument("--judged", type=int, default=50, help="the same for val and test")
    parser.add_argument("--epochs", type=int, default=2)
    # The best max net after 40 steps, on the selection split: of 0.02, 0.05, 0.1, 0.2, 0.4 and 0.8
    # from the pretrained weights, and of 0.05, 0.2 and 0.8 from random ones.
    parser.add_argument("--lr", type=float, default=0.2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    init = checkpoint.load(args.weights)
    folder, file = args.out / "crops", args.out / "space.yaml"
    if not folder.exists():
        write_crops(args.voc20, folder, {"train": args.most, "val": args.judged,
                                         "test": args.judged})  # fmt: skip
    own = msgspec.structs.replace(
        init.net.space, name=f"{init.net.space.name}-small", resolutions=RESOLUTIONS
    )
    write_file(file, msgspec.yaml.encode(own))
    space = load_space(str(file))
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for seed in SEEDS:
        for start in STARTS:
            recipe = recipe_of(seed, args.epochs, args.lr)
            dataset = load_dataset("folder", recipe.images, folder, init.about.preprocessing)
            found[start, seed] = run(
                space, dataset, recipe, init if start == "pretrained" else None,
                args.out / f"{start}-{seed}",
            )  # fmt: skip
    print_table(found)


def recipe_of(seed: int, epochs: int, lr: float) -> Recipe:
    """The recipe `pretrained` in steps of 32 pictures, for a short training."""
    changes = {
        "seed": seed, "epochs": epochs, "warm_up_epochs": 0, "batch_size": 32, "optimizer.lr": lr,
        "optimizer.lr_batch": None, "images.calibration": 512, "evaluate_every": epochs,
        "random_subnets": 0, "save_every": 20,
    }  # fmt: skip
    return load_recipe("pretrained", [Override(key, value, key) for key, value in changes.items()])


def run(
    space: Space, dataset: Dataset, recipe: Recipe, init: Checkpoint | None, out: Path
) -> dict[str, Any]:
    """Train, unless that was done before, and return the scores on the report split."""
    scores = out / "scores.json"
    what = f"{space.hash} {dataset.listing} {train.about_of(dataset, recipe, init)}"
    if not scores.exists():
        start = time.monotonic()
        if not (out / train.LAST).exists():
            train.train(space, dataset, recipe, init=init, folder=out)
        trained = time.monotonic()
        net = checkpoint.load(out / train.LAST).net
        rng = np.random.default_rng(0)
        archs = [space.min(), space.max(), *(space.sample(rng) for _ in range(10))]
        found = true_scores(net, archs, dataset, "report")
        low, high, *others = (one.top1 for one in found)
        content = {
            "what": what,
            "min": low, "max": high, "random": others, "n": found[0].n,
            "train": len(dataset.train), "lr": recipe.lr,
            "steps": recipe.epochs * (len(dataset.train) // recipe.batch_size),
        }  # fmt: skip
        write_file(scores, json.dumps(content).encode())
        took = f"{trained - start:.0f} s training, {time.monotonic() - trained:.0f} s scoring"
        print(f"{out.name}: {took}, top-1 of min {low:.3f}, of max {high:.3f}", flush=True)
    known: dict[str, Any] = json.loads(scores.read_bytes())
    if known["what"] != what:
        sys.exit(f"{scores} was made with other weights or options: choose another --out")
    return known


def print_table(found: Mapping[tuple[str, int], Mapping[str, Any]]) -> None:
    """Top-1 by start and network: the mean over the seeds, the lowest and the highest."""
    for start in STARTS:
        first = found[start, SEEDS[0]]
        print(
            f"{start}: {first['steps']} steps of 32 of {first['train']} pictures, lr {first['lr']}"
        )
    heads = "min | max | mean of 10 random subnets | worst of them"
    print(f"\n| start, top-1 in % on the report split | n | seeds | {heads} |\n|{'---|' * 7}")
    for start in STARTS:
        runs = [found[start, seed] for seed in SEEDS]
        columns = {
            "min": [one["min"] for one in runs],
            "max": [one["max"] for one in runs],
            "mean": [statistics.fmean(one["random"]) for one in runs],
            "worst": [min(one["random"]) for one in runs],
        }
        cells = [
            f"{100 * statistics.fmean(values):.1f} "
            f"({100 * min(values):.1f} to {100 * max(values):.1f})"
            for values in columns.values()
        ]
        print(f"| {start} | {runs[0]['n']} | {len(runs)} | {' | '.join(cells)} |")


def write_crops(voc20: Path, out: Path, most: Mapping[str, int]) -> None:
    """Write the objects as `out/SPLIT/CLASS/NUMBER.jpg`, up to `most` of a class in each split.

    Boxes that stand for crowds or difficult objects, or whose short side has fewer than `SMALLEST`
    pixels, are left out. A crop is a square around the box with some of what is around it, as far
    as the picture reaches.
    """
    with new_folder(out, ()) as folder:
        for split, count in most.items():
            content = json.loads((voc20 / f"annotations/instances_{split}.json").read_bytes())
            names = {one["id"]: one["name"] for one in content["categories"]}
            files = {one["id"]: one["file_name"] for one in content["images"]}
            for category, name in names.items():
                boxes = [
                    one
                    for one in content["annotations"]
                    if one["category_id"] == category
                    and not one.get("iscrowd")
                    and min(one["bbox"][2:]) >= SMALLEST
                ]
                place = folder / split / name
                place.mkdir(parents=True)
                order = np.random.default_rng(0).permutation(len(boxes))[:count]
                for index in sorted(order):
                    box = boxes[index]
                    image = cv2.imread(str(voc20 / split / files[box["image_id"]]))
                    crop = cut(image, *box["bbox"])
                    cv2.imwrite(str(place / f"{box['id']:06}.jpg"), crop)


def cut(
    image: np.ndarray, left: float, top: float, width: float, height: float
) -> np.ndarray:  # fmt: skip
    """The square around a box, clipped to the image, uint8 [h, w, 3]."""
    half = CONTEXT * max(width, height) / 2
    x, y = left + width / 2, top + height / 2
    rows, columns = image.shape[:2]
    crop = image[
        max(0, round(y - half)) : min(rows, round(y + half)),
        max(0, round(x - half)) : min(columns, round(x + half)),
    ]
    scale = LONGEST / max(crop.shape[:2])
    if scale < 1:
        size = tuple(max(1, round(scale * n)) for n in crop.shape[1::-1])
        crop = cv2.resize(crop, size, interpolation=cv2.INTER_AREA)
    return crop


if __name__ == "__main__":
    main()
