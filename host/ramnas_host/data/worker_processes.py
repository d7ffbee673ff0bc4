"""Has examples made in worker processes and put into batches, however little the machine gives.

Shared memory may be small, files and processes few, and a worker may be killed. A batch then takes
another way, or the training ends with one line that says why.
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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import connection
from multiprocessing.process import BaseProcess

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils import data

from ramnas_edge.board import cores
from ramnas_models.errors import DataError

log = logging.getLogger(__name__)

Example = tuple[np.ndarray, ...]  # the image, uint8 [h, w, 3] in BGR, then its targets
# an example, and the broken files that it replaces: name -> why
Item = tuple[Example, dict[str, str]]
# the parts of a batch, which are arrays if they come through a pipe, and the broken files
Parts = tuple[tuple[Tensor, ...] | tuple[np.ndarray, ...], dict[str, str]]

_SHM = "/dev/shm"
_SPARE_FILES = 32  # file descriptors that a worker needs beside those of its batches


def made_in_workers(
    examples: data.Dataset[Item], sampler: data.Sampler[list[tuple[int, int]]],
    workers: int, pin: bool,
) -> Iterator[Parts]:  # fmt: skip
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
        yield from made_in_workers(examples, sampler, 0, pin)
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


@contextmanager
def message_of_worker() -> Iterator[None]:
    """Take the traceback away that torch puts before the message of a worker's DataError."""
    try:
        yield
    except DataError as error:
        text = str(error).strip()
        if not text.startswith("Caught DataError in "):
            raise
        raise DataError(text.splitlines()[-1].partition("DataError: ")[2]) from error


def _collate(items: list[Item]) -> Parts:
    tensors = [torch.from_numpy(np.stack(part)) for part in zip(*(example for example, _ in items))]
    broken = {name: reason for _, found in items for name, reason in found.items()}
    return _handed_over(tensors), broken


def reason_of(error: BaseException) -> str:
    """What an error says, in one line; the text of the operating system if it comes from there."""
    text = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    return " ".join(text.split())


def log_pipe(size: int) -> None:
    reason = (
        f"{_SHM} has too little room for batches of {size / 1e6:.1f} MB (in a container --shm-size "
        "8g makes room, where Docker gives 64 MB)"
        if _shared_memory() < 2 * size
        else f"only {_files_limit()} files may be open (ulimit -n)"
    )
    log.warning("%s: the images travel through pipes, which takes a little longer", reason)


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


def _one_thread(worker: int) -> None:
    cv2.setNumThreads(0)  # the workers already use every processor
