"""Reads a folder in the layout of ImageNet: images in folders of their classes, in splits."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ramnas_edge.vision.picture_files import is_by_product, is_folder, is_picture
from ramnas_host.data.findings import Finding, Notes
from ramnas_host.data.halves import halves
from ramnas_host.data.images import Dataset, Files, Split
from ramnas_host.data.paths import (
    ClassFolder,
    check_folder,
    labelled,
    list_classes,
    may_have,
    what_is_there,
)
from ramnas_models.bundle import Preprocessing
from ramnas_models.errors import DataError
from ramnas_models.onnx_graph import Normalisation

log = logging.getLogger(__name__)

_VAL = ("val", "valid", "validation")  # names that people give to that folder
# names of folders in layouts that have no class folders
_NOT_CLASSES = {
    "images", "image", "imgs", "img", "jpegimages", "labels", "label", "masks", "annotations",
    "segmentationclass",
}  # fmt: skip


def load_class_folders(
    folder: Path,
    preprocessing: Preprocessing = Preprocessing(Normalisation()),
    calibration: int = 1024,
) -> Dataset:
    """A folder of one's own, with `train/<class>/*`, `val/<class>/*` and perhaps `test/<class>/*`.

    `val` is for selection and `test` for the report. Without `test` the two halves of `val` are for
    one each. Without `val` every fifth image of each class of `train` is held out in its place.
    Up to `calibration` images of `train` are for BatchNorm. DataError says what is missing.

    The `listing` of what is returned changes with the names of the images in `train` and `val`, and
    with whether there are `val` and `test`. More images in `test` leave it as it is.
    """
    val, test, notes = val_folder(folder), folder / "test", Notes("test")
    there = [val] if val.is_dir() else []
    if may_have(test, lambda entry: is_folder(entry) and not is_by_product(entry.name)):
        there.append(test)
    elif pictures := [path.name for path in test.glob("*") if is_picture(path.name)]:
        notes.add("images without a class folder, left out", min(pictures), count=len(pictures))
    found = read_class_folders(folder, there, preprocessing)
    train = found.splits["train"]
    if val.is_dir():
        judged, name = found.splits[val.name], str(val)
    else:
        train, judged = _fifths(train)
        name = f"the held-out part of {folder / 'train'}"
        log.info("without val/, every fifth image of each class of train/ is held out: %d images",
                 len(judged))  # fmt: skip
        if len(judged) < 2:
            raise DataError(
                f"{folder} has no val/, and too few images in train/ to hold some of them out: add "
                "val/<class>/ with images"
            )
    if "test" in found.splits:
        selection, report = judged, found.splits["test"]
    else:
        paths = [judged.images.name(i) for i in range(len(judged))]
        selection, report = (judged.take(half) for half in halves(paths, name, "test/"))
    # the images are class by class, but those for BatchNorm have to be of all classes
    order = np.random.default_rng(0).permutation(len(train))
    return Dataset(
        name="a folder",
        classes=found.classes,
        licence="as that of the images",
        source=f"images of {folder.resolve().name}",
        train=train,
        calibration=train.take(order[:calibration]),
        selection=selection,
        report=report,
        findings=(*found.findings, *notes.findings()),
        listing=_digest(
            found.listings["train"],
            found.listings.get(val.name, "no val"),
            str("test" in found.splits),
        ),
    )


@dataclass(frozen=True)
class ClassFolders:
    """What a folder like ImageNet holds: splits and `listing_of`, by the names of their folders."""

    classes: tuple[str, ...]
    splits: dict[str, Split]
    findings: tuple[Finding, ...]
    listings: dict[str, str]


def read_class_folders(
    folder: Path, others: Sequence[Path], preprocessing: Preprocessing
) -> ClassFolders:
    """Read `train/`, whose classes are those of the data set, and the folders `others`."""
    findings: list[Finding] = []
    found: dict[str, dict[str, ClassFolder]] = {}
    for part in (train_folder(folder), *others):
        if not part.is_dir():
            raise DataError(f"{part} is not a folder: a data set like ImageNet has train/ and val/")
        notes = Notes(part.name)
        found[part.name] = list_classes(part, notes)
        findings += notes.findings()
    classes = tuple(found["train"])
    if {name.lower() for name in classes} <= _NOT_CLASSES:
        raise DataError(
            f"{folder / 'train'} has {' and '.join(classes)} where class folders should be: it "
            "seems to be in another layout. A classifier needs train/<class>/ with pictures"
        )
    if len(classes) < 2:
        left_out = "".join(f"; {finding}" for finding in findings if finding.part == "train")
        raise DataError(
            f"{folder / 'train'} has images of one class only, '{classes[0]}': a classifier needs "
            f"two or more, each in a folder of its own{left_out}"
        )
    splits = {}
    for name, of_part in found.items():
        if unknown := set(of_part) - set(classes):
            raise DataError(_unknown_class(folder, name, min(unknown), classes))
        paths, labels = labelled(of_part, classes)
        splits[name] = Split(Files(paths), torch.from_numpy(labels), preprocessing)
    listings = {name: listing_of(of_part) for name, of_part in found.items()}
    return ClassFolders(classes, splits, tuple(findings), listings)


def train_folder(folder: Path) -> Path:
    check_folder(folder, "a data set like ImageNet has train/ and val/")
    train = folder / "train"
    if not train.is_dir():
        raise DataError(
            f"{train} is not a folder, but {folder} has {what_is_there(folder)}: put the folders "
            "of the classes into train/, and those with other images of the same classes into val/"
        )
    return train


def val_folder(folder: Path) -> Path:
    """The folder in `folder` that has one of the names of a val split."""
    return next((folder / name for name in _VAL if (folder / name).is_dir()), folder / _VAL[0])


def listing_of(part: Mapping[str, ClassFolder]) -> str:
    """A digest of the classes of a part, such as train/, and of the names of the images in them."""
    found = hashlib.sha256()
    for name, folder in part.items():
        found.update(name.encode() + b"\0\0" + folder.names)
    return found.hexdigest()[:16]


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def _fifths(split: Split) -> tuple[Split, Split]:
    """All but every fifth image of each class, and these; `split` is class by class."""
    labels = split.labels.numpy()
    place_in_class = np.arange(len(labels)) - np.searchsorted(labels, labels)
    held_out = place_in_class % 5 == 4
    return split.take(np.flatnonzero(~held_out)), split.take(np.flatnonzero(held_out))


def _unknown_class(folder: Path, part: str, name: str, classes: Sequence[str]) -> str:
    """Why a class of a part is not one of `classes`, those of train/."""
    text = f"{folder / part} has classes that are missing from train, such as {name}"
    if (folder / "train" / name).is_dir():
        return f"{text}: {folder / 'train' / name} has no images"
    alike = [own for own in classes if own.casefold().strip() == name.casefold().strip()]
    return f"{text}: train calls it '{alike[0]}'" if alike else text
