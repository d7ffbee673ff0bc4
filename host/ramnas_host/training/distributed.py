"""The processes of a run under torchrun: their ranks, and the work and values that they share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from ramnas_models.errors import DataError, FleetError

T = TypeVar("T")

# How long a rank waits for a value of another one. It is longer than any search, because all other
# ranks wait while the leading one has boards measure. A process that ends is noticed at once.
_PATIENCE = timedelta(days=365)


@dataclass(frozen=True)
class Ranks:
    """The rank of this process in its run. Without torchrun it is the only one.

    `world` is the number of processes of the run, `local_world` that of those on this machine.
    """

    rank: int = 0
    world: int = 1
    local_world: int = 1
    device: torch.device = torch.device("cpu")
    _exchange: _Exchange | None = None

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files and shows progress."""
        return self.rank == 0

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its mean over the ranks, in one exchange for the whole step.

        All ranks train the same archs, so the same parameters have gradients on each of them.
        """
        if self.world == 1:
            return
        grads = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([grad.flatten() for grad in grads])
        dist.all_reduce(flat)
        flat /= self.world
        parts = torch.split(flat, [grad.numel() for grad in grads])
        for grad, part in zip(grads, parts, strict=True):
            grad.copy_(part.view_as(grad))

    def mean(self, values: Tensor) -> Tensor:
        """The mean of `values` over the ranks. With several ranks it overwrites `values`."""
        if self.world > 1:
            dist.all_reduce(values)
            values /= self.world
        return values

    def gather(self, value: T) -> list[T]:
        """The `value` of every rank, in the order of the ranks; the same list on all of them.

        FleetError if another process of the run has ended.
        """
        return [value] if self._exchange is None else self._exchange.gather(value)

    def from_leader(self, value: T) -> T:
        """The `value` of the leading rank, on all of them. FleetError as for `gather`."""
        return value if self._exchange is None else self._exchange.from_leader(value)

    def share(self, work: Sequence[T]) -> Sequence[T]:
        """This rank's share of `work`, fixed in advance: every `world`-th item."""
        return work[self.rank :: self.world]

    def taken(self, total: int, on_done: Callable[[int], None]) -> Iterator[int]:
        """Yield the positions below `total` that this rank takes, each when it asks for the next.

        Every position goes to one rank, so a slow rank takes fewer of them. When the work on one is
        done, `on_done` is called with the number of those that all ranks have done. All ranks call
        this equally often.
        """
        if self._exchange is not None:
            yield from self._exchange.taken(total, on_done)
            return
        for position in range(total):
            yield position
            on_done(position + 1)

    def wait(self) -> None:
        """Wait until all ranks have called this."""
        self.gather(None)


class _Exchange:
    """Passes Python values between the ranks: through gloo, also if gradients go through nccl."""

    def __init__(self, add: Callable[[str, int], int]) -> None:
        # `add` counts in a store that all ranks see, and returns the new count
        self.group = dist.new_group(backend="gloo", timeout=_PATIENCE)
        self._world = dist.get_world_size()
        self._add, self._calls = add, count()

    def gather(self, value: T) -> list[T]:
        found: list[Any] = [None] * self._world
        with _lost_rank():
            dist.all_gather_object(found, value, group=self.group)
        return found

    def from_leader(self, value: T) -> T:
        found: list[Any] = [value]
        with _lost_rank():
            dist.broadcast_object_list(found, src=0, group=self.group)
        (value,) = found
        return value

    def taken(self, total: int, on_done: Callable[[int], None]) -> Iterator[int]:
        call = next(self._calls)
        while (position := self._counted(f"ramnas {call} taken") - 1) < total:
            yield position
            on_done(self._counted(f"ramnas {call} done"))

    def _counted(self, counter: str) -> int:
        with _lost_rank():
            return self._add(counter, 1)


@contextmanager
def _lost_rank() -> Iterator[None]:
    """Turn torch's error about a closed connection into a FleetError."""
    try:
        yield
    except RuntimeError as error:  # gloo has no class of its own for it
        raise FleetError(
            "another process of this run has ended, so this one ends too; its own message says why"
        ) from error


@contextmanager
def started(device: str = "auto") -> Iterator[Ranks]:
    """Join the processes that torchrun started, with nccl on GPUs and gloo on CPUs.

    Without torchrun this process is the only one. `device` is `cpu`, `cuda`, or `auto` for a GPU if
    there is one. Under torchrun each process of a machine has a GPU of its own. DataError if there
    are too few.
    """
    gpus = 0 if device == "cpu" else torch.cuda.device_count()
    if device == "cuda" and not gpus:
        raise DataError("--device cuda: PyTorch finds no GPU on this machine; give --device cpu")
    if "WORLD_SIZE" not in os.environ:
        yield Ranks(device=torch.device("cuda" if gpus else "cpu"))
        return
    local_rank, local_world = (int(os.environ[f"LOCAL_{name}"]) for name in ("RANK", "WORLD_SIZE"))
    if 0 < gpus < local_world:
        raise DataError(
            f"{local_world} processes share {gpus} GPU(s): start torchrun with --nproc-per-node "
            f"{gpus}, or give --device cpu"
        )
    own = torch.device("cuda", local_rank) if gpus else torch.device("cpu")
    if gpus:
        torch.cuda.set_device(own)
    store, rank, world = next(rendezvous("env://"))
    dist.init_process_group("nccl" if gpus else "gloo", store=store, rank=rank, world_size=world)
    exchange = _Exchange(store.add)
    try:
        yield Ranks(rank, world, local_world, own, exchange)
    except BaseException:
        # Closing this group tells the other ranks. nccl would wait for them, and they for this one.
        dist.destroy_process_group(exchange.group if gpus else None)
        raise
    dist.destroy_process_group()
