"""Run a network on the robot: measure it, serve it within a latency budget. No torch.

`Runtime` (one task) and `Perception` (several tasks or cameras) are looked up when they are first
used: importing this package loads nothing heavy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ramnas_edge.runtime import Perception, Runtime

__all__ = ["Perception", "Runtime"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("ramnas_edge.runtime"), name)
