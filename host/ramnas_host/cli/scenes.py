"""`ramnas scenes`: items pasted onto photographs -> data for detection and segmentation."""

from __future__ import annotations

import argparse
from pathlib import Path

from ramnas_edge.cli.terminal import Verbs, add_verb
from ramnas_host.cli.options import data_option


def add(verbs: Verbs) -> None:
    """Add this verb to the command line."""
    scenes = add_verb(
        verbs, "scenes",
        help="make small data sets for detection and segmentation",
        purpose="Makes a small data set for detection (as COCO) and one for segmentation (as "
        "Cityscapes), by pasting real digits or clothes onto photographs. Use it to try ramnas "
        "finetune.",
        example="ramnas scenes --out runs/scenes",
    )  # fmt: skip
    scenes.add_argument(
        "--items", default="digits", choices=("digits", "fashion"),
        help="what is pasted (default: digits)",
    )  # fmt: skip
    data_option(scenes)
    for part, count in (("train", 8000), ("val", 100), ("test", 500)):
        scenes.add_argument(
            f"--{part}", type=int, default=count, metavar="N",
            help=f"scenes in the {part} split (default: {count})",
        )  # fmt: skip
    scenes.add_argument("--seed", type=int, default=0, help="seed of the scenes (default: 0)")
    scenes.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
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
            raise DataError(f"--{part} {count}: at least 1 scene is needed")
    dataset = load_dataset(args.items, load_recipe(args.items).images, args.data)
    with bar(f"scenes of {args.items}", sum(counts.values())) as update:
        write_scenes(dataset, args.out, counts, args.seed, on_done=update)
    print(f"for detection: {args.out / 'coco'}\nfor segmentation: {args.out / 'cityscapes'}")
