"""Reads a folder in the layout of COCO: images with boxes, in splits."""

from __future__ import annotations

import fnmatch
import os
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ramnas_host.annotations.checked_boxes import Listed, across_splits, checked_split
from ramnas_host.annotations.detection_data import DetectionData, DetectionSplit
from ramnas_host.annotations.json_file import JsonFile
from ramnas_host.annotations.loose_values import box_around, flag, identity_of, short, shown, side
from ramnas_host.annotations.picture_names import PictureNames, same_picture
from ramnas_host.data.findings import Finding, Notes
from ramnas_host.data.halves import halves
from ramnas_host.data.paths import check_folder, what_is_there
from ramnas_models.errors import DataError


# Other people's files have strings, floats or nothing in place of these numbers. They are looked at
# by the functions below, which say what is wrong with them.
class _Image(msgspec.Struct, gc=False):
    id: Any
    file_name: Any
    width: Any = None
    height: Any = None


class _Annotation(msgspec.Struct, gc=False):
    image_id: Any
    category_id: Any
    bbox: Any = None
    iscrowd: Any = 0


class _Category(msgspec.Struct):
    id: Any
    name: Any


class _Coco(msgspec.Struct):
    """The parts of an annotation file that are read; masks are not."""

    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]
    licenses: Any = None


class _Segmented(msgspec.Struct):
    segmentation: Any = None


class _Segmentations(msgspec.Struct):
    annotations: list[_Segmented]


def load_coco(folder: Path) -> DetectionData:
    """Read `annotations/instances_{train,val,test}*.json` and find their images.

    The images of `instances_NAME.json` are in `NAME/` or `images/NAME/`, or elsewhere below
    `folder` where their names lead. val is the selection split and test the report split. COCO
    itself has no test annotations: without them, one half of val is the selection split and the
    other half the report split. The classes are those of train; other files may number them
    otherwise. DataError names the file that is missing or wrong.
    """
    files = {part: _annotations(folder, part) for part in ("train", "val", "test")}
    train_file, val_file = files["train"], files["val"]
    if train_file is None or val_file is None:
        missing = "val" if train_file else "train"
        place = folder / "annotations"
        place = place if place.is_dir() else folder
        raise DataError(
            f"{folder} is not in the format of COCO: it has no "
            f"annotations/instances_{missing}*.json; {place} has {what_is_there(place)}"
        )
    classes: tuple[str, ...] = ()
    splits: dict[str, DetectionSplit] = {}
    findings: list[Finding] = []
    for part, name in files.items():  # one after the other, as some are very large
        if name is None:
            continue
        file = _File(folder, part, name)
        if part == "train":
            classes, licence = file.classes(), file.licence
        splits[part] = file.split(classes)
        findings += file.notes.findings()
    train, val, test = splits["train"], splits["val"], splits.get("test")
    if test is None:
        names = [str(path) for path in val.images.paths]
        selection, report = map(val.take, halves(names, str(val_file), "instances_test.json"))
    else:
        selection, report = val, test
    findings += across_splits(train, (selection, report), classes, folder, findings)
    return DetectionData(
        classes=classes,
        licence=licence,
        source=f"images of {folder.resolve().name}",
        train=train,
        selection=selection,
        report=report,
        findings=tuple(findings),
    )


def _annotations(folder: Path, part: str) -> Path | None:
    check_folder(folder, "give a folder in the format of COCO")
    try:
        names = os.listdir(folder / "annotations")
    except (FileNotFoundError, NotADirectoryError):
        names = []
    except OSError as error:
        raise DataError(f"cannot list {folder / 'annotations'}: {error.strerror}") from error
    found = sorted(fnmatch.filter(names, f"instances_{part}*.json"))
    if len(found) > 1:
        raise DataError(f"{folder}/annotations has {found[0]} and {found[1]}: keep one of them")
    return folder / "annotations" / found[0] if found else None


class _File:
    """One annotation file, and what is noticed while it is read."""

    def __init__(self, folder: Path, part: str, file: Path) -> None:
        self._folder, self._part, self._file = folder, part, file
        self.notes = Notes(str(file.relative_to(folder)))
        self._source = JsonFile(file, "a COCO annotation file")
        self._coco = self._source.read(_Coco)
        if not self._coco.images:
            raise DataError(f"{file} lists no images")
        self._names = self._class_names()

    @property
    def licence(self) -> str:
        """The names of the licences, which are missing in many files."""
        listed = self._coco.licenses if isinstance(self._coco.licenses, list) else []
        names = [entry.get("name") for entry in listed if isinstance(entry, dict)]
        texts = {" ".join(name.split()) for name in names if isinstance(name, str)} - {""}
        return "; ".join(sorted(texts)) or "as that of the images"

    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of their ids; each once."""
        return tuple(dict.fromkeys(name for _, name in sorted(self._names.items(), key=_rank)))

    def split(self, classes: Sequence[str]) -> DetectionSplit:
        """The images and objects, with the places in `classes` as their classes."""
        names, sizes, index = self._images()
        of_id = self._class_of_id(classes)
        annotations = self._coco.annotations
        listed = Listed(
            names=names,
            sizes=sizes,
            picture=self._looked_up([a.image_id for a in annotations], index, "image"),
            classes=self._looked_up([a.category_id for a in annotations], of_id, "category"),
            boxes=self._boxes(),
            crowd=self._crowds(),
        )
        self._check_classes(listed.classes, of_id, classes)
        return checked_split(listed, self._file, self._where(), self.notes)

    def _wrong(self, what: str) -> DataError:
        return DataError(f"{self._file} is not a COCO annotation file: {what}")

    def _where(self) -> PictureNames:
        """The images of instances_train2017.json are in train2017/ or train/, or below images/."""
        folder, images = self._folder, self._folder / "images"
        names = dict.fromkeys((self._file.stem.removeprefix("instances_"), self._part))
        own = [parent / name for name in names for parent in (folder, images)]
        own.sort(key=lambda path: not path.is_dir())
        shared = [images, folder]
        return PictureNames(folder, [*own, *shared], own=len(own) + (not own[0].is_dir()))

    def _class_names(self) -> dict[Any, str]:
        """The class of each category id. Equal names are one class, whatever their ids."""
        found: dict[Any, str] = {}
        for i, category in enumerate(self._coco.categories):
            identity = self._identity(category.id, f"category {i}")
            if not isinstance(category.name, str) or not category.name.strip():
                raise self._wrong(f"category {shown(identity)} has the name {shown(category.name)}")
            name = unicodedata.normalize("NFC", category.name.strip())
            before = found.get(identity)
            if before not in (None, name):
                raise self._wrong(
                    f"category {shown(identity)} is listed as {shown(before)} and as {shown(name)}"
                )
            if before is None and name in found.values():
                self.notes.add(
                    "class names listed under several ids, read as one class", shown(name)
                )
            found[identity] = name
        return found

    def _identity(self, value: object, what: str) -> Any:
        identity = value if type(value) is int else identity_of(value)
        if identity is None:
            raise self._wrong(f"{what} has the id {shown(value)}")
        return identity

    def _images(self) -> tuple[list[str], list[tuple[int, int] | None], dict[Any, int]]:
        """The file name and the size (height, width) of each image, and its place by its id."""
        names: list[str] = []
        sizes: list[tuple[int, int] | None] = []
        index: dict[Any, int] = {}
        for i, image in enumerate(self._coco.images):
            identity, name = self._identity(image.id, f"image {i}"), image.file_name
            if not isinstance(name, str) or not name.strip():
                raise self._wrong(f"image {shown(identity)} has the file_name {shown(name)}")
            before = index.setdefault(identity, len(names))
            if before < len(names):
                if not same_picture(names[before], name):
                    both = f"{shown(names[before])} and as {shown(name)}"
                    raise self._wrong(
                        f"image {shown(identity)} is listed as {both}; give every image an id of "
                        "its own"
                    )
                self.notes.add("image ids listed more than once, read as one image", shown(name))
                continue
            names.append(name)
            height, width = side(image.height), side(image.width)
            sizes.append((height, width) if height and width else None)
        return names, sizes, index

    def _looked_up(
        self, values: Sequence[Any], index: Mapping[Any, int], what: str
    ) -> np.ndarray:  # fmt: skip
        """What `index` has for the ids that the annotations give, int64 [m]."""
        try:
            found = [index.get(value) for value in values]
        except TypeError:  # a list or an object in place of an id
            found = [None] * len(values)
        for i, place in enumerate(found):
            if place is None:
                found[i] = place = index.get(identity_of(values[i]))
            if place is None:
                verb = "belongs to image" if what == "image" else "has category"
                raise DataError(
                    f"{self._file}: annotation {i} {verb} {short(values[i])}, which is not listed"
                )
        return np.array(found, np.int64)

    def _class_of_id(self, classes: Sequence[str]) -> dict[Any, int]:
        """The place in `classes` of each category id; classes that are not there come after it."""
        places = {name: k for k, name in enumerate(classes)}
        return {
            identity: places.setdefault(name, len(places)) for identity, name in self._names.items()
        }

    def _check_classes(
        self, found: np.ndarray, of_id: Mapping[Any, int], classes: Sequence[str]
    ) -> None:
        """DataError if an object has a class that is not one of `classes`, those of train."""
        names = {k: self._names[identity] for identity, k in of_id.items()}
        strange = {k: name for k, name in names.items() if k >= len(classes)}
        used = [strange[k] for k in np.unique(found).tolist() if k in strange]
        if used:
            raise DataError(
                f"{self._file} has objects of classes that train does not list: "
                f"{short(', '.join(used))}; train has {short(', '.join(classes))}"
            )
        for name in strange.values():
            self.notes.add("classes that train does not list, and that no object has", shown(name))

    def _boxes(self) -> np.ndarray:
        """The boxes, float64 [m, 4]; with NaN where there is none."""
        rows = [annotation.bbox for annotation in self._coco.annotations]
        without = [i for i, row in enumerate(rows) if row is None or row == []]
        for i in without:
            rows[i] = [float("nan")] * 4
        try:
            boxes = np.array(rows or np.zeros((0, 4)), np.float64)
            if boxes.shape != (len(rows), 4):
                raise ValueError
        except (ValueError, TypeError, OverflowError):
            boxes = np.array([self._box(i, row) for i, row in enumerate(rows)])
        if without:
            drawn = self._source.read(_Segmentations).annotations
            for i in without:
                around = box_around(drawn[i].segmentation)
                if around is not None:
                    boxes[i] = around
                    self.notes.add(
                        "objects without a bbox, whose box is drawn around their segmentation",
                        f"annotation {i}",
                    )
        return boxes

    def _crowds(self) -> np.ndarray:
        found = [flag(annotation.iscrowd) for annotation in self._coco.annotations]
        if None in found:
            i = found.index(None)
            value = short(self._coco.annotations[i].iscrowd)
            raise self._wrong(f"annotation {i} has iscrowd {value}, not 0 or 1")
        return np.array(found, bool)

    def _box(self, i: int, row: Any) -> list[float]:
        try:
            if isinstance(row, list) and len(row) == 4:
                return [float("nan") if value is None else float(value) for value in row]
        except (ValueError, TypeError, OverflowError):
            pass
        raise self._wrong(f"annotation {i} has the bbox {short(row)}, not four numbers")


def _rank(entry: tuple[Any, str]) -> tuple[bool, Any]:
    """Puts ids in order: numbers first, then texts."""
    return isinstance(entry[0], str), entry[0]
