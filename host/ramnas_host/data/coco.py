"""Reads a folder in the layout of COCO: images with boxes, in splits."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from ramnas_edge.vision import preprocessing
from ramnas_host.data.augment import random_window
from ramnas_host.data.findings import Finding
from ramnas_host.data.halves import halves
from ramnas_host.data.images import Files
from ramnas_models.errors import DataError, SourceError

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Objects:
    """The objects of one image.

    `boxes`: float32 [n, 4] in pixels (left, top, right, bottom). `classes`: int64 [n]. `crowd`:
    bool [n], true for a region with many objects of the class, which counts neither as an example
    nor as background.
    """

    boxes: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray

    def take(self, which: np.ndarray) -> Objects:
        """The objects that `which`, indices or bool [n], selects."""
        return Objects(self.boxes[which], self.classes[which], self.crowd[which])


@dataclass(frozen=True, eq=False)
class DetectionSplit:
    """Images with their COCO ids, sizes (height, width) and objects.

    `file` is the annotation file that they come from.
    """

    images: Files
    ids: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    objects: tuple[Objects, ...]
    file: Path

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, index: np.ndarray) -> DetectionSplit:
        """The images at the positions `index`, in that order."""
        return DetectionSplit(
            images=Files(self.images.paths.take(index)),
            ids=tuple(self.ids[i] for i in index),
            sizes=tuple(self.sizes[i] for i in index),
            objects=tuple(self.objects[i] for i in index),
            file=self.file,
        )

    def read(self, index: int) -> preprocessing.Image:
        """The image, uint8 [h, w, 3] in BGR; SourceError if it is broken or has another size than
        its annotation says."""
        image = self.images[index]
        if image.shape[:2] != self.sizes[index]:
            (height, width), (h, w) = image.shape[:2], self.sizes[index]
            name = self.images.name(index)
            raise SourceError(f"{name} is {width}x{height}, but {self.file} says {w}x{h}")
        return image


@dataclass(frozen=True)
class DetectionData:
    """A detection data set.

    The best weights are chosen on `selection`. Nothing is chosen on `report`, which is read once,
    at the end. Class k has the name `classes[k]` and, in the annotation files, the id
    `category_ids[k]`.
    """

    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    licence: str
    source: str
    train: DetectionSplit
    selection: DetectionSplit
    report: DetectionSplit
    findings: tuple[Finding, ...] = ()


class _Image(msgspec.Struct):
    id: int
    file_name: str
    width: int
    height: int


class _Annotation(msgspec.Struct):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    iscrowd: int = 0


class _Category(msgspec.Struct):
    id: int
    name: str


class _Licence(msgspec.Struct):
    name: str


class _Coco(msgspec.Struct):
    """The parts of an annotation file that are read; masks are not."""

    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]
    licenses: list[_Licence] = []


def load_coco(folder: Path) -> DetectionData:
    """Read `annotations/instances_{train,val,test}*.json` and find their images.

    The images of `instances_NAME.json` are in `NAME/` or `images/NAME/`. val is the selection split
    and test the report split. COCO itself has no test annotations: without them, one half of val is
    the selection split and the other half the report split. DataError names the file that is
    missing or wrong.
    """
    files = {part: _annotations(folder, part) for part in ("train", "val", "test")}
    if files["train"] is None or files["val"] is None:
        missing = "val" if files["train"] else "train"
        raise DataError(
            f"{folder} is not in the format of COCO: it has no "
            f"annotations/instances_{missing}*.json"
        )
    found = {part: _read(file) for part, file in files.items() if file}
    categories = sorted(found["train"].categories, key=lambda category: category.id)
    ids = [category.id for category in categories]
    splits = {part: _split(folder, files[part] or folder, found[part], ids) for part in found}
    val, test = splits["val"], splits.get("test")
    if test is None:
        names = [str(path) for path in val.images.paths]
        selection, report = map(val.take, halves(names, str(files["val"]), "instances_test.json"))
    else:
        selection, report = val, test
    licences = sorted({licence.name for licence in found["train"].licenses})
    return DetectionData(
        classes=tuple(category.name for category in categories),
        category_ids=tuple(ids),
        licence="; ".join(licences) or "as that of the images",
        source=f"images of {folder.resolve().name}",
        train=splits["train"],
        selection=selection,
        report=report,
    )


def random_view(
    image: preprocessing.Image, objects: Objects, crop: float, flip: float, rng: np.random.Generator
) -> tuple[preprocessing.Image, Objects]:
    """Cut a random part out of the image, and mirror it with probability `flip`.

    Objects whose centre is in that part stay, and crowds that reach into it; boxes are clipped to
    it. `crop`: the smallest share of the area that the part covers. If the image has objects that
    are not crowds, at least one of them stays: the image is left whole if ten random parts have
    none.
    """
    height, width = image.shape[:2]
    if crop < 1:
        for _ in range(10):
            rows, columns = random_window(height, width, crop, rng)
            window = np.array([columns.start, rows.start, columns.stop, rows.stop], np.float32)
            centres = (objects.boxes[:, :2] + objects.boxes[:, 2:]) / 2
            inside = ((centres >= window[:2]) & (centres < window[2:])).all(1)
            if (inside & ~objects.crowd).any() or objects.crowd.all():
                image = image[rows, columns]
                boxes = objects.boxes - np.tile(window[:2], 2)
                objects = clip(Objects(boxes, objects.classes, objects.crowd).take(
                    inside | objects.crowd), image.shape[:2])  # fmt: skip
                break
    if flip and rng.random() < flip:
        image = np.ascontiguousarray(image[:, ::-1])
        boxes = objects.boxes.copy()
        boxes[:, [0, 2]] = image.shape[1] - boxes[:, [2, 0]]
        objects = Objects(boxes, objects.classes, objects.crowd)
    return image, objects


def clip(objects: Objects, hw: tuple[int, int]) -> Objects:
    """Clip boxes to an image of `hw`; drop those left with less than a pixel of width or height."""
    limits = np.array([hw[1], hw[0]] * 2, np.float32)
    boxes = np.clip(objects.boxes, 0, limits)
    large_enough = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(1)
    return Objects(boxes, objects.classes, objects.crowd).take(large_enough)


def _annotations(folder: Path, part: str) -> Path | None:
    found = sorted((folder / "annotations").glob(f"instances_{part}*.json"))
    if len(found) > 1:
        raise DataError(
            f"{folder}/annotations has {found[0].name} and {found[1].name}: keep one of them"
        )
    return found[0] if found else None


def _read(file: Path) -> _Coco:
    try:
        return msgspec.json.decode(file.read_bytes(), type=_Coco)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{file} is not a COCO annotation file: {error}") from error


def _split(folder: Path, file: Path, coco: _Coco, categories: Sequence[int]) -> DetectionSplit:
    name = file.stem.removeprefix("instances_")
    root = next((p for p in (folder / name, folder / "images" / name) if p.is_dir()), None)
    if root is None:
        raise DataError(
            f"{folder} has no images for {file.name}: there is neither {name}/ nor images/{name}/"
        )
    if not coco.images:
        raise DataError(f"{file} lists no images")
    if [c.id for c in sorted(coco.categories, key=lambda c: c.id)] != list(categories):
        raise DataError(f"{file} has other categories than the training annotations")
    index = {image.id: i for i, image in enumerate(coco.images)}
    classes = {identity: k for k, identity in enumerate(categories)}
    rows: list[list[_Annotation]] = [[] for _ in coco.images]
    for i, annotation in enumerate(coco.annotations):
        if annotation.image_id not in index:
            raise DataError(
                f"{file}: annotation {i} belongs to image {annotation.image_id}, "
                "which is not listed"
            )
        if annotation.category_id not in classes:
            raise DataError(
                f"{file}: annotation {i} has category {annotation.category_id}, which is not listed"
            )
        rows[index[annotation.image_id]].append(annotation)
    objects, left_out = [], 0
    for image, row in zip(coco.images, rows, strict=True):
        boxes = np.array([a.bbox for a in row], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        kinds = np.array([classes[a.category_id] for a in row], np.int64)
        crowd = np.array([bool(a.iscrowd) for a in row], bool)
        objects.append(clip(Objects(boxes, kinds, crowd), (image.height, image.width)))
        left_out += len(row) - len(objects[-1].classes)
    if left_out:
        log.warning(
            "%s: left out %d boxes that have less than a pixel in their image", file, left_out
        )
    return DetectionSplit(
        images=Files([root / image.file_name for image in coco.images]),
        ids=tuple(image.id for image in coco.images),
        sizes=tuple((image.height, image.width) for image in coco.images),
        objects=tuple(objects),
        file=file,
    )
