"""A folder as people have it -> the pictures in it, without what systems and tools left there."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Iterable, Iterator, List, Tuple

from ramnas_edge.vision.preprocessing import IMAGE_SUFFIXES
from ramnas_models.errors import SourceError

# of zip files made on macOS, of NAS boxes, of Windows, of ext file systems and of Python
_BY_PRODUCTS = {
    "__macosx", "@eadir", "#recycle", "@recycle", "#snapshot", "$recycle.bin",
    "system volume information", "lost+found", "__pycache__", "thumbs.db", "desktop.ini",
}  # fmt: skip


def is_by_product(name: str) -> bool:
    """Whether a system or a tool made the file or folder of this name, and not a person.

    Hidden ones are among them, such as `.git`, `.ipynb_checkpoints` and `._1.jpg`, in which macOS
    keeps what it knows of `1.jpg`.
    """
    return name.startswith(".") or name.lower() in _BY_PRODUCTS


def is_folder(entry: os.DirEntry[str]) -> bool:  # novermin
    """Whether it is a folder or a link to one; a link that leads nowhere or to itself is not."""
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def has_picture_suffix(path: str) -> bool:
    """Whether the file is of a format that is read as a picture, by its name."""
    return os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES


def is_picture(name: str) -> bool:
    """Whether a file of this name, which was found in a folder, is a picture to read."""
    return has_picture_suffix(name) and not is_by_product(name)


def counted_suffixes(names: Iterable[str]) -> str:
    """The suffixes of files and how many have each: `.gif (3), .heic (1), no suffix (1)`.

    At most five, those of most files first; an empty text if there are no files.
    """
    suffixes = (os.path.splitext(name)[1].lower() or "no suffix" for name in names)
    found = Counter(suffixes).most_common()
    words = [f"{suffix} ({count})" for suffix, count in found[:5]]
    return ", ".join(words + ["..."] * (len(found) > 5))


def pictures_below(folder: Path) -> List[Path]:
    """Every picture below `folder`, ordered by path, as `files_below` finds them."""
    return files_below(folder)[0]


def files_below(folder: Path) -> Tuple[List[Path], List[Path]]:
    """Every picture below `folder`, and every other file that a person put there, by path.

    Links to folders are followed. SourceError if a folder cannot be listed.
    """
    pictures: List[Path] = []
    others: List[Path] = []
    for path in sorted(_below(str(folder), ())):
        (pictures if is_picture(path.name) else others).append(path)
    return pictures, others


def _below(folder: str, above: Tuple[str, ...]) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in above:  # a link that leads back up would never end
        return
    try:
        with os.scandir(folder) as entries:
            listed = list(entries)
    except OSError as error:
        raise SourceError(f"cannot list the images in {folder}: {error.strerror}") from error
    for entry in listed:
        if is_folder(entry):
            if not is_by_product(entry.name):
                yield from _below(entry.path, (*above, real))
        elif not is_by_product(entry.name):
            yield Path(entry.path)
