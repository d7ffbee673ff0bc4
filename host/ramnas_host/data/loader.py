"""Makes the batches of every training step; a restart gives the same ones.

The order of images in an epoch depends on the seed and the epoch, and each example on the seed, the
epoch and the image. So no position has to be stored, and neither the number of workers nor the
number of processes changes what is drawn.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils import data

from ramnas_edge.board import cores
from ramnas_host.config import Augment, Recipe, Schedule
from ramnas_host.data.augment import random_crop
from ramnas_host.data.images import Arrays, Files, Split
from ramnas_host.data.worker_processes import (
    Example,
    Item,
    lack_of_means,
    log_pipe,
    made_in_workers,
    message_of_worker,
    reason_of,
)
from ramnas_models.errors import DataError, SourceError

log = logging.getLogger(__name__)

# (index of an image, rng) -> a random example made from it; SourceError if the image is broken
Draw = Callable[[int, np.random.Generator], Example]

_PATIENCE = 100  # broken images in a row


class ImageSource(Protocol):
    """A set of images to train on. How an example is made from one of them is a `Draw`."""

    @property
    def images(self) -> Arrays | Files: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Batch:
    """The examples of a step, or of one of the parts into which `accumulate` divides a step.

    `pixels`: uint8 [n, h, w, 3] in BGR. `targets`: tensors [n, ...] that belong to the images.
    `broken`: files that could not be read, by name, with the reason; other images are in their
    places.
    """

    pixels: Tensor
    targets: tuple[Tensor, ...]
    broken: Mapping[str, str]

    @property
    def labels(self) -> Tensor:
        """The first of `targets`; for classification the labels, int64 [n]."""
        return self.targets[0]


def steps_per_epoch(split: ImageSource, recipe: Schedule) -> int:
    """The number of whole batches in an epoch; DataError if there is none.

    The images that are left over at the end of an epoch are not used in it.
    """
    if len(split) < recipe.batch_size:
        raise DataError(
            f"batch_size {recipe.batch_size} is more than the {len(split)} training images: lower "
            "it with --batch-size or in the recipe"
        )
    return len(split) // recipe.batch_size


def default_workers(split: ImageSource, local_world: int) -> int:
    """The number of worker processes that decode images, for each training process.

    All training processes of this machine, `local_world`, together get one worker per processor
    that it may use. Images in memory need no workers.
    """
    in_files = isinstance(split.images, Files)
    return max(1, cores.usable() // local_world) if in_files else 0


def labelled_crops(split: Split, augment: Augment) -> Draw:
    """Makes an example of classification: a random crop of an image, and its label."""
    return partial(_labelled_crop, split, augment)


def batches(
    split: Split, recipe: Recipe, first: int, last: int, *,
    rank: int = 0, world: int = 1, workers: int = 0, pin: bool = False,
) -> Iterator[Batch]:  # fmt: skip
    """The batches for classification: `drawn_batches` of labelled crops."""
    draw = labelled_crops(split, recipe.augment)
    return drawn_batches(
        split, draw, recipe, first, last, rank=rank, world=world, workers=workers, pin=pin
    )


def drawn_batches(
    split: ImageSource, draw: Draw, recipe: Schedule, first: int, last: int, *,
    rank: int = 0, world: int = 1, workers: int = 0, pin: bool = False,
) -> Iterator[Batch]:  # fmt: skip
    """Yield this rank's share of the batch of every step from `first` to `last` - 1.

    With `accumulate` the share of a step comes in that many parts, one after the other. All ranks
    and all parts get the same number of examples, so DataError if they do not divide the batch.
    """
    if recipe.batch_size % (world * recipe.accumulate):
        each = f" in {recipe.accumulate} parts each" if recipe.accumulate > 1 else ""
        raise DataError(
            f"batch_size {recipe.batch_size} cannot be shared evenly by {world} processes{each}: "
            f"choose a multiple of {world * recipe.accumulate} with --batch-size or in the recipe"
        )
    steps_per_epoch(split, recipe)  # DataError if there is no whole batch
    sampler = _BatchSampler(len(split), recipe, first, last, rank, world)
    examples = _Examples(split, draw, recipe.seed)
    piped = False
    with lack_of_means(), message_of_worker():
        # plain tuples, as pin_memory does not look into a Batch
        for parts, broken in made_in_workers(examples, sampler, workers, pin):
            tensors = [torch.as_tensor(part) for part in parts]
            if isinstance(parts[0], np.ndarray):
                tensors = [tensor.pin_memory() for tensor in tensors] if pin else tensors
                if not piped:
                    log_pipe(sum(tensor.nbytes for tensor in tensors))
                piped = True
            yield Batch(tensors[0], tuple(tensors[1:]), broken)


class _BatchSampler(data.Sampler[list[tuple[int, int]]]):
    """For every part of every step, (epoch, index of the image) of each of this rank's examples."""

    def __init__(
        self, images: int, recipe: Schedule, first: int, last: int, rank: int, world: int
    ) -> None:
        self._images, self._recipe = images, recipe
        self._steps = range(first, last)
        self._rank, self._world = rank, world

    def __len__(self) -> int:
        return len(self._steps) * self._recipe.accumulate

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        size = self._recipe.batch_size
        per_epoch = self._images // size
        current, order = -1, np.empty(0, np.int64)
        for step in self._steps:
            epoch, batch = divmod(step, per_epoch)
            if epoch != current:
                rng = np.random.default_rng((self._recipe.seed, epoch, 0))
                current, order = epoch, rng.permutation(self._images)
            chosen = order[batch * size : (batch + 1) * size]
            parts = self._recipe.accumulate
            # the parts of all ranks divide the batch as the shares of as many ranks would
            for first in range(self._rank, self._world * parts, self._world):
                share = chosen[first :: self._world * parts]
                yield [(epoch, index) for index in share.tolist()]


class _Examples(data.Dataset[Item]):
    """Maps (epoch, index of an image) to an example made from that image.

    If the image is broken, a random other one takes its place.
    """

    def __init__(self, split: ImageSource, draw: Draw, seed: int) -> None:
        self._split, self._draw, self._seed = split, draw, seed

    def __getitem__(self, key: tuple[int, int]) -> Item:
        epoch, index = key
        rng = np.random.default_rng((self._seed, epoch, index, 1))
        broken: dict[str, str] = {}
        first = ""
        for _ in range(_PATIENCE):
            name = self._split.images.name(index)
            try:
                return self._draw(index, rng), broken
            except (SourceError, OSError, cv2.error) as error:
                reason = reason_of(error)
                # a SourceError names its file, which may be the label image and not the picture
                broken[name] = reason if isinstance(error, SourceError) else f"{name}: {reason}"
                first = first or broken[name]
            except MemoryError as error:
                raise DataError(
                    f"there is not enough memory to read {name}: make the image smaller, or give "
                    "fewer --workers"
                ) from error
            index = int(rng.integers(len(self._split)))
        raise DataError(
            f"{_PATIENCE} images in a row could not be read, the last one {broken[name]}; the "
            f"first one: {first}; `ramnas data check DIR` lists what is wrong with a folder"
        )


def _labelled_crop(split: Split, augment: Augment, index: int, rng: np.random.Generator) -> Example:
    return random_crop(split.images[index], augment, rng), split.labels[index].numpy()
