"""The processes of one run (torchrun): who am I, and the few things that they say to each other."""

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
    """This process among those of the run; on its own unless `torchrun` started it.

    `local_world`: how many of them are on this machine.
    """

    rank: int = 0
    world: int = 1
    local_world: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def leads(self) -> bool:
        """Whether this process writes the files and shows the progress."""
        return self.rank == 0

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """The mean of every rank's gradients, in one exchange for the whole step.

        All ranks train the same archs, so the same parameters have a gradient on each.
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
        """The mean over all ranks."""
        if self.world > 1:
            dist.all_reduce(values)
            values /= self.world
        return values

    def gather(self, value: T) -> list[T]:
        """What each rank gave, in order of rank, on every rank."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value)
        return found

    def share(self, work: Sequence[T]) -> Sequence[T]:
        """This rank's part of `work`: every `world`-th piece."""
        return work[self.rank :: self.world]

    def wait(self) -> None:
        """Until all ranks have come here."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def started() -> Iterator[Ranks]:
    """Join the run that torchrun started: nccl on GPUs, gloo on CPUs. Alone without torchrun."""
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
