"""Chooses the models of a bundle that fit a latency budget, runs them and keeps to the budget.

`Runtime` and `Perception` are the public interface. Both are imported only when they are first
used, so importing one module of this package does not load the others.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ramnas_edge.runtime.perception import Perception
    from ramnas_edge.runtime.runtime import Runtime

__all__ = ["Perception", "Runtime"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{name.lower()}"), name)
