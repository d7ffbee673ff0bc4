"""Images with a class for every pixel, in splits: what a segmenter learns from and is judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ramnas_edge.vision import preprocessing
from ramnas_host.annotations.label_images import IDS, Colours, read_ids
from ramnas_host.data.augment import random_window
from ramnas_host.data.findings import Finding
from ramnas_host.data.images import Files
from ramnas_models.errors import SourceError

IGNORED = 255


@dataclass(frozen=True, eq=False)
class LabelTable:
    """Which class each label id stands for.

    `classes`, uint8 [IDS], has the class of an id, or IGNORED. `listed`, bool [IDS], says which ids
    are known, among them those that are to be ignored. `colours` has the id of each colour, for
    label images that are painted in colours; it is empty if nobody said what the colours mean.
    """

    classes: np.ndarray
    listed: np.ndarray
    colours: Colours

    @classmethod
    def of(
        cls, kept: Sequence[int], ignored: Sequence[int], colours: Colours | None = None
    ) -> LabelTable:
        """The table in which the id `kept[k]` stands for class k."""
        classes, listed = np.full(IDS, IGNORED, np.uint8), np.zeros(IDS, bool)
        classes[list(kept)] = range(len(kept))
        listed[[*kept, *ignored]] = True
        return cls(classes, listed, colours or {})


@dataclass(frozen=True, eq=False)
class SegmentationSplit:
    """Images and their label images."""

    images: Files
    labels: tuple[Path, ...]
    table: LabelTable

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: np.ndarray) -> SegmentationSplit:
        """The images at the positions `index`, in that order."""
        images = Files(self.images.paths.take(index))
        return SegmentationSplit(images, tuple(self.labels[i] for i in index), self.table)

    def label_counts(self, index: int) -> dict[int, int]:
        """How many pixels each label id has that occurs in the file, whether it is known or not.

        SourceError if the label image cannot be read.
        """
        counts = np.bincount(read_ids(self.labels[index], self.table.colours).ravel())
        return {label: int(counts[label]) for label in np.flatnonzero(counts).tolist()}

    def read(self, index: int) -> tuple[preprocessing.Image, np.ndarray]:
        """The image, uint8 [h, w, 3] in BGR, and the class of each pixel, uint8 [h, w].

        An image that its EXIF turns is left as it is stored if the labels fit only that.
        SourceError names the file that is broken, or both if they differ in size.
        """
        path, name = self.labels[index], self.images.name(index)
        ids = read_ids(path, self.table.colours)
        h, w = ids.shape
        image = preprocessing.read_image(name, (h, w))
        if (h, w) != image.shape[:2]:
            height, width = image.shape[:2]
            raise SourceError(f"{path} is {w}x{h}, but its image {name} is {width}x{height}")
        return image, self.table.classes[ids]


@dataclass(frozen=True)
class SegmentationData:
    """A segmentation data set.

    The best weights are chosen on `selection`. Nothing is chosen on `report`, which is read once,
    at the end. `findings` say what was noticed and left out.
    """

    classes: tuple[str, ...]
    licence: str
    source: str
    train: SegmentationSplit
    selection: SegmentationSplit
    report: SegmentationSplit
    findings: tuple[Finding, ...] = ()


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
