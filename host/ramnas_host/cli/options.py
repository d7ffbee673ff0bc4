"""Options that several verbs share."""

from __future__ import annotations

import argparse
from pathlib import Path

ARCH_HELP = "A0 .. A6, min, max, an id or a name of --front, or a .yaml"
SPLITS = ("train", "calibration", "validation", "test")


def data_option(verb: argparse.ArgumentParser) -> None:
    """`--data`, for every verb that looks at images."""
    verb.add_argument(
        "--data", type=Path, metavar="DIR",
        help="folder of the data set: train/ and val/ for imagenet, the IDX files for fashion",
    )  # fmt: skip


def workers_option(verb: argparse.ArgumentParser) -> None:
    """`--workers`, for every verb that trains."""
    verb.add_argument(
        "--workers", type=int, metavar="N",
        help="processes that decode images, for each process of the run "
        "(default: one a processor for image folders, none for images in memory)",
    )  # fmt: skip
