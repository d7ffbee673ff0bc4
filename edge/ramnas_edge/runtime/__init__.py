"""Models of a bundle that fit a latency budget, and keep it.

`Runtime` and `Perception` are the public door. Both are looked up when they are first used, so that
importing one part of this room loads nothing else of it.
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
