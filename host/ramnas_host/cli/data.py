"""`ramnas data`: a split of a data set -> a folder of pictures."""

from __future__ import annotations

import argparse
from pathlib import Path

from ramnas_host.cli.options import SPLITS, data_option


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this verb to the command line."""
    data = verbs.add_parser("data", help="write a split of a data set as an image folder")
    data.add_argument("--recipe", default="digits", help="the recipe that names the data set")
    data_option(data)
    data.add_argument("--split", default="test", choices=SPLITS)
    data.add_argument("--out", type=Path, required=True, metavar="DIR")
    data.set_defaults(call=_data)


def _data(args: argparse.Namespace) -> None:
    from ramnas_host.config import load_recipe
    from ramnas_host.data.datasets import load_dataset
    from ramnas_host.data.images import write_image_folder

    recipe = load_recipe(args.recipe)
    dataset = load_dataset(recipe.dataset, recipe.images, args.data)
    count = write_image_folder(dataset, args.split, args.out)
    print(f"{count} images: {args.out}")
