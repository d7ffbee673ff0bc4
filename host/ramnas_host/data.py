"""Labelled images in four splits, and the one way from an image to a network's input."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch import Tensor

from ramnas_edge import vision
from ramnas_models.errors import DataError
from ramnas_models.files import new_folder
from ramnas_models.onnx_graph import Normalisation

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Split:
    """Images uint8 [n, h, w, 3] in BGR, labels int64 [n]."""

    images: NDArray[np.uint8]
    labels: Tensor
    normalisation: Normalisation
    _at: dict[int, Tensor] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, resolution: int) -> Tensor:
        """All images as the network sees them: float32 [n, 3, r, r], channels last.

        Resized and normalised exactly as the edge runtime and its graphs do it.
        """
        if resolution in self._at:
            return self._at[resolution]
        hw = (resolution, resolution)
        resized = np.stack([vision.resize(image, hw) for image in self.images])
        norm = self.normalisation
        if norm.channels == "rgb":
            resized = resized[..., ::-1]
        scaled = (resized.astype(np.float32) / 255 - norm.mean) / norm.std
        images = torch.from_numpy(scaled.astype(np.float32)).permute(0, 3, 1, 2)
        self._at[resolution] = images.contiguous(memory_format=torch.channels_last)
        return self._at[resolution]


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
    splits = {}
    rest = np.arange(len(labels))
    for part, size in (("test", 300), ("validation", 400), ("calibration", 150)):
        rest, taken = train_test_split(rest, test_size=size, random_state=0, stratify=labels[rest])
        splits[part] = taken
    splits["train"] = rest
    return Dataset(
        name="digits",
        classes=tuple(str(i) for i in range(10)),
        licence="CC-BY-4.0",
        source="UCI optical recognition of handwritten digits (test part), through scikit-learn",
        **{
            part: Split(bgr[index], torch.from_numpy(labels[index].astype(np.int64)), norm)
            for part, index in splits.items()
        },
    )


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
