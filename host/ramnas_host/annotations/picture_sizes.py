"""Picture files and the sizes that labels give them -> true sizes, and whether EXIF turns them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ramnas_edge.vision.preprocessing import read_image
from ramnas_host.data.findings import Notes
from ramnas_models.errors import SourceError

_HEADERS = 500  # of a split are read; if 1 % of its pictures are odd, 99.3 % of samples show it
_ORIENTATION = 0x0112
_ROUNDED = 2  # pixels that a box may reach out of its picture

Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class _Header:
    """`stored` is the size of the stored pixels and `upright` that of the picture as people see it.

    `turned`: whether EXIF says that the stored pixels are turned or mirrored.
    """

    stored: Size
    upright: Size
    turned: bool


def true_sizes(
    paths: Sequence[str], said: Sequence[Size | None], reach: np.ndarray, notes: Notes
) -> tuple[list[Size | None], bool]:
    """The size of each picture that its objects are for, and whether that is the one as stored.

    `said` are the sizes (height, width) that the labels give, None where they give none. `reach` is
    how far the objects of each picture reach, float [n, 2]: down and to the right. Pictures of a
    known size are trusted if a sample of them, whose headers are read, has the sizes that were
    said and none that EXIF turns. A picture that is None in the result has no known size and
    cannot be read.
    """
    unknown = [i for i, size in enumerate(said) if size is None]
    sample = np.linspace(0, len(paths) - 1, min(len(paths), _HEADERS)).astype(int).tolist()
    headers = {i: _header(paths[i]) for i in sorted({*sample, *unknown})}
    if any(_telling(header, said[i]) for i, header in headers.items()):
        headers.update((i, _header(paths[i])) for i in range(len(paths)) if i not in headers)
    known = {i: header for i, header in headers.items() if header}
    sizes = list(said)
    _put_right_exchanged(sizes, known, paths, reach, notes)
    stored = _annotated_as_stored(sizes, known, paths, reach, notes)
    for i, header in known.items():
        size = sizes[i]
        if size is None:
            sizes[i] = header.stored if stored else header.upright
            notes.add("pictures without a usable width and height, measured instead", paths[i])
        elif size not in (header.stored, header.upright):
            (h, w), (height, width) = size, header.upright
            notes.add(
                "pictures of another size than the labels say, which cannot be used",
                f"{paths[i]} is {width}x{height}, not {w}x{h}",
                wrong=True,
            )
    return sizes, stored


def _put_right_exchanged(
    sizes: list[Size | None], headers: dict[int, _Header], paths: Sequence[str],
    reach: np.ndarray, notes: Notes,
) -> None:  # fmt: skip
    """Put right the sizes that have the width in place of the height.

    It can be that the pictures were turned after they were annotated. Then more of the boxes fit
    the sizes that were said, and those are left.
    """
    exchanged = {
        i: header.stored
        for i, header in headers.items()
        if not header.turned and sizes[i] == header.stored[::-1] != header.stored
    }
    gains = [_fits(reach[i], hw) - _fits(reach[i], hw[::-1]) for i, hw in exchanged.items()]
    if sum(gains) < 0:
        return
    for i, size in exchanged.items():
        sizes[i] = size
        notes.add("pictures whose width and height were exchanged, put right", paths[i])


def _annotated_as_stored(
    sizes: list[Size | None], headers: dict[int, _Header], paths: Sequence[str],
    reach: np.ndarray, notes: Notes,
) -> bool:  # fmt: skip
    """Whether the objects are in the pixels as stored, as the pictures tell that EXIF turns.

    A picture that is turned by 90 degrees has another size then. One that is mirrored or turned by
    180 degrees has not, and is read as the others of its split are. Some tools draw on the upright
    picture and write down the size of the stored one: `sizes` are put right if the boxes say so.
    """
    every = [i for i, header in headers.items() if header.turned]
    turned = {i: headers[i] for i in every if headers[i].stored != headers[i].upright}
    silent = [i for i in every if i not in turned or sizes[i] is None]
    upright = [i for i, header in turned.items() if sizes[i] == header.upright]
    as_stored = [i for i, header in turned.items() if sizes[i] == header.stored]

    def more_fit_upright(places: Sequence[int]) -> int:
        """By how many pictures more the boxes fit the upright pictures than the stored ones."""
        return sum(
            _fits(reach[i], turned[i].upright) - _fits(reach[i], turned[i].stored) for i in places
        )

    if more_fit_upright(as_stored) > 0:
        for i in as_stored:
            sizes[i] = turned[i].upright
        upright, as_stored = upright + as_stored, []
    if not upright and not as_stored:  # only the boxes can tell
        without = [i for i in turned if sizes[i] is None]
        balance = more_fit_upright(without)
        upright, as_stored = without * (balance > 0), without * (balance < 0)
    if as_stored and not upright:
        what = "pictures that EXIF turns, with labels for the pixels as stored, which are used"
    elif as_stored:
        what = (
            "pictures that EXIF turns, some with labels for the upright picture and some for the "
            "pixels as stored; each is read as its size tells"
        )
    elif silent and not upright:
        every = silent
        what = (
            "pictures that EXIF turns or mirrors, read upright; whether their boxes were drawn so "
            "is not known"
        )
    else:
        return False
    notes.add(what, paths[every[0]], count=len(every))
    return bool(as_stored) and not upright


def _telling(header: _Header | None, said: Size | None) -> bool:
    """Whether a picture is a reason to look at all of them."""
    return bool(header and (header.turned or said not in (None, header.stored)))


def _fits(reach: np.ndarray, size: Size) -> bool:
    return bool((reach <= np.array(size) + _ROUNDED).all())


def _header(path: str) -> _Header | None:
    """What the header of a picture says; None if it has none that can be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of very large pictures, or of odd tags
            with Image.open(path) as picture:
                stored = (picture.height, picture.width)
                jpeg = picture.format in ("JPEG", "MPO")
                orientation = picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow raises many kinds for broken files, and their reader says why
        return None
    if orientation not in range(2, 9):
        return _Header(stored, stored, False)
    if jpeg:
        return _Header(stored, stored[::-1] if orientation >= 5 else stored, True)
    try:  # whether other formats are turned depends on the version of OpenCV
        height, width = read_image(path).shape[:2]
    except SourceError:
        return None
    return _Header(stored, (height, width), True)
