"""The folders of this user where ramnas keeps files: cache, state, configuration."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/ramnas, or ~/.cache/ramnas: files that can be made again."""
    return _folder("XDG_CACHE_HOME", ".cache")


def state_folder() -> Path:
    """$XDG_STATE_HOME/ramnas, or ~/.local/state/ramnas: records that no host has taken yet."""
    return _folder("XDG_STATE_HOME", ".local/state")


def config_folder() -> Path:
    """$XDG_CONFIG_HOME/ramnas, or ~/.config/ramnas: the keys."""
    return _folder("XDG_CONFIG_HOME", ".config")


def _folder(variable: str, below_home: str) -> Path:
    base = os.environ.get(variable)
    return (Path(base) if base else Path.home() / below_home) / "ramnas"
