"""A folder of labelled pictures -> the task that its layout is for."""

from __future__ import annotations

import os
from fnmatch import fnmatch
from pathlib import Path

from ramnas_edge.vision.picture_files import is_folder
from ramnas_host.data.paths import check_folder, may_have, what_is_there
from ramnas_models.errors import DataError

# what a folder of each task has
LAYOUTS = {
    "detection": "annotations/instances_train*.json, as in COCO",
    "segmentation": "leftImg8bit/train/, as in Cityscapes",
    "classification": "train/<class>/ with pictures, as in ImageNet",
}


def task_of(folder: Path) -> str:
    """`detection`, `segmentation` or `classification`.

    DataError if the layout is none of those in LAYOUTS, or several of them.
    """
    check_folder(folder, "give the folder of your labelled pictures")
    annotated = may_have(
        folder / "annotations", lambda entry: fnmatch(entry.name, "instances_*.json")
    )
    pixels = os.path.isdir(folder / "leftImg8bit")
    classes = not annotated and may_have(folder / "train", is_folder)
    found = [
        task for task, there in zip(LAYOUTS, (annotated, pixels, classes), strict=True) if there
    ]
    if len(found) > 1:
        raise DataError(f"{folder} has the layouts of {' and '.join(found)}: name one with --task")
    if not found:
        raise DataError(
            f"{folder} has {what_is_there(folder)}, which is no layout that is known: it needs "
            f"{'; or '.join(LAYOUTS.values())}"
        )
    return found[0]
