"""The processes of a run under torchrun: their ranks, and the values that they exchange."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """The rank of this process in its run. Without torchrun it is the only one.

    `world` is the number of processes of the run, `local_world` that of those on this machine.
    """

    rank: int = 0
    world: int = 1
    local_world: int = 1
    device: torch.device = torch.device("cpu")

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
        """The `value` of every rank, in the order of the ranks; the same list on all of them."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value)
        return found

    def share(self, work: Sequence[T]) -> Sequence[T]:
        """This rank's share of `work`: every `world`-th item."""
        return work[self.rank :: self.world]

    def wait(self) -> None:
        """Wait until all ranks have called this."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def started() -> Iterator[Ranks]:
    """Join the processes that torchrun started, with nccl on GPUs and gloo on CPUs.

    Without torchrun this process is the only one.
    """
    gpu = torch.cuda.is_available()
    if "WORLD_SIZE" not in os.environ:
        yield Ranks(device=torch.device("cuda" if gpu else "cpu"))
        return
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if gpu else "gloo")
    try:
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        yield Ranks(dist.get_rank(), dist.get_world_size(), local, device)
    finally:
        dist.destroy_process_group()
