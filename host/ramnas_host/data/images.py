"""Labelled images in four splits, and how evaluation turns an image into a network's input."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from ramnas_edge.vision import preprocessing
from ramnas_edge.vision.sources import list_images
from ramnas_models.bundle import Preprocessing
from ramnas_models.errors import DataError, SourceError
from ramnas_models.files import new_folder
from ramnas_models.onnx_graph import Normalisation

log = logging.getLogger(__name__)

_KEEP_BYTES = 2**30  # a split's prepared images are kept up to this size, at each resolution


@dataclass(frozen=True, eq=False)
class Files:
    """Image files, decoded anew at every access; SourceError if a file is not an image."""

    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> preprocessing.Image:
        return preprocessing.read_image(str(self.paths[index]))

    def name(self, index: int) -> str:
        """The path, for messages."""
        return str(self.paths[index])


@dataclass(frozen=True, eq=False)
class Arrays:
    """Images in memory: uint8 [n, h, w] in grey, or [n, h, w, 3] in BGR."""

    pixels: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> preprocessing.Image:
        image = self.pixels[index]
        return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image

    def name(self, index: int) -> str:
        """A name for messages."""
        return f"image {index}"


@dataclass(frozen=True, eq=False)
class Split:
    """Images, uint8 [h, w, 3] in BGR and perhaps of different sizes, with labels int64 [n]."""

    images: Arrays | Files
    labels: Tensor
    preprocessing: Preprocessing
    _kept: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: np.ndarray) -> Split:
        """The images and labels at the positions `index`, in that order."""
        images = self.images
        part = (
            Arrays(images.pixels[index])
            if isinstance(images, Arrays)
            else Files([images.paths[i] for i in index])
        )
        return Split(part, self.labels[torch.from_numpy(index)], self.preprocessing)

    def at(self, resolution: int) -> Tensor:
        """All images as a network sees them: float32 [n, 3, r, r], channels last."""
        return torch.cat([images for images, _ in self.batches(resolution)])

    def batches(self, resolution: int, size: int = 256) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images, labels) in order, `size` at a time, prepared as the runtime prepares them.

        If all images take no more than a GiB at this resolution, they are prepared once and kept;
        otherwise each call decodes them again. Several threads decode. A file that is not an image
        is logged and left out; DataError if none is an image.
        """
        if resolution not in self._kept:
            keep: list[tuple[Tensor, Tensor]] = []
            small = len(self) * resolution**2 * 3 <= _KEEP_BYTES
            sound = 0
            for pixels, labels in self._decoded(resolution, size):
                sound += len(labels)
                if small:
                    keep.append((pixels, labels))
                elif len(labels):
                    yield normalise(pixels, self.preprocessing.normalisation), labels
            if not sound:
                raise DataError(
                    f"none of the {len(self)} files is an image, such as {self.images.name(0)}"
                )
            if not small:
                return
            images, labels = (torch.cat(part) for part in zip(*keep, strict=True))
            self._kept[resolution] = images, labels
        for pixels, labels in zip(*(torch.split(t, size) for t in self._kept[resolution])):
            yield normalise(pixels, self.preprocessing.normalisation), labels

    def _decoded(self, resolution: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        def prepare(index: int) -> preprocessing.Image | None:
            try:
                image = self.images[index]
            except SourceError as error:
                log.warning("left out: %s", error)
                return None
            return preprocessing.prepare(image, self.preprocessing, (resolution, resolution))

        with ThreadPoolExecutor() as pool:  # OpenCV decodes and resizes outside the GIL
            for start in range(0, len(self), size):
                index = range(start, min(start + size, len(self)))
                found = list(pool.map(prepare, index))
                sound = [i for i, image in zip(index, found, strict=True) if image is not None]
                pixels = [image for image in found if image is not None]
                shape = (0, resolution, resolution, 3)
                stacked = np.stack(pixels) if pixels else np.zeros(shape, np.uint8)
                yield torch.from_numpy(stacked), self.labels[sound]


def normalise(pixels: Tensor, norm: Normalisation) -> Tensor:
    """Turn uint8 [n, h, w, 3] in BGR into a network's input: float [n, 3, h, w], channels last."""
    return standardise(pixels.permute(0, 3, 1, 2).to(torch.get_default_dtype()) / 255, norm)


def standardise(x: Tensor, norm: Normalisation) -> Tensor:
    """Bring x into the channel order of `norm`, subtract its mean and divide by its deviation.

    x: [n, 3, h, w] in BGR, with white at 1. The result has channels last.
    """
    if norm.channels == "rgb":
        x = x.flip(1)
    mean, std = (torch.tensor(v, dtype=x.dtype, device=x.device) for v in (norm.mean, norm.std))
    return ((x - mean[:, None, None]) / std[:, None, None]).contiguous(
        memory_format=torch.channels_last
    )


@dataclass(frozen=True)
class Dataset:
    """A labelled data set in four splits.

    `train` is for the weights and `calibration` for the statistics of BatchNorm. `selection` is for
    everything that is chosen: archs in a search, and the best weights. `report` is for the figures
    that are published. It is read once, at the end, and nothing is chosen by it.
    """

    name: str
    classes: tuple[str, ...]
    licence: str
    source: str
    train: Split
    calibration: Split
    selection: Split
    report: Split

    def split(self, name: str) -> Split:
        """A split by its name."""
        split: Split = getattr(self, name)
        return split


def load_folder(
    folder: Path, classes: Sequence[str], preprocessing: Preprocessing, most: int
) -> Split:
    """Up to `most` images from anywhere below `folder`, taken at even distances.

    The label comes from the subfolder. If the subfolders do not have the names of classes but are
    as many as the classes, they stand for the classes in the order of their names, as in ImageNet.
    Images outside of subfolders have the label -1, which is enough to recalibrate BatchNorm.
    """
    paths = list_images(str(folder))
    paths = [paths[i] for i in np.linspace(0, len(paths) - 1, min(most, len(paths))).astype(int)]
    names = sorted(p.name for p in folder.iterdir() if p.is_dir())
    if set(names) <= set(classes):
        index = {name: classes.index(name) for name in names}
    elif len(names) == len(classes):
        index = {name: i for i, name in enumerate(names)}
    else:
        raise DataError(
            f"{folder} has {len(names)} subfolders, such as '{names[0]}', that do not match the "
            f"{len(classes)} classes: name each after its class, or have one for each class"
        )
    labels = [index.get(path.relative_to(folder).parts[0], -1) for path in paths]
    return Split(Files(paths), torch.tensor(labels), preprocessing)


def write_image_folder(dataset: Dataset, part: str, out: Path) -> int:
    """Write a split as `out/<class>/<number>.png`, whole or not at all.

    Returns the number of images.
    """
    split = dataset.split(part)
    with new_folder(out) as folder:
        for i, label in enumerate(split.labels.tolist()):
            target = folder / dataset.classes[label]
            target.mkdir(exist_ok=True)
            ok, png = cv2.imencode(".png", split.images[i])
            assert ok
            (target / f"{i:05d}.png").write_bytes(png.tobytes())
    return len(split)
