"""Reads a folder in the layout of Cityscapes: images with a class for every pixel, in splits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import msgspec
import numpy as np

from ramnas_edge.vision import preprocessing
from ramnas_host.data.augment import random_window
from ramnas_host.data.findings import Finding
from ramnas_host.data.halves import halves
from ramnas_host.data.images import Files
from ramnas_models.errors import DataError, SourceError

IGNORED = 255

# The label ids that Cityscapes evaluates, in the order of their train ids (from its labels.py).
_CITYSCAPES = {
    "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17,
    "traffic light": 19, "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23,
    "person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28, "train": 31, "motorcycle": 32,
    "bicycle": 33,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class SegmentationSplit:
    """Images and their label images.

    `train_ids`, uint8 [256], maps a label id to its class, or to 255 if it is ignored.
    """

    images: Files
    labels: tuple[Path, ...]
    train_ids: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: np.ndarray) -> SegmentationSplit:
        """The images at the positions `index`, in that order."""
        images = Files(self.images.paths.take(index))
        return SegmentationSplit(images, tuple(self.labels[i] for i in index), self.train_ids)

    def read(self, index: int) -> tuple[preprocessing.Image, np.ndarray]:
        """The image, uint8 [h, w, 3] in BGR, and the class of each pixel, uint8 [h, w].

        SourceError if a file is broken or the two differ in size.
        """
        image, path = self.images[index], self.labels[index]
        try:
            data = np.fromfile(path, np.uint8)
            found = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
        except (OSError, cv2.error) as error:
            raise SourceError(f"{path} cannot be read as an image: {error}") from error
        if found is None or found.dtype != np.uint8 or found.ndim != 2:
            raise SourceError(f"{path} is not an 8-bit image with one channel of label ids")
        if found.shape != image.shape[:2]:
            (h, w), (height, width) = found.shape, image.shape[:2]
            name = self.images.name(index)
            raise SourceError(f"{path} is {w}x{h}, but its image {name} is {width}x{height}")
        return image, self.train_ids[found]


@dataclass(frozen=True)
class SegmentationData:
    """A segmentation data set.

    The best weights are chosen on `selection`. Nothing is chosen on `report`, which is read once,
    at the end.
    """

    classes: tuple[str, ...]
    licence: str
    source: str
    train: SegmentationSplit
    selection: SegmentationSplit
    report: SegmentationSplit
    findings: tuple[Finding, ...] = ()


class _Label(msgspec.Struct):
    name: str
    id: int
    trainId: int


class _ScenesFile(msgspec.Struct):
    licence: str = "as that of the images"


def load_cityscapes(folder: Path) -> SegmentationData:
    """Read `leftImg8bit/<split>/<city>/*_leftImg8bit.png` and their `gtFine/..._labelIds.png`.

    The classes are the 19 of Cityscapes, unless the folder has a `labels.json` that names others:
    a list of entries with `name`, `id` and `trainId`, where 255 or -1 means ignored. val is the
    selection split and test the report split. Cityscapes itself publishes its test split without
    labels: if that is so, or if there is no test split, one half of val is the selection split and
    the other half the report split. DataError names what is missing or wrong.
    """
    file = folder / "labels.json"
    named = _labels(file) if file.exists() else list(_CITYSCAPES.items())
    train_ids = np.full(256, IGNORED, np.uint8)
    for train_id, (_, identity) in enumerate(named):
        train_ids[identity] = train_id
    splits = {part: _split(folder, part, train_ids) for part in ("train", "val", "test")}
    train, val = splits["train"], splits["val"]
    if train is None or val is None:
        missing = "val" if train else "train"
        raise DataError(
            f"{folder} is not in the format of Cityscapes: it has no "
            f"leftImg8bit/{missing}/<city>/*_leftImg8bit.png"
        )
    # the published labels of Cityscapes' own test split are blank
    test = splits["test"] if file.exists() else None
    if test is None:
        names = [str(path) for path in val.images.paths]
        where = str(folder / "leftImg8bit/val")
        selection, report = map(val.take, halves(names, where, "a test split with labels"))
    else:
        selection, report = val, test
    return SegmentationData(
        classes=tuple(name for name, _ in named),
        licence=_licence(folder),
        source=f"images of {folder.resolve().name}",
        train=train,
        selection=selection,
        report=report,
    )


def random_view(
    image: preprocessing.Image,
    labels: np.ndarray,
    crop: float,
    flip: float,
    rng: np.random.Generator,
) -> tuple[preprocessing.Image, np.ndarray]:
    """Cut the same random part out of image and labels, and mirror both with probability `flip`.

    `crop`: the smallest share of the area that the part covers.
    """
    if crop < 1:
        window = random_window(labels.shape[0], labels.shape[1], crop, rng)
        image, labels = image[window], labels[window]
    if flip and rng.random() < flip:
        image, labels = np.ascontiguousarray(image[:, ::-1]), labels[:, ::-1]
    return image, labels


def resize_labels(labels: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    """Resize labels [h, w] to `hw`: each new pixel takes the label of the nearest old one."""
    contiguous = np.ascontiguousarray(labels)
    size = (hw[1], hw[0])
    return np.asarray(cv2.resize(contiguous, size, interpolation=cv2.INTER_NEAREST_EXACT))


def _split(folder: Path, part: str, train_ids: np.ndarray) -> SegmentationSplit | None:
    images = sorted((folder / "leftImg8bit" / part).glob("*/*_leftImg8bit.png"))
    labels = [
        folder / "gtFine" / part / path.parent.name
        / path.name.replace("_leftImg8bit.png", "_gtFine_labelIds.png")
        for path in images
    ]  # fmt: skip
    for path in labels:
        if not path.exists():
            raise DataError(f"{path} is missing: every image of {part} needs a label image")
    return SegmentationSplit(Files(images), tuple(labels), train_ids) if images else None


def _labels(file: Path) -> list[tuple[str, int]]:
    """(name, label id) of each class, in the order of the train ids, which must be 0, 1, 2 ..."""
    try:
        found = msgspec.json.decode(file.read_bytes(), type=list[_Label])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{file} is not a list of labels: {error}") from error
    kept = sorted((x for x in found if x.trainId not in (-1, IGNORED)), key=lambda x: x.trainId)
    if not kept or [x.trainId for x in kept] != list(range(len(kept))):
        ids = ", ".join(str(label.trainId) for label in kept) or "missing"
        raise DataError(f"{file}: the trainIds must be 0, 1, 2 and so on, but are {ids}")
    for label in kept:
        if not 0 <= label.id <= 255:
            raise DataError(f"{file}: id {label.id} of {label.name} is not between 0 and 255")
    return [(label.name, label.id) for label in kept]


def _licence(folder: Path) -> str:
    """The licence in `scenes.json` beside the folder, if `ramnas scenes` made the folder."""
    file = folder.parent / "scenes.json"
    try:
        return msgspec.json.decode(file.read_bytes(), type=_ScenesFile).licence
    except (OSError, msgspec.DecodeError):
        return _ScenesFile().licence
