"""Names of pictures as a label file has them -> the files that they mean, below one folder."""

from __future__ import annotations

import errno
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

from ramnas_edge.vision.picture_files import is_by_product
from ramnas_host.annotations.loose_values import shown
from ramnas_host.data.findings import Notes
from ramnas_models.errors import DataError

_NO_FOLDER = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
_DRIVE = re.compile(r"[A-Za-z]:")
_SAME_SUFFIX = {".jpeg": ".jpg", ".jpe": ".jpg", ".tiff": ".tif"}


class PictureNames:
    """Finds pictures by the names that other people's tools have written.

    `roots` are the folders that names may be relative to, the likeliest first; each lies below
    `folder` or is it. Only below the first `own` of them a file is also found in a subfolder that
    its name does not mention. Each folder is listed once, however many names lead there.
    """

    def __init__(self, folder: Path, roots: Sequence[Path], own: int) -> None:
        self._folder = folder
        self._roots = [str(root) for root in roots]
        self._own = self._roots[:own]
        self._listed: dict[str, frozenset[str]] = {}
        self._alike: dict[str, dict[str, list[str]]] = {}
        self._below: dict[str, list[str]] | None = None

    @property
    def places(self) -> str:
        """Where files are looked for, for people."""
        return ", ".join(map(self._place, self._roots))

    def _place(self, root: str) -> str:
        name = os.path.relpath(root, self._folder)
        if name == ".":
            return "the folder itself"
        if os.path.islink(root) and not os.path.exists(root):  # as after a copy of links alone
            return f"{name}/ (a link to {os.readlink(root)}, which is not there)"
        return f"{name}/"

    def locate(self, names: Sequence[str], notes: Notes) -> list[str | None]:
        """The path of each picture; None if there is no such file, which is noted.

        A name that is not quite that of its file is noted too. If names of different pictures lead
        to one file, only the names that are its own get it.
        DataError if a folder cannot be listed.
        """
        first = self._roots[0]
        plain = self._files(first)
        found: list[str | None] = []
        odd = []
        for i, name in enumerate(names):
            if name in plain:
                found.append(f"{first}/{name}")
                continue
            path, as_written = self._find(name)
            found.append(path)
            if not as_written:
                odd.append(i)
        if odd:
            _part_strangers(names, found)
        for i in odd:
            name, path = names[i], found[i]
            if path is None:
                notes.add(
                    "pictures without a file, left out with their objects",
                    f"{shown(name)}, looked for in {self.places}",
                    wrong=True,
                )
            else:
                notes.add(
                    "picture names that are not quite those of the files, found all the same",
                    f"{shown(name)} is {os.path.relpath(path, self._folder)!r}",
                )
        return found

    def _find(self, name: str) -> tuple[str | None, bool]:
        """The path of one picture, and whether its name is a plain path below a root."""
        parts = name.split("/")
        if all(part not in ("", ".", "..") for part in parts):
            for root in self._roots:
                folder = "/".join([root, *parts[:-1]])
                if parts[-1] in self._files(folder):
                    return f"{folder}/{parts[-1]}", root in self._own
        readings = list(_readings(name))
        for alike in (False, True):
            for parts in readings:
                for start in range(len(parts)):
                    for root in self._roots:
                        folder = "/".join([root, *parts[start:-1]])
                        path = self._in(folder, parts[-1], alike=alike)
                        if path is not None:
                            return path, False
        for parts in readings:
            path = self._deeper(parts[-1])
            if path is not None:
                return path, False
        return None, False

    def _in(self, folder: str, name: str, *, alike: bool) -> str | None:
        if not alike:
            return f"{folder}/{name}" if name in self._files(folder) else None
        if not self._files(folder):
            return None
        if folder not in self._alike:
            by_key: dict[str, list[str]] = {}
            for file in self._files(folder):
                by_key.setdefault(_key(file), []).append(file)
            self._alike[folder] = by_key
        found = self._alike[folder].get(_key(name), [])
        return f"{folder}/{found[0]}" if len(found) == 1 else None

    def _deeper(self, name: str) -> str | None:
        """The one file of this name anywhere below the folders of the split's own."""
        if self._below is None:
            self._below = {}
            for root in self._own:
                for folder, inner, files in os.walk(root):
                    inner[:] = [name for name in inner if not is_by_product(name)]
                    for file in files:
                        self._below.setdefault(_key(file), []).append(f"{folder}/{file}")
        found = self._below.get(_key(name), [])
        return found[0] if len(found) == 1 else None

    def _files(self, folder: str) -> frozenset[str]:
        """The names of what lies in a folder; none if there is no such folder."""
        if folder not in self._listed:
            try:
                self._listed[folder] = frozenset(os.listdir(folder))
            except ValueError:  # the name has a zero byte, or half of a character
                self._listed[folder] = frozenset()
            except OSError as error:
                if error.errno not in _NO_FOLDER:
                    raise DataError(f"cannot list {folder}: {error.strerror}") from error
                self._listed[folder] = frozenset()
        return self._listed[folder]


def same_picture(one: str, other: str) -> bool:
    """Whether two names can mean one file: one of them is the end of the other."""
    for a in _readings(one):
        for b in _readings(other):
            shared = min(len(a), len(b))
            if [_key(part) for part in a[-shared:]] == [_key(part) for part in b[-shared:]]:
                return True
    return False


def _part_strangers(names: Sequence[str], found: list[str | None]) -> None:
    """Where names of different pictures lead to one file, leave it only to the file's own names."""
    leading: dict[str, list[int]] = {}
    for i, path in enumerate(found):
        if path is not None:
            leading.setdefault(path, []).append(i)
    for path, places in leading.items():
        if not all(same_picture(names[places[0]], names[i]) for i in places[1:]):
            for i in places:
                if not same_picture(names[i], path):
                    found[i] = None


def _readings(name: str) -> Iterator[list[str]]:
    """The parts of the path that a name may stand for, without what leads out of a folder."""
    texts = [name.replace("\\", "/")]
    texts.append(unquote(texts[0]))
    for text in list(texts):
        if "?" in text:  # a URL, or Label Studio's /data/local-files/?d=folder/picture.jpg
            path, query = text.split("?", 1)
            texts += [query.partition("d=")[2].split("&")[0], path]
    seen: list[list[str]] = []
    for text in texts:
        parts = [part.strip() for part in text.split("/")]
        parts = [
            part for part in parts if part not in ("", ".", "..") and not _DRIVE.fullmatch(part)
        ]
        if parts and "\0" not in text and parts not in seen:
            seen.append(parts)
            yield parts


def _key(name: str) -> str:
    """Equal for file names that differ by case, by the form of Unicode, or as .jpg and .jpeg do."""
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
    stem, suffix = os.path.splitext(folded)
    return stem + _SAME_SUFFIX.get(suffix, suffix)
