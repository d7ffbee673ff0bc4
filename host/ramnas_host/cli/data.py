"""`ramnas data`: a split of a data set -> image files, one folder per class."""

from __future__ import annotations

import argparse
from pathlib import Path

from ramnas_edge.cli.terminal import Verbs, add_verb
from ramnas_host.cli.options import SPLITS, data_option


def add(verbs: Verbs) -> None:
    """Add this verb to the command line."""
    data = add_verb(
        verbs, "data",
        help="write a split of a data set as image files",
        purpose="Writes one split of a recipe's data set as image files, one folder per class, so "
        "that ramnas-edge run can read them.",
        example="ramnas data --recipe digits --split report --out runs/test",
    )  # fmt: skip
    data.add_argument(
        "--recipe", default="digits",
        help="name or .yaml of the recipe that names the data set (default: digits)",
    )  # fmt: skip
    data_option(data)
    data.add_argument("--split", default="report", choices=SPLITS, help="(default: report)")
    data.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    data.set_defaults(call=_data)


def _data(args: argparse.Namespace) -> None:
    from ramnas_host.config import load_recipe
    from ramnas_host.data.datasets import load_dataset
    from ramnas_host.data.images import write_image_folder

    recipe = load_recipe(args.recipe)
    dataset = load_dataset(recipe.dataset, recipe.images, args.data)
    count = write_image_folder(dataset, args.split, args.out)
    print(f"{count} images: {args.out}")
