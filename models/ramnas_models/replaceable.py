"""A folder that is to be written as a whole -> a refusal if somebody else's files lie there."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Sequence

from ramnas_models.errors import FileError

_OF_SYSTEMS = ("lost+found", ".DS_Store", "Thumbs.db", "desktop.ini")  # nobody's own files


def check_replaceable(path: Path, own: Sequence[str]) -> None:
    """FileError if there is anything at `path` that may not be replaced as a whole.

    Call it before `files.new_folder`, which deletes what was there. An empty folder may be
    replaced, and one that an earlier call has made: each of its files matches a pattern of `own`,
    where "*" stands for "/" too, and one of them matches the first pattern.
    """
    if not path.exists():
        return
    if not path.is_dir():
        raise FileError(f"cannot write {path}: it is a file, not a folder; name a folder")
    files = [
        entry.relative_to(path).as_posix()
        for entry in sorted(path.rglob("*"))
        if (entry.is_symlink() or not entry.is_dir()) and entry.name not in _OF_SYSTEMS
    ]
    foreign = [file for file in files if not any(fnmatchcase(file, each) for each in own)]
    if not any(fnmatchcase(file, own[0]) for file in files):
        foreign = files
    if foreign:
        raise FileError(
            f"{path} holds {foreign[0]}, which would be deleted, because the whole folder is "
            "replaced; name a folder that is new or empty, or move that file away"
        )
