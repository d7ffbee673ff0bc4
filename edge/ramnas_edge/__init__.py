"""Runs networks on the robot, without torch: measures them, serves them within a latency budget.

`Runtime` (one task) and `Perception` (several tasks or cameras) are imported only when they are
first used, so importing this package loads nothing heavy.
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
