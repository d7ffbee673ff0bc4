"""Values as other people's label files have them -> ids, sides, flags and boxes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

_NUMBER = re.compile(r"(0|-?[1-9]\d{0,14})(\.0+)?")  # as texts that stand for an id


def identity_of(value: object) -> int | float | str | None:
    """One value for an id, whether a tool writes it as 7, 7.0 or "7"; None if it is no id."""
    if isinstance(value, str):
        return int(float(value)) if _NUMBER.fullmatch(value.strip()) else value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def side(value: object) -> int | None:
    """A width or height in pixels; None if `value` is not one."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return int(number) if number.is_integer() and number > 0 else None


def flag(value: object) -> bool | None:
    """A yes or no, however it is written; None if `value` is not one."""
    if value is None or isinstance(value, (bool, int, float)):
        return bool(value)
    return {"0": False, "false": False, "": False, "1": True, "true": True}.get(str(value).lower())


def short(value: object) -> str:
    """A value for a message of one line, which has no quotes if it is a plain text."""
    return _cut(value) if isinstance(value, str) and value.isprintable() else shown(value)


def shown(value: object) -> str:
    """A value for a message of one line, in quotes if it is a text."""
    return _cut(repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}..."


def box_around(segmentation: object) -> list[float] | None:
    """The box (left, top, width, height) around polygons or a run-length mask, if it is one."""
    try:
        if isinstance(segmentation, dict):
            height, width = segmentation["size"]
            return _box_around_runs(segmentation["counts"], int(height), int(width))
        numbers = list(_numbers(segmentation))
    except (TypeError, ValueError, KeyError, IndexError, OverflowError):
        return None
    if len(numbers) < 4 or len(numbers) % 2:
        return None
    points = np.array(numbers).reshape(-1, 2)
    return [*points.min(0).tolist(), *np.ptp(points, axis=0).tolist()]


def _box_around_runs(counts: str | list[int], height: int, width: int) -> list[float] | None:
    """The same for a mask given by runs of 0 and 1 in turn, down each column.

    pycocotools can do this, but it crashes if the runs are damaged.
    """
    runs = np.array(_decompressed(counts) if isinstance(counts, str) else counts, np.int64)
    ends = np.cumsum(runs)
    if height < 1 or (runs < 0).any() or not len(ends) or ends[-1] > height * width:
        return None
    starts, ends = ends[0:-1:2], ends[1::2]
    starts, lasts = starts[ends > starts], ends[ends > starts] - 1
    if not len(starts):
        return None
    left, right = starts // height, lasts // height
    one_column = left == right
    top = np.where(one_column, starts % height, 0).min()
    bottom = np.where(one_column, lasts % height, height - 1).max()
    return [float(v) for v in (left[0], top, right[-1] - left[0] + 1, bottom - top + 1)]


def _decompressed(text: str) -> list[int]:
    """The runs in the text form of COCO's masks: groups of 5 bits, and from the third run on the
    difference to the run before the last."""
    found: list[int] = []
    place = 0
    while place < len(text):
        value, shift, more = 0, 0, True
        while more:
            bits = ord(text[place]) - 48
            place += 1
            value |= (bits & 31) << shift
            shift += 5
            more = bool(bits & 32)
        if bits & 16:
            value -= 1 << shift
        found.append(value + (found[-2] if len(found) > 2 else 0))
    return found


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, list):
        for part in value:
            yield from _numbers(part)
    else:
        yield float(value)
