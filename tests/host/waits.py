"""Finds the operators that make the host wait for a GPU, also where there is only a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# to know the value of a tensor, or a size that depends on it, the host has to wait for the GPU
_WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "bincount")


class NoWaits(TorchDispatchMode):
    """Fails at an operator whose result the host has to wait for, the backward pass included."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.__name__.split(".")[0]
        by_mask = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        assert not (name.startswith(_WAITING) or by_mask), f"{name} makes the host wait"
        call: Callable[..., Any] = func
        return call(*args, **(kwargs or {}))
