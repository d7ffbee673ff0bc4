"""Divides a split into two fixed halves: one to choose by, and one for the report."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from ramnas_models.errors import DataError

log = logging.getLogger(__name__)


def halves(names: Sequence[str], split: str, missing: str) -> tuple[np.ndarray, np.ndarray]:
    """The positions of the images of `split` that are for selection, and of those for the report.

    In the order of their `names`, the first, third and so on are for selection. So the halves stay
    the same in every run, and both have images from everywhere in the split. `missing` is what the
    folder would need to do without halves. DataError if there are fewer than two images.
    """
    if len(names) < 2:
        raise DataError(
            f"{split} has one image. Half of its images choose the best weights and the others "
            f"report how good they are, so it needs two or more; or add {missing}"
        )
    order = np.array(sorted(range(len(names)), key=lambda i: names[i]))
    selection, report = order[::2], order[1::2]
    log.info(
        "without %s, every second image of %s is for the report: %d images for selection, %d for "
        "the report", missing, split, len(selection), len(report),
    )  # fmt: skip
    return selection, report
