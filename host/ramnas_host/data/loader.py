"""Makes the batches of every training step, in worker processes; a restart gives the same ones.

The order of images in an epoch depends on the seed and the epoch, and each example on the seed, the
epoch and the image. So no position has to be stored, and neither the number of workers nor the
number of processes changes what is drawn.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import resource
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import connection
from multiprocessing.process import BaseProcess
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
from ramnas_models.errors import DataError, SourceError

log = logging.getLogger(__name__)

Example = tuple[np.ndarray, ...]  # the image, uint8 [h, w, 3] in BGR, then its targets
# (index of an image, rng) -> a random example made from it; SourceError if the image is broken
Draw = Callable[[int, np.random.Generator], Example]
# an example, and the broken files that it replaces: name -> why
Item = tuple[Example, dict[str, str]]
# the parts of a batch, which are arrays if they come through a pipe, and the broken files
Parts = tuple[tuple[Tensor, ...] | tuple[np.ndarray, ...], dict[str, str]]

_PATIENCE = 100  # broken images in a row
_SHM = "/dev/shm"
_SPARE_FILES = 32  # file descriptors that a worker needs beside those of its batches


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
    piped = False
    with lack_of_means(), _message_of_worker():
        # plain tuples, as pin_memory does not look into a Batch
        for parts, broken in _parts(_Examples(split, draw, recipe.seed), sampler, workers, pin):
            tensors = [torch.as_tensor(part) for part in parts]
            if isinstance(parts[0], np.ndarray):
                tensors = [tensor.pin_memory() for tensor in tensors] if pin else tensors
                if not piped:
                    _log_pipe(sum(tensor.nbytes for tensor in tensors))
                piped = True
            yield Batch(tensors[0], tuple(tensors[1:]), broken)


def _parts(examples: _Examples, sampler: _BatchSampler, workers: int, pin: bool) -> Iterator[Parts]:
    """The batches from `workers` processes, or from this one if they cannot be started.

    DataError if a worker is killed.
    """
    if workers > cores.usable():
        log.warning(
            "%d workers are more than the %d processors that this process may use", workers,
            cores.usable(),
        )  # fmt: skip
    others, usual = multiprocessing.active_children(), signal.getsignal(signal.SIGCHLD)
    try:
        with warnings.catch_warnings():  # torch says in five lines that they are many
            warnings.filterwarnings("ignore", ".*suggested max number of worker")
            loader: data.DataLoader[Item] = data.DataLoader(
                examples, batch_sampler=sampler, num_workers=workers, collate_fn=_collate,
                pin_memory=pin, worker_init_fn=_one_thread,
            )  # fmt: skip
            iterator = iter(loader)
    except (OSError, ImportError) as error:  # too few processes or files, or no semaphores
        if not workers:
            raise
        _clear_half_started(error, others)
        log.warning(
            "no processes that decode images can be started (%s): the training process decodes "
            "them itself, which takes longer; --workers 0 does the same without this warning",
            reason_of(error),
        )
        yield from _parts(examples, sampler, 0, pin)
        return
    processes = [one for one in multiprocessing.active_children() if one not in others]
    waiting = False

    def on_death(number: int, frame: object) -> None:
        """Without this, the end of half a message would be waited for."""
        nonlocal waiting
        if waiting:
            waiting = False  # torch ends the other workers while it handles the error
            _check_alive(processes)
            waiting = True

    # torch's own handler would raise an error from any line of the training
    handles = bool(processes) and threading.current_thread() is threading.main_thread()
    if handles:
        signal.signal(signal.SIGCHLD, on_death)
    try:
        while True:
            waiting = True
            try:
                _check_alive(processes)
                parts = next(iterator)
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError) as error:
                # the frames would keep the iterator, and with it the workers
                traceback.clear_frames(error.__traceback__)
                # a process that is killed closes its files, and can be waited for a moment later
                ending = connection.wait([process.sentinel for process in processes], 1)
                for process in processes:
                    if process.sentinel in ending:
                        process.join()
                _check_alive(processes)
                raise
            finally:
                waiting = False
            yield parts
    except (Exception, KeyboardInterrupt) as error:
        traceback.clear_frames(error.__traceback__)
        raise
    finally:
        del iterator  # ends the workers
        if handles:
            signal.signal(signal.SIGCHLD, usual or signal.SIG_DFL)


def _clear_half_started(error: Exception, others: Sequence[BaseProcess]) -> None:
    """Delete the iterator that torch could not make, and end the workers that it had started."""
    hook = sys.unraisablehook
    sys.unraisablehook = lambda unraisable: None  # torch cannot delete half of one in silence
    try:
        traceback.clear_frames(error.__traceback__)
    finally:
        sys.unraisablehook = hook
    for process in multiprocessing.active_children():
        if process not in others:
            process.terminate()
            process.join()


def _check_alive(processes: Sequence[BaseProcess]) -> None:
    """DataError if one of the workers was killed."""
    for process in processes:
        code = process.exitcode
        if not code:  # it works, or ended as it should
            continue
        way_out = "--workers 0 decodes without other processes"
        if -code == signal.SIGBUS:
            way_out = f"{_SHM} is full: in a container give --shm-size 8g, or give --workers 0"
        elif -code == signal.SIGKILL:
            way_out = "most likely the memory is used up: give fewer --workers"
        how = (
            f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended by exit code {code}"
        )
        raise DataError(f"a worker process that decodes images was {how}; {way_out}")


@contextmanager
def _message_of_worker() -> Iterator[None]:
    """Take the traceback away that torch puts before the message of a worker's DataError."""
    try:
        yield
    except DataError as error:
        text = str(error).strip()
        if not text.startswith("Caught DataError in "):
            raise
        raise DataError(text.splitlines()[-1].partition("DataError: ")[2]) from error


def _log_pipe(size: int) -> None:
    reason = (
        f"{_SHM} has too little room for batches of {size / 1e6:.1f} MB (in a container --shm-size "
        "8g makes room, where Docker gives 64 MB)"
        if _shared_memory() < 2 * size
        else f"only {_files_limit()} files may be open (ulimit -n)"
    )
    log.warning("%s: the images travel through pipes, which takes a little longer", reason)


@contextmanager
def lack_of_means() -> Iterator[None]:
    """Turn a lack of memory or of open files into a DataError with a way out."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise DataError(
            f"there is not enough memory for a batch ({reason_of(error).partition('. ')[0]}): give "
            "a smaller --batch-size or fewer --workers, or let the recipe accumulate parts"
        ) from error
    except RuntimeError as error:
        if not str(error).startswith("Too many open files"):
            raise
        raise DataError(
            "a worker process cannot hand over its images, as too many files are open: raise the "
            "limit with ulimit -n, or give fewer --workers"
        ) from error


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


def reason_of(error: BaseException) -> str:
    """What an error says, in one line; the text of the operating system if it comes from there."""
    text = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    return " ".join(text.split())


def _labelled_crop(split: Split, augment: Augment, index: int, rng: np.random.Generator) -> Example:
    return random_crop(split.images[index], augment, rng), split.labels[index].numpy()


def _collate(items: list[Item]) -> Parts:
    tensors = [torch.from_numpy(np.stack(part)) for part in zip(*(example for example, _ in items))]
    broken = {name: reason for _, found in items for name, reason in found.items()}
    return _handed_over(tensors), broken


def _handed_over(tensors: list[Tensor]) -> tuple[Tensor, ...] | tuple[np.ndarray, ...]:
    """A batch as a worker hands it to the training process: in shared memory if that has room.

    Otherwise as arrays, which are copied through a pipe. torch itself would look for room only in a
    thread of the worker, whose error nobody sees, and the training would wait for ever (64 MB of
    /dev/shm, as Docker gives, hold one batch of COCO).
    """
    if data.get_worker_info() is None:
        return tuple(tensors)
    files = len(os.listdir("/proc/self/fd")) + 2 * len(tensors) + _SPARE_FILES
    if _shared_memory() >= 2 * sum(tensor.nbytes for tensor in tensors) and files <= _files_limit():
        try:
            return tuple(tensor.share_memory_() for tensor in tensors)  # type: ignore[no-untyped-call]
        except RuntimeError:  # another process was faster
            pass
    return tuple(tensor.numpy() for tensor in tensors)


def _shared_memory() -> int:
    """The free room of /dev/shm in bytes."""
    try:
        found = os.statvfs(_SHM)
    except OSError:
        return 0
    return found.f_bavail * found.f_frsize


def _files_limit() -> int:
    """How many files a process may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _one_thread(worker: int) -> None:
    cv2.setNumThreads(0)  # the workers already use every processor
