"""Training batches: the images of every step, decoded in workers, the same after a restart.

The order of an epoch, and each crop, are drawn from the seed, the epoch and the image alone. So no
position has to be kept, and neither workers nor the number of processes change what is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils import data

from ramnas_host.augment import random_crop
from ramnas_host.config import Recipe
from ramnas_host.data import Split
from ramnas_models.errors import DataError, SourceError

Item = tuple[np.ndarray, int, list[str]]  # crop, label, names of files that were no images


@dataclass(frozen=True)
class Batch:
    """uint8 [n, size, size, 3] in BGR; labels int64 [n]; names of files that were no images."""

    pixels: Tensor
    labels: Tensor
    broken: tuple[str, ...]


def steps_per_epoch(split: Split, recipe: Recipe) -> int:
    """A last, smaller batch of an epoch is left out; DataError if there is no whole one."""
    if len(split) < recipe.batch_size:
        raise DataError(
            f"batch_size {recipe.batch_size} is more than the {len(split)} training images"
        )
    return len(split) // recipe.batch_size


def batches(
    split: Split, recipe: Recipe, first: int, last: int, *,
    rank: int = 0, world: int = 1, workers: int = 0, pin: bool = False,
) -> Iterator[Batch]:  # fmt: skip
    """This rank's share of the batches of steps `first` to `last` - 1; each rank's is as large."""
    if recipe.batch_size % world:
        raise DataError(
            f"batch_size {recipe.batch_size} cannot be shared evenly by {world} processes"
        )
    steps_per_epoch(split, recipe)  # DataError if there is no whole batch
    loader: data.DataLoader[Item] = data.DataLoader(
        _Crops(split, recipe),
        batch_sampler=_Places(len(split), recipe, first, last, rank, world),
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=pin,
        worker_init_fn=_one_thread,
    )
    try:
        for pixels, labels, broken in loader:  # a plain tuple: what pin_memory can look into
            yield Batch(pixels, labels, tuple(broken))
    except DataError as error:  # torch puts a worker's traceback before the message
        message = str(error).strip().splitlines()[-1].rpartition("DataError: ")[2]
        raise DataError(message) from error


class _Places(data.Sampler[list[tuple[int, int]]]):
    """Step by step, the (epoch, index of image) pairs of one rank's share of the batch."""

    def __init__(
        self, images: int, recipe: Recipe, first: int, last: int, rank: int, world: int
    ) -> None:
        self._images, self._recipe = images, recipe
        self._steps = range(first, last)
        self._rank, self._world = rank, world

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        size = self._recipe.batch_size
        per_epoch = self._images // size
        of, order = -1, np.empty(0, np.int64)
        for step in self._steps:
            epoch, place = divmod(step, per_epoch)
            if epoch != of:
                rng = np.random.default_rng((self._recipe.seed, epoch, 0))
                of, order = epoch, rng.permutation(self._images)
            chosen = order[place * size : (place + 1) * size][self._rank :: self._world]
            yield [(epoch, index) for index in chosen.tolist()]


class _Crops(data.Dataset[Item]):
    """(epoch, index) -> a random crop of that image, its label, and what could not be read."""

    def __init__(self, split: Split, recipe: Recipe) -> None:
        self._split, self._recipe = split, recipe
        self._labels = split.labels.numpy()

    def __getitem__(self, place: tuple[int, int]) -> Item:
        epoch, index = place
        rng = np.random.default_rng((self._recipe.seed, epoch, index, 1))
        broken: list[str] = []
        while True:
            try:
                image = self._split.images[index]
            except SourceError:
                broken.append(self._split.images.name(index))
                if len(broken) == 100:
                    raise DataError(f"100 broken images in a row, the last {broken[-1]}") from None
                index = int(rng.integers(len(self._labels)))  # another one takes its place
                continue
            return random_crop(image, self._recipe.augment, rng), int(self._labels[index]), broken


def _collate(items: list[Item]) -> tuple[Tensor, Tensor, list[str]]:
    pixels = torch.from_numpy(np.stack([image for image, _, _ in items]))
    labels = torch.tensor([label for _, label, _ in items])
    return pixels, labels, [name for _, _, broken in items for name in broken]


def _one_thread(worker: int) -> None:
    cv2.setNumThreads(0)  # the workers are the parallelism
