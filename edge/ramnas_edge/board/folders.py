"""The folders of this user where ramnas keeps files: cache, state, configuration.

A user of a container often has no home folder: HOME is not set and passwd does not know the user,
or the home folder is `/` or cannot be written. Cache and state then lie in the folder for temporary
files, in `ramnas-UID`, which only this user may read and write. Keys never do.
"""

from __future__ import annotations

import functools
import logging
import os
import pwd
import stat
import tempfile
from pathlib import Path
from typing import Optional

from ramnas_models.errors import FileError

log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/ramnas, or ~/.cache/ramnas: files that can be made again."""
    return _xdg("XDG_CACHE_HOME") or _below_home(".cache") or _temporary() / "cache"


def state_folder() -> Path:
    """$XDG_STATE_HOME/ramnas, or ~/.local/state/ramnas: records that no host has taken yet."""
    return _xdg("XDG_STATE_HOME") or _below_home(".local/state") or _temporary() / "state"


def config_folder() -> Path:
    """$XDG_CONFIG_HOME/ramnas, or ~/.config/ramnas: the keys. FileError if there is no home."""
    home = _home()
    folder = _xdg("XDG_CONFIG_HOME") or (home and home / ".config" / "ramnas")
    if folder is None:
        raise FileError(
            f"there is no folder for keys: HOME is not set, and user {os.getuid()} has no home "
            "folder in passwd; set HOME or XDG_CONFIG_HOME, or name the keys and their folder with "
            "the options of this command"
        )
    return folder


def _xdg(variable: str) -> Optional[Path]:
    """The folder that the variable names; one that is not absolute does not count.

    Source: https://specifications.freedesktop.org/basedir-spec/latest/
    """
    base = os.environ.get(variable, "")
    return Path(base) / "ramnas" if os.path.isabs(base) else None


def _home() -> Optional[Path]:
    home = os.environ.get("HOME", "")
    if not home:
        try:
            home = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            return None
    return Path(home) if os.path.isabs(home) else None


def _below_home(name: str) -> Optional[Path]:
    """The folder ramnas in the folder `name` of this user's home, if it can be written."""
    home = _home()
    if home is None:
        _say(f"user {os.getuid()} has no home folder")
        return None
    folder = home / name / "ramnas"
    there = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    if os.path.isdir(there) and os.access(there, os.W_OK | os.X_OK):
        return folder
    owner = os.stat(there).st_uid
    _say(f"{there} of user {owner} cannot be written" if owner != os.getuid() else
         f"{there} cannot be written")  # fmt: skip
    return None


@functools.lru_cache(maxsize=None)  # each reason once
def _say(reason: str) -> None:
    log.info(
        "%s, so caches and records are in %s; set HOME, or XDG_CACHE_HOME and XDG_STATE_HOME, to "
        "keep them elsewhere", reason, _temporary(),
    )  # fmt: skip


@functools.lru_cache(maxsize=None)
def _temporary() -> Path:
    """The folder ramnas-UID in the one for temporary files. Nobody else may write into it.

    Where no folder at all can be written it is one that does not exist: reading finds nothing,
    not even what others have put into /tmp, and writing fails with the reason.
    """
    name = f"ramnas-{os.getuid()}"
    try:
        folder = Path(tempfile.gettempdir(), name)
    except FileNotFoundError:
        return Path("/nonexistent", name)
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        found = os.lstat(folder)
        own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
        if not own or found.st_mode & 0o077:
            log.warning("%s is not a folder of this user alone; remove it", folder)
            folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    return folder
