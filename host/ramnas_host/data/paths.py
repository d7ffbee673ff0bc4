"""Lists the image files in the subfolders of a folder: in little memory, and only once."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import overload

import msgspec
import numpy as np

from ramnas_edge.board.folders import cache_folder
from ramnas_edge.vision.preprocessing import IMAGE_SUFFIXES
from ramnas_models.errors import DataError, FileError
from ramnas_models.files import write_file

log = logging.getLogger(__name__)

_SETTLED_NS = 2 * 10**9  # a change sooner after another may leave a folder's time as it is


class PathList(Sequence[Path]):
    """Paths whose names are in one buffer, so that a million of them are not a million objects.

    A list of Path objects takes some 400 bytes for each. Every worker process that reads it soon
    has a copy, because Python counts references inside the objects. A buffer stays shared between
    processes, and between a list and what `take` makes of it.

    Each folder is followed by its files: those of `folders[k]` begin at place `firsts[k]`. `text`
    has the names of all files, with a zero byte after each, and `ends` the positions of the zeros.
    `places` says which of the files this list has, in which order.
    """

    def __init__(
        self, folders: Sequence[bytes], firsts: np.ndarray, text: np.ndarray,
        ends: np.ndarray, places: np.ndarray,
    ) -> None:  # fmt: skip
        self._folders, self._firsts = folders, firsts
        self._text, self._ends, self._places = text, ends, places

    @classmethod
    def of(cls, paths: Iterable[Path]) -> PathList:
        """The same paths in this form."""
        folders: list[bytes] = []
        names: list[list[bytes]] = []
        for path in paths:
            folder, name = os.path.split(os.fsencode(path))
            if not folders or folder != folders[-1]:
                folders.append(folder)
                names.append([])
            names[-1].append(name)
        return cls.of_folders(folders, [_joined(group) for group in names])

    @classmethod
    def of_folders(cls, folders: Sequence[bytes], names: Sequence[bytes]) -> PathList:
        """The files of each folder, given their names with a zero byte after each."""
        counts = [group.count(b"\0") for group in names]
        firsts = np.cumsum([0, *counts[:-1]])
        text = np.frombuffer(b"".join(names), np.uint8)
        ends = np.flatnonzero(text == 0)
        return cls(folders, firsts, text, ends, np.arange(len(ends)))

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> PathList: ...
    def __getitem__(self, index: int | slice) -> Path | PathList:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        place = self._places[index]
        start = self._ends[place - 1] + 1 if place else 0
        name = self._text[start : self._ends[place]].tobytes()
        folder = self._folders[int(np.searchsorted(self._firsts, place, side="right")) - 1]
        return Path(os.fsdecode(os.path.join(folder, name)))

    def take(self, index: np.ndarray) -> PathList:
        """The paths at the positions `index`, in that order. The names are not copied."""
        return PathList(self._folders, self._firsts, self._text, self._ends, self._places[index])


def scan(folder: Path, classes: Sequence[str]) -> tuple[PathList, np.ndarray]:
    """All image files in `folder/<class>/`, class by class, in the order of their names.

    Returns the paths, and the label of each: its class's place in `classes`, int64 [n]. A class
    without a subfolder has no images. The names are kept in this user's cache folder. A class is
    read again only if its subfolder has changed, as the subfolder's time of change tells.
    """
    cache = cache_folder() / "images" / f"{_digest(folder)}.msgpack"
    known = _read(cache)
    found = {name: _listed(folder / name, known.get(name)) for name in classes}
    if found != known:
        _write(cache, found)
    names = [found[name].names for name in classes]
    paths = PathList.of_folders([os.fsencode(folder / name) for name in classes], names)
    return paths, np.repeat(np.arange(len(classes)), [group.count(b"\0") for group in names])


class _Listing(msgspec.Struct, frozen=True):
    """The images of a subfolder: their names, with a zero byte after each, and when it changed.

    `changed_ns` is 0 if the subfolder has to be read again the next time.
    """

    changed_ns: int
    names: bytes


def _listed(folder: Path, known: _Listing | None) -> _Listing:
    try:
        now, changed_ns = time.time_ns(), folder.stat().st_mtime_ns
        if known and known.changed_ns == changed_ns:
            return known
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return _Listing(0, b"")
    except OSError as error:
        raise DataError(f"cannot list the images in {folder}: {error.strerror}") from error
    images = sorted(name for name in names if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES)
    settled = now - changed_ns > _SETTLED_NS
    return _Listing(changed_ns if settled else 0, _joined(map(os.fsencode, images)))


def _joined(names: Iterable[bytes]) -> bytes:
    return b"".join(name + b"\0" for name in names)


def _digest(folder: Path) -> str:
    """A name for the cache file: another folder, or other kinds of images, give another name."""
    key = (os.fspath(folder.resolve()), sorted(IMAGE_SUFFIXES))
    return hashlib.sha256(repr(key).encode(errors="surrogateescape")).hexdigest()[:16]


def _read(cache: Path) -> dict[str, _Listing]:
    """What is known of each class; nothing if the file is missing or damaged."""
    try:
        return msgspec.msgpack.decode(cache.read_bytes(), type=dict[str, _Listing])
    except (OSError, msgspec.DecodeError):
        return {}


def _write(cache: Path, found: dict[str, _Listing]) -> None:
    try:
        write_file(cache, msgspec.msgpack.encode(found))
    except FileError as error:  # the next start lists the folders again
        log.debug("the list of images is not kept: %s", error)
