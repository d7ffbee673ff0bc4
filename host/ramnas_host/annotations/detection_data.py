"""Pictures with boxes, in splits: what every format of detection data is read into."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ramnas_edge.vision import preprocessing
from ramnas_host.data.augment import random_window
from ramnas_host.data.findings import Finding
from ramnas_host.data.images import Files
from ramnas_models.errors import SourceError


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

    def take(self, which: np.ndarray | slice) -> Objects:
        """The objects that `which`, indices or bool [n] or a slice, selects."""
        return Objects(self.boxes[which], self.classes[which], self.crowd[which])


@dataclass(frozen=True, eq=False)
class DetectionSplit:
    """Pictures with their sizes (height, width) and objects.

    `labels` names the file that the objects come from, for messages. `stored` says that the objects
    are in the pixels as they are stored, so that no picture is turned as its EXIF says.
    """

    images: Files
    sizes: tuple[tuple[int, int], ...]
    objects: tuple[Objects, ...]
    labels: str
    stored: bool = False

    def __len__(self) -> int:
        return len(self.sizes)

    def take(self, index: np.ndarray) -> DetectionSplit:
        """The pictures at the positions `index`, in that order."""
        return DetectionSplit(
            images=Files(self.images.paths.take(index)),
            sizes=tuple(self.sizes[i] for i in index),
            objects=tuple(self.objects[i] for i in index),
            labels=self.labels,
            stored=self.stored,
        )

    def read(self, index: int) -> preprocessing.Image:
        """The picture, uint8 [h, w, 3] in BGR.

        It is upright, unless only its stored pixels have the size that its objects are for.
        SourceError if it is broken, or if it has another size.
        """
        name, size = self.images.name(index), self.sizes[index]
        image = preprocessing.read_image(name, size, upright=not self.stored)
        if self.stored and image.shape[:2] != size:
            image = preprocessing.read_image(name, size)
        if image.shape[:2] != size:
            (height, width), (h, w) = image.shape[:2], size
            raise SourceError(f"{name} is {width}x{height}, but {self.labels} says {w}x{h}")
        return image


@dataclass(frozen=True)
class DetectionData:
    """A detection data set.

    The best weights are chosen on `selection`. Nothing is chosen on `report`, which is read once,
    at the end. Class k has the name `classes[k]`. `findings` say what was noticed and left out.
    """

    classes: tuple[str, ...]
    licence: str
    source: str
    train: DetectionSplit
    selection: DetectionSplit
    report: DetectionSplit
    findings: tuple[Finding, ...] = ()


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
