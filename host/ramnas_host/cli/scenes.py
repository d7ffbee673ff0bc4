"""`ramnas scenes`: items pasted over photographs -> small sets for detection and segmentation."""

from __future__ import annotations

import argparse
from pathlib import Path

from ramnas_host.cli.options import data_option


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this verb to the command line."""
    scenes = verbs.add_parser(
        "scenes", help="compose detection and segmentation scenes from real images"
    )
    scenes.add_argument("--items", default="digits", choices=("digits", "fashion"))
    data_option(scenes)
    scenes.add_argument("--train", type=int, default=8000, metavar="N")
    scenes.add_argument("--val", type=int, default=100, metavar="N")
    scenes.add_argument("--test", type=int, default=500, metavar="N")
    scenes.add_argument("--seed", type=int, default=0)
    scenes.add_argument("--out", type=Path, required=True, metavar="DIR")
    scenes.set_defaults(call=_scenes)


def _scenes(args: argparse.Namespace) -> None:
    from ramnas_host.cli.progress import bar
    from ramnas_host.config import load_recipe
    from ramnas_host.data.datasets import load_dataset
    from ramnas_host.data.scenes import write_scenes
    from ramnas_models.errors import DataError

    counts = {"train": args.train, "val": args.val, "test": args.test}
    for part, count in counts.items():
        if count < 1:
            raise DataError(f"--{part} {count}: at least one scene is needed")
    dataset = load_dataset(args.items, load_recipe(args.items).images, args.data)
    with bar(f"scenes of {args.items}", sum(counts.values())) as update:
        write_scenes(dataset, args.out, counts, args.seed, on_done=update)
    print(f"for detection: {args.out / 'coco'}\nfor segmentation: {args.out / 'cityscapes'}")
