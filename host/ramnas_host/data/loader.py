"""Training batches: the examples of every step, made in workers, the same after a restart.

The order of an epoch, and each example, are drawn from the seed, the epoch and the image alone. So
no position has to be kept, and neither workers nor the number of processes change what is drawn.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils import data

from ramnas_host.config import Augment, Recipe, Schedule
from ramnas_host.data.augment import random_crop
from ramnas_host.data.images import Arrays, Files, Split
from ramnas_models.errors import DataError, SourceError

Example = tuple[np.ndarray, ...]  # uint8 [h, w, 3] in BGR, then what belongs to it
Draw = Callable[[int, np.random.Generator], Example]  # by index; SourceError if it is broken
Item = tuple[Example, list[str]]  # and the names of files that were no images


class ImageSource(Protocol):
    """What can be trained on: so many images with names."""

    @property
    def images(self) -> Arrays | Files: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Batch:
    """uint8 [n, h, w, 3] in BGR; what belongs to them, [n, ...] each; files that were no images."""

    pixels: Tensor
    targets: tuple[Tensor, ...]
    broken: tuple[str, ...]

    @property
    def labels(self) -> Tensor:
        """The first of `targets`: of classification int64 [n]."""
        return self.targets[0]


def steps_per_epoch(split: ImageSource, recipe: Schedule) -> int:
    """A last, smaller batch of an epoch is left out; DataError if there is no whole one."""
    if len(split) < recipe.batch_size:
        raise DataError(
            f"batch_size {recipe.batch_size} is more than the {len(split)} training images"
        )
    return len(split) // recipe.batch_size


def default_workers(split: ImageSource, local_world: int) -> int:
    """One a processor, shared by the processes of this machine; none for images in memory."""
    in_files = isinstance(split.images, Files)
    return max(1, len(os.sched_getaffinity(0)) // local_world) if in_files else 0


def labelled_crops(split: Split, augment: Augment) -> Draw:
    """A random crop of an image, and its label."""
    return partial(_labelled_crop, split, augment)


def batches(
    split: Split, recipe: Recipe, first: int, last: int, *,
    rank: int = 0, world: int = 1, workers: int = 0, pin: bool = False,
) -> Iterator[Batch]:  # fmt: skip
    """`drawn_batches` of labelled crops."""
    draw = labelled_crops(split, recipe.augment)
    return drawn_batches(
        split, draw, recipe, first, last, rank=rank, world=world, workers=workers, pin=pin
    )


def drawn_batches(
    split: ImageSource, draw: Draw, recipe: Schedule, first: int, last: int, *,
    rank: int = 0, world: int = 1, workers: int = 0, pin: bool = False,
) -> Iterator[Batch]:  # fmt: skip
    """This rank's share of the batches of steps `first` to `last` - 1; each rank's is as large."""
    if recipe.batch_size % world:
        raise DataError(
            f"batch_size {recipe.batch_size} cannot be shared evenly by {world} processes"
        )
    steps_per_epoch(split, recipe)  # DataError if there is no whole batch
    loader: data.DataLoader[Item] = data.DataLoader(
        _Drawn(split, draw, recipe.seed),
        batch_sampler=_Places(len(split), recipe, first, last, rank, world),
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=pin,
        worker_init_fn=_one_thread,
    )
    try:
        for tensors, broken in loader:  # plain tuples: what pin_memory can look into
            yield Batch(tensors[0], tuple(tensors[1:]), tuple(broken))
    except DataError as error:  # torch puts a worker's traceback before the message
        message = str(error).strip().splitlines()[-1].rpartition("DataError: ")[2]
        raise DataError(message) from error


class _Places(data.Sampler[list[tuple[int, int]]]):
    """Step by step, the (epoch, index of image) pairs of one rank's share of the batch."""

    def __init__(
        self, images: int, recipe: Schedule, first: int, last: int, rank: int, world: int
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


class _Drawn(data.Dataset[Item]):
    """(epoch, index) -> an example drawn of that image, and what could not be read."""

    def __init__(self, split: ImageSource, draw: Draw, seed: int) -> None:
        self._split, self._draw, self._seed = split, draw, seed

    def __getitem__(self, place: tuple[int, int]) -> Item:
        epoch, index = place
        rng = np.random.default_rng((self._seed, epoch, index, 1))
        broken: list[str] = []
        while True:
            try:
                return self._draw(index, rng), broken
            except SourceError:
                broken.append(self._split.images.name(index))
                if len(broken) == 100:
                    raise DataError(f"100 broken images in a row, the last {broken[-1]}") from None
                index = int(rng.integers(len(self._split)))  # another one takes its place


def _labelled_crop(split: Split, augment: Augment, index: int, rng: np.random.Generator) -> Example:
    return random_crop(split.images[index], augment, rng), split.labels[index].numpy()


def _collate(items: list[Item]) -> tuple[tuple[Tensor, ...], list[str]]:
    tensors = [torch.from_numpy(np.stack(part)) for part in zip(*(example for example, _ in items))]
    return tuple(tensors), [name for _, broken in items for name in broken]


def _one_thread(worker: int) -> None:
    cv2.setNumThreads(0)  # the workers are the parallelism
