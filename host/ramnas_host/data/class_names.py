"""Class names -> folder names that every file system takes, and back.

A character that some file system does not take is written as in a URL, so that `T-shirt/top`
becomes `T-shirt%2Ftop`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from urllib.parse import unquote

from ramnas_edge.vision.picture_files import is_by_product

_UNSAFE = re.compile(r'[/\\:*?"<>|%\x00-\x1f\x7f]')
# devices of Windows, whatever suffix follows
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]) *(\..*)?", re.IGNORECASE)
_LONGEST = 255  # bytes; the limit of most file systems


def folder_names(classes: Sequence[str]) -> list[str]:
    """A folder name for each class; no two are equal on a disk that does not tell `a` from `A`.

    Most classes keep their name, and `class_name` gives it back for the others. Only names that are
    too long, or equal to others but for case in several places, are cut off at their end and get
    the number of the class, and `class_name` cannot know what was there.
    """
    found: list[str] = []
    taken: set[str] = set()
    for place, name in enumerate(classes):
        folder = _safe(name)
        if _on_disk(folder) in taken:
            folder = _first_escaped(name)
        if _on_disk(folder) in taken or len(folder.encode()) > _LONGEST:
            folder = f"{folder.encode()[:200].decode(errors='ignore')}%~{place}"
        taken.add(_on_disk(folder))
        found.append(folder)
    return found


def class_name(folder: str) -> str:
    """The class that a folder of this name is for, in the composed form of Unicode (NFC).

    macOS writes `é` as two characters, and other systems as one.
    """
    try:
        name = unquote(folder, errors="strict")
    except UnicodeDecodeError:  # a name with a percent sign of its own
        name = folder
    return unicodedata.normalize("NFC", name)


def in_order(names: Iterable[str]) -> list[str]:
    """The names sorted; by their value if all are numbers, so that 10 comes after 2."""
    found = sorted(names)
    numbers = all(name.isascii() and name.isdigit() for name in found)
    return sorted(found, key=int) if numbers else found


def _safe(name: str) -> str:
    if name and (is_by_product(name) or _RESERVED.fullmatch(name)):
        return _first_escaped(name)
    return _inner(name)


def _first_escaped(name: str) -> str:
    return _escaped(name[:1]) + _inner(name[1:])


def _inner(name: str) -> str:
    """All but the start of a name, which Windows would shorten if it ended in a dot or a space."""
    safe = _UNSAFE.sub(lambda found: _escaped(found[0]), name)
    return safe[:-1] + _escaped(safe[-1]) if safe.endswith((".", " ")) else safe


def _escaped(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())


def _on_disk(folder: str) -> str:
    """Equal for names that some disk takes for one."""
    return unicodedata.normalize("NFC", folder).casefold()
