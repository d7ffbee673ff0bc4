"""Labelled images in four splits, and the one way from an image to a network's input."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from ramnas_edge import vision
from ramnas_edge.sources import list_images
from ramnas_models.bundle import Preprocessing
from ramnas_models.errors import DataError, SourceError
from ramnas_models.files import new_folder
from ramnas_models.onnx_graph import Normalisation

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Split:
    """Images, uint8 [h, w, 3] in BGR, of one size or of many; labels int64 [n]."""

    images: Sequence[vision.Image]
    labels: Tensor
    preprocessing: Preprocessing
    _at: dict[int, Tensor] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, resolution: int) -> Tensor:
        """All images as the network sees them: float32 [n, 3, r, r], channels last; kept."""
        if resolution not in self._at:
            self._at[resolution] = torch.cat(list(self.batches(resolution)))
        return self._at[resolution]

    def batches(self, resolution: int, size: int = 256) -> Iterator[Tensor]:
        """The images in order, `size` at a time, prepared as the runtime and its graphs do it."""
        if resolution in self._at:
            yield from torch.split(self._at[resolution], size)
            return
        for start in range(0, len(self), size):
            yield self._tensor(self.images[start : start + size], resolution)

    def _tensor(self, images: Sequence[vision.Image], resolution: int) -> Tensor:
        how, hw = self.preprocessing, (resolution, resolution)
        norm = how.normalisation
        pixels = np.stack([vision.prepare(image, how, hw) for image in images])
        if norm.channels == "rgb":
            pixels = pixels[..., ::-1]
        scaled = ((pixels.astype(np.float32) / 255 - norm.mean) / norm.std).astype(np.float32)
        tensor = torch.from_numpy(scaled).permute(0, 3, 1, 2)
        return tensor.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Dataset:
    """`train` for the weights, `calibration` for BatchNorm, `validation` for the search."""

    name: str
    classes: tuple[str, ...]
    licence: str
    source: str
    train: Split
    calibration: Split
    validation: Split
    test: Split

    def split(self, name: str) -> Split:
        split: Split = getattr(self, name)
        return split


def load_dataset(name: str) -> Dataset:
    if name != "digits":
        raise DataError(f"unknown dataset '{name}': known is digits")
    return _digits()


def _digits() -> Dataset:
    """UCI's optical recognition of handwritten digits, as scikit-learn ships it."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    grey = (images.reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8)
    bgr = np.repeat(grey[..., None], 3, axis=3)
    # ink covers about 30 % of a digit; the same figures for all channels
    norm = Normalisation(mean=(0.3, 0.3, 0.3), std=(0.38, 0.38, 0.38), channels="bgr")
    how = Preprocessing(norm)
    splits = {}
    rest = np.arange(len(labels))
    for part, size in (("test", 250), ("validation", 500), ("calibration", 100)):
        rest, taken = train_test_split(rest, test_size=size, random_state=0, stratify=labels[rest])
        splits[part] = taken
    splits["train"] = rest
    return Dataset(
        name="digits",
        classes=tuple(str(i) for i in range(10)),
        licence="CC-BY-4.0",
        source="UCI optical recognition of handwritten digits (test part), through scikit-learn",
        **{
            part: Split(bgr[index], torch.from_numpy(labels[index].astype(np.int64)), how)
            for part, index in splits.items()
        },
    )


def load_folder(
    folder: Path, classes: Sequence[str], preprocessing: Preprocessing, most: int
) -> Split:
    """Up to `most` images below `folder`, spread evenly; labels from the names of its subfolders.

    A subfolder is a class by its name or, if there are as many as classes, by its place in the
    order of names, as in ImageNet. Without subfolders the labels are -1: enough to recalibrate.
    A file that is no image is logged and left out.
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
            f"{folder} has {len(names)} subfolders, such as '{names[0]}', that are neither names "
            f"of the {len(classes)} classes nor as many as they"
        )
    images, labels = [], []
    for path in paths:
        try:
            images.append(vision.read_image(str(path)))
        except SourceError as error:
            log.warning("left out: %s", error)
            continue
        labels.append(index.get(path.relative_to(folder).parts[0], -1))
    if not images:
        raise DataError(f"none of the {len(paths)} files below {folder} is an image")
    return Split(images, torch.tensor(labels), preprocessing)


def write_image_folder(dataset: Dataset, part: str, out: Path) -> int:
    """Write a split as `out/<class>/<number>.png`, whole or not at all; how many images."""
    split = dataset.split(part)
    with new_folder(out) as folder:
        for i, (image, label) in enumerate(zip(split.images, split.labels.tolist())):
            target = folder / dataset.classes[label]
            target.mkdir(exist_ok=True)
            ok, png = cv2.imencode(".png", image)
            assert ok
            (target / f"{i:05d}.png").write_bytes(png.tobytes())
    return len(split)
