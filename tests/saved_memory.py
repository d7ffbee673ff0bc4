"""Count the memory that autograd keeps for the backward pass, tensor by tensor."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class SavedMemory:
    """The bytes of the tensors kept now, and the most so far; each storage counts once."""

    now: int = 0
    most: int = 0


@contextmanager
def saved_memory() -> Iterator[SavedMemory]:
    """Count inside the block. `now` falls to 0 when every graph built in it has been freed."""
    memory, users = SavedMemory(), {}

    class SavedTensor:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor

    def release(key: int, size: int) -> None:
        users[key] -= 1
        if not users[key]:
            memory.now -= size

    def pack(tensor: Tensor) -> SavedTensor:
        storage = tensor.untyped_storage()
        key, size = storage.data_ptr(), storage.nbytes()
        users[key] = users.get(key, 0) + 1
        if users[key] == 1:
            memory.now += size
            memory.most = max(memory.most, memory.now)
        kept = SavedTensor(tensor)
        weakref.finalize(kept, release, key, size)
        return kept

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
        yield memory
