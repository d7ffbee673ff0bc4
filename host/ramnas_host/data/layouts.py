"""A folder of labelled pictures -> the task that its layout is for."""

from __future__ import annotations

from pathlib import Path

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
    if not folder.is_dir():
        reason = "is not a folder" if folder.exists() else "does not exist"
        raise DataError(f"{folder} {reason}: give the folder of your labelled pictures")
    annotated = sorted((folder / "annotations").glob("instances_*.json"))
    pixels = (folder / "leftImg8bit").is_dir()
    classes = (folder / "train").is_dir() and any(p.is_dir() for p in (folder / "train").iterdir())
    found = [
        task
        for task, there in zip(LAYOUTS, (annotated, pixels, classes and not annotated), strict=True)
        if there
    ]
    if len(found) > 1:
        raise DataError(f"{folder} has the layouts of {' and '.join(found)}: name one with --task")
    if not found:
        raise DataError(
            f"{folder} has no layout that is known: it needs {'; or '.join(LAYOUTS.values())}"
        )
    return found[0]
