"""Options that several verbs share."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path

from ramnas_host.config import Override, Schedule
from ramnas_models.errors import DataError

log = logging.getLogger(__name__)

ARCH_HELP = (
    "the arch: min, max, A0 to A6 (published networks of space attentivenas; A5 and A5_1 of "
    "AlphaNet's weights are AlphaNet's), mobilenet_v3_large, lite0 to lite2, the name or id of a "
    "candidate of --front, or a .yaml file"
)
REPORT_NOTE = "publish it, and choose nothing by it"
SPLITS = ("train", "calibration", "selection", "report")
# the recipe of ramnas finetune for each task, and for class folders that did not train the supernet
TASK_RECIPES = {
    "detection": "coco", "segmentation": "cityscapes", "classification": "inherited",
}  # fmt: skip
TRANSFER = "transfer"


def at_least(least: int) -> Callable[[str], int]:
    """A type for argparse: a whole number that is not below `least`."""

    def number(text: str) -> int:
        found = int(text)
        if found < least:
            raise argparse.ArgumentTypeError(f"{found}: give {least} or more")
        return found

    return number


def enough_to_learn(option: str, samples: int) -> None:
    """DataError if a surrogate cannot learn from so few archs, before any of them is evaluated."""
    from ramnas_host.surrogates.surrogate import MIN_RECORDS

    if samples < MIN_RECORDS:
        raise DataError(
            f"{option} {samples}: give {MIN_RECORDS} or more, because a surrogate learns from them"
        )


def supernet_option(verb: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add `--supernet`, for every verb that needs a supernet's weights."""
    verb.add_argument(
        "--supernet", type=Path, required=required, metavar="supernet.safetensors",
        help="the supernet that ramnas train or ramnas import wrote",
    )  # fmt: skip


def data_option(verb: argparse.ArgumentParser) -> None:
    """Add `--data`, for every verb that reads images."""
    verb.add_argument(
        "--data", type=Path, metavar="DIR",
        help="folder of the data set: train/<class>/ and val/<class>/ for imagenet and for any "
        "labelled folder, the IDX files for fashion; digits take none",
    )  # fmt: skip


def device_option(verb: argparse.ArgumentParser) -> None:
    """Add `--device`, for every verb that runs networks on this machine."""
    verb.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda"),
        help="where networks run on this machine: cuda for its GPU, or under torchrun one GPU for "
        "each process; auto takes a GPU if there is one (default: auto)",
    )  # fmt: skip


def workers_option(verb: argparse.ArgumentParser) -> None:
    """Add `--workers`, for every verb that trains."""
    verb.add_argument(
        "--workers", type=at_least(0), metavar="N",
        help="processes that decode images, for each process under torchrun (default: one per "
        "processor for folders of image files, none for images in memory)",
    )  # fmt: skip


def recipe_options(verb: argparse.ArgumentParser) -> None:
    """Add the options that change one value of a recipe, for every verb that trains."""
    verb.add_argument(
        "--epochs", type=int, metavar="N",
        help="train for N epochs instead of the recipe's, whose warm-up is as long as before",
    )  # fmt: skip
    verb.add_argument(
        "--batch-size", type=int, metavar="N",
        help="images of an optimizer step, over all processes, instead of the recipe's; the "
        "learning rate changes with it only where the recipe has lr_batch",
    )  # fmt: skip
    verb.add_argument(
        "--lr", type=float, metavar="RATE",
        help="peak learning rate instead of the recipe's optimizer.lr; where the recipe has "
        "lr_batch, it is for that many images and grows with the batch size",
    )  # fmt: skip


def overrides_of(args: argparse.Namespace) -> list[Override]:
    """What the options of `recipe_options` change in a recipe."""
    given = [
        Override("epochs", args.epochs, "--epochs"),
        Override("batch_size", args.batch_size, "--batch-size"),
        Override("optimizer.lr", args.lr, "--lr"),
    ]
    return [override for override in given if override.value is not None]


def warn_of_warm_up(recipe: Schedule) -> None:
    """Log it if the warm-up leaves no epoch in which the learning rate is at its peak."""
    if recipe.warm_up_epochs >= recipe.epochs:
        log.warning(
            "the learning rate never reaches its peak, %g: the warm-up lasts for all of the "
            "training (warm_up_epochs %d, epochs %d); train for longer, or write a recipe with a "
            "shorter warm-up", recipe.lr, recipe.warm_up_epochs, recipe.epochs,
        )  # fmt: skip


def progress_option(verb: argparse.ArgumentParser) -> None:
    """Add `--progress`, for every verb that trains."""
    verb.add_argument(
        "--progress", default="auto", choices=("auto", "json"),
        help="how to show progress on stderr: auto is a bar on a terminal and a line per epoch in "
        "a log, json is a line of JSON per step, for programs (default: auto)",
    )  # fmt: skip
