"""Lists the image files in the subfolders of a folder: in little memory, and only once."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import msgspec
import numpy as np

from ramnas_edge.board.folders import cache_folder
from ramnas_edge.vision.picture_files import (
    counted_suffixes,
    is_by_product,
    is_folder,
    is_picture,
)
from ramnas_edge.vision.preprocessing import IMAGE_SUFFIXES
from ramnas_host.data.class_names import class_name
from ramnas_host.data.findings import Notes
from ramnas_models.errors import DataError, FileError
from ramnas_models.files import write_file

log = logging.getLogger(__name__)

_SHOWN = 5  # names of what a folder has
_RULES = 2  # raised when other files count as pictures, so that older lists are not used
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


@dataclass(frozen=True)
class ClassFolder:
    """A class's folder and the names of the pictures in it, with a zero byte after each."""

    path: bytes
    names: bytes

    def __len__(self) -> int:
        return self.names.count(b"\0")


def list_classes(folder: Path, notes: Notes) -> dict[str, ClassFolder]:
    """The class folders in `folder` that have pictures, by the names of their classes, sorted.

    What is left out goes into `notes`. The names are kept in this user's cache folder, and a class
    is read again only if its folder has changed, as the folder's time of change tells. DataError if
    a folder cannot be listed, or if no class has a picture.
    """
    subfolders = _subfolders(folder, notes)
    cache = cache_folder() / "images" / f"{_digest(folder)}.msgpack"
    known = _read(cache)
    found = {name: _listed(folder / name, known.get(name)) for name in subfolders}
    if found != known:
        _write(cache, found)
    _note_left_out(folder, found, notes)
    with_pictures = [name for name in subfolders if found[name].names]
    if not with_pictures:
        raise DataError(_nothing_there(folder, found))
    classes: dict[str, str] = {}
    for name in with_pictures:
        other = classes.setdefault(class_name(name), name)
        if other != name:
            raise DataError(
                f"{folder} has two folders for the class '{class_name(name)}', '{other}' and "
                f"'{name}': put their pictures into one of them"
            )
    in_lower_case: dict[str, str] = {}
    for name in sorted(classes):
        other = in_lower_case.setdefault(name.lower(), name)
        if other != name:
            notes.add("classes that differ from another one only in case", f"{name} and {other}")
    return {
        name: ClassFolder(os.fsencode(folder / classes[name]), found[classes[name]].names)
        for name in sorted(classes)
    }


def labelled(
    found: Mapping[str, ClassFolder], classes: Sequence[str]
) -> tuple[PathList, np.ndarray]:
    """All pictures of `found`, class by class in the order of `classes`, by name in each.

    Returns the paths, and the label of each: its class's place in `classes`, int64 [n]. A class
    that was not found has no pictures.
    """
    groups = [found.get(name, ClassFolder(b"", b"")) for name in classes]
    paths = PathList.of_folders([group.path for group in groups], [group.names for group in groups])
    return paths, np.repeat(np.arange(len(classes)), [len(group) for group in groups])


def check_folder(folder: Path, way_out: str) -> None:
    """DataError, which ends with `way_out`, unless there is a folder at this path."""
    if not os.path.isdir(folder):
        reason = "is not a folder" if os.path.exists(folder) else "does not exist"
        raise DataError(f"{folder} {reason}: {way_out}")


def may_have(folder: Path, wanted: Callable[[os.DirEntry[str]], bool]) -> bool:
    """Whether an entry of a folder is wanted; also if it is there, but cannot be listed.

    Whoever reads it then says why.
    """
    try:
        with os.scandir(folder) as entries:
            return any(wanted(entry) for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


def what_is_there(folder: Path) -> str:
    """The first names in a folder, for people: `Test/, Train/, notes.txt and 3 more`."""
    try:
        with os.scandir(folder) as entries:
            listed = sorted((e.name, is_folder(e)) for e in entries if not is_by_product(e.name))
    except OSError as error:
        return f"something that cannot be listed ({error.strerror})"
    shown = [_text(name) + "/" * inner for name, inner in listed[:_SHOWN]]
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(shown) + more or "nothing"


class _Listing(msgspec.Struct, frozen=True):
    """A subfolder: its pictures with a zero byte after each name, and what else is in it.

    `changed_ns` is its time of change, or 0 if the subfolder has to be read again the next time.
    """

    changed_ns: int
    names: bytes
    others: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()


def _subfolders(folder: Path, notes: Notes) -> list[str]:
    """The names of the subfolders that can be those of classes, sorted."""
    try:
        with os.scandir(folder) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError as error:
        raise DataError(f"{folder} does not exist") from error
    except OSError as error:
        raise DataError(f"cannot list {folder}: {error.strerror}") from error
    found = []
    for entry in listed:
        if is_folder(entry):
            if is_by_product(entry.name):
                what = "folders that a system or tool keeps for itself, which are not classes"
                notes.add(what, _text(entry.name))
            else:
                found.append(entry.name)
        elif is_picture(entry.name):
            notes.add("pictures beside the class folders, left out", _text(entry.name))
        elif entry.is_symlink() and not os.path.exists(entry.path):
            notes.add("links that lead nowhere, left out", _text(entry.name))
    for name in found:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"the name of the folder {os.fsencode(folder / name)!r} is not in UTF-8: rename it"
            ) from error
    if not found:
        images = sum(is_picture(entry.name) for entry in listed)
        beside = f" for its {images} images" if images else ""
        raise DataError(f"{folder} has no subfolders{beside}: it needs one for each class")
    return found


def _listed(folder: Path, known: _Listing | None) -> _Listing:
    try:
        now, changed_ns = time.time_ns(), folder.stat().st_mtime_ns
        if known and known.changed_ns == changed_ns:
            return known
        pictures: list[str] = []
        others: list[str] = []
        folders: list[str] = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_by_product(entry.name):
                    continue
                if is_folder(entry):
                    folders.append(entry.name)
                else:
                    (pictures if is_picture(entry.name) else others).append(entry.name)
    except OSError as error:
        raise DataError(f"cannot list the images in {folder}: {error.strerror}") from error
    settled = now - changed_ns > _SETTLED_NS
    return _Listing(
        changed_ns if settled else 0,
        _joined(map(os.fsencode, sorted(pictures))),
        tuple(_text(name) for name in sorted(others)),
        tuple(_text(name) for name in sorted(folders)),
    )


def _note_left_out(folder: Path, found: Mapping[str, _Listing], notes: Notes) -> None:
    for name, listing in found.items():
        if not listing.names:
            what = "class folders without a picture, which are not classes"
            if listing.folders:
                what = "class folders that hold only folders, which are not classes"
            notes.add(what, name)
        elif listing.folders:
            what = "folders inside of class folders, left out with all that is in them"
            notes.add(what, f"{name}/{listing.folders[0]}", count=len(listing.folders))
    others = [(name, other) for name, listing in found.items() for other in listing.others]
    if others:
        suffixes = counted_suffixes(other for _, other in others)
        what = f"files that are not read because of their suffix, {suffixes}"
        notes.add(what, "/".join(others[0]), count=len(others))


def _nothing_there(folder: Path, found: Mapping[str, _Listing]) -> str:
    text = f"{folder} has no images ({', '.join(IMAGE_SUFFIXES)})"
    for name, listing in found.items():
        if listing.folders:
            return (
                f"{text} in its class folders, but {name} has a folder {listing.folders[0]}: put "
                "the images of a class into one folder"
            )
    others = [other for listing in found.values() for other in listing.others]
    if others:
        return f"{text}, but files with other suffixes: {counted_suffixes(others)}"
    return text


def _joined(names: Iterable[bytes]) -> bytes:
    return b"".join(name + b"\0" for name in names)


def _text(name: str) -> str:
    """The name with a question mark for bytes that are not UTF-8: it is kept only for messages."""
    return name.encode(errors="replace").decode()


def _digest(folder: Path) -> str:
    """A name for the cache file: another folder, or other kinds of images, give another name."""
    key = (os.fspath(folder.resolve()), sorted(IMAGE_SUFFIXES), _RULES)
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
