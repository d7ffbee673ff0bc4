"""Write a folder so that it appears whole or not at all, and never over somebody else's files."""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Iterator, List, Optional, Sequence

from ramnas_models.errors import FileError
from ramnas_models.files import CANNOT_RENAME, aside_of, sync, writing

_OF_SYSTEMS = ("lost+found", ".DS_Store", "Thumbs.db", "desktop.ini")  # nobody's own files
_KEPT = "lost+found"  # belongs to the file system and lies in the folder where it is mounted


@contextmanager
def new_folder(path: Path, own: Sequence[str]) -> Iterator[Path]:
    """Yield an empty folder beside `path` to fill; at the end of the block it becomes `path`.

    It replaces a folder that was there before as a whole, which must hold nothing but what an
    earlier call has made: its files match `own` (see `check_replaceable`), or FileError is raised.
    After an error nothing has changed. If `path` cannot be renamed, as a mount point cannot, the
    new folder lies inside it, and at the end its entries take the places of those in `path`.
    """
    check_replaceable(path, own)
    with writing(path):
        target = Path(os.path.realpath(path))  # a link to a folder goes on leading to it
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = _folder_aside(target)
    try:
        with writing(path):
            yield aside
            for entry in [*aside.rglob("*"), aside]:
                if not entry.is_symlink():
                    sync(entry)
            _put(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def check_replaceable(path: Path, own: Sequence[str]) -> None:
    """FileError if there is anything at `path` that may not be replaced as a whole.

    `new_folder` calls it; a verb that works for long before calls it at its start too. An empty
    folder may be replaced, and one that an earlier call has made: each of its files matches a
    pattern of `own`, where "*" stands for "/" too, and one of them matches the first pattern.
    """
    with writing(path):
        files = _files_in(path)
    foreign = [file for file in files if not any(fnmatchcase(file, each) for each in own)]
    if not any(fnmatchcase(file, own[0]) for file in files):
        foreign = files
    if foreign:
        raise FileError(
            f"{path} holds {foreign[0]}, which would be deleted, because the whole folder is "
            "replaced; name a folder that is new or empty, or move that file away"
        )


def _files_in(path: Path) -> List[str]:
    """Every file below `path`; none if it does not exist. OSError if a folder cannot be listed."""

    def fail(error: OSError) -> None:
        raise error

    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return []
    if not stat.S_ISDIR(mode):
        raise FileError(f"cannot write {path}: it is a file, not a folder; name a folder")
    files = []
    for folder, folders, names in os.walk(path, onerror=fail):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in names + links:
            if name not in _OF_SYSTEMS:
                files.append(Path(folder, name).relative_to(path).as_posix())
    return sorted(files)


def _folder_aside(target: Path) -> Path:
    """Make an empty folder beside `target`, or inside it if it cannot be replaced by another."""
    if not os.path.ismount(target):
        beside = aside_of(target)
        try:
            os.mkdir(beside)
        except OSError as error:
            if error.errno not in CANNOT_RENAME or not target.is_dir():
                raise
        else:
            return beside
    inside = aside_of(target / target.name)
    os.mkdir(inside)
    return inside


def _put(aside: Path, target: Path) -> None:
    """Make the folder `aside` the folder `target`, or its content that of `target`."""
    if aside.parent == target:
        _exchange(aside, target)
        return
    old: Optional[Path] = None
    if target.exists():
        # a crash between the two renames leaves both folders whole, under hidden names
        old = aside_of(target)
        try:
            os.replace(target, old)
        except OSError as error:
            if error.errno not in CANNOT_RENAME:
                raise
            _exchange(aside, target)
            return
    try:
        os.replace(aside, target)
    except BaseException:
        if old is not None:
            os.replace(old, target)
        raise
    sync(target.parent)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def _exchange(aside: Path, target: Path) -> None:
    """Move what `target` holds away and what `aside` holds into it; after an error, all back."""
    old = aside_of(target / target.name)
    os.mkdir(old)
    done: List[List[Path]] = []  # from where to where
    try:
        for folder, other in ((target, old), (aside, target)):
            for entry in [*folder.iterdir()]:
                if entry not in (aside, old) and entry.name != _KEPT:
                    shutil.move(str(entry), str(other / entry.name))
                    done.append([entry, other / entry.name])
    except BaseException:
        for entry, moved in reversed(done):
            shutil.move(str(moved), str(entry))
        with suppress(OSError):  # it is empty, unless something could not be moved back
            os.rmdir(old)
        raise
    sync(target)
    shutil.rmtree(old, ignore_errors=True)
