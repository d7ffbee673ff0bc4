"""Pictures and boxes as any label file gives them -> a `DetectionSplit` of what can be used.

Every check of detection data is here, so that training, scoring and people see the same objects.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ramnas_host.annotations.detection_data import DetectionSplit, Objects
from ramnas_host.annotations.loose_values import shown
from ramnas_host.annotations.picture_names import PictureNames
from ramnas_host.annotations.picture_sizes import Size, true_sizes
from ramnas_host.data.findings import Finding, Notes
from ramnas_host.data.images import Files
from ramnas_models.errors import DataError

_NO_PICTURE = -1
_MOST = 0.5  # if a larger share of the boxes of a split is odd, it is the split that is wrong
_FITTING = 0.95  # of the boxes are sound if they are read in another form


@dataclass(frozen=True, eq=False)
class Listed:
    """The pictures and objects of one split as its label file lists them.

    `names` and `sizes` (height, width; None if unknown) are those of the pictures. Object i belongs
    to the picture `picture[i]`, int64 [m], and has the class `classes[i]`, int64 [m]. `boxes` are
    float64 [m, 4]: left, top, width and height in pixels. `crowd` is bool [m].
    """

    names: Sequence[str]
    sizes: Sequence[Size | None]
    picture: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray
    crowd: np.ndarray


def checked_split(
    listed: Listed, labels: Path, where: PictureNames, notes: Notes
) -> DetectionSplit:
    """The pictures that exist and their objects, each once, with boxes clipped to the picture.

    What is left out or put right is noted. `labels` is the file that lists them. DataError if no
    picture exists.
    """
    found = where.locate(listed.names, notes)
    paths, place = _distinct(found, listed.names, notes)
    if not paths:
        raise DataError(
            f"none of the {len(found)} pictures that {labels} lists is there: the first is "
            f"{shown(listed.names[0])}, looked for in {where.places}"
        )
    picture = place[listed.picture]
    said = _said(listed.sizes, place, len(paths))
    sizes, stored = true_sizes(paths, said, _reach(picture, listed.boxes, said), notes)
    usable = np.array([size is not None for size in sizes])
    for i in np.flatnonzero(~usable):
        notes.add("pictures of unknown size that cannot be read, left out", paths[i], wrong=True)
    if not usable.any():
        raise DataError(f"no picture that {labels} lists can be read, such as {paths[0]}")
    paths = [path for path, use in zip(paths, usable, strict=True) if use]
    known = [size for size in sizes if size is not None]
    renumbered = np.append(np.where(usable, np.cumsum(usable) - 1, _NO_PICTURE), _NO_PICTURE)
    picture = renumbered[picture]  # its last place is that of _NO_PICTURE
    picture, objects = _sound(picture, listed, np.array(known), paths, notes)
    once = _once(picture, objects, paths, notes)
    return DetectionSplit(
        images=Files([Path(path) for path in paths]),
        sizes=tuple(known),
        objects=_by_picture(picture[once], objects.take(once), len(paths)),
        labels=str(labels),
        stored=stored,
    )


def across_splits(
    train: DetectionSplit, judging: Sequence[DetectionSplit], classes: Sequence[str],
    folder: Path, noted: Sequence[Finding],
) -> list[Finding]:  # fmt: skip
    """What only shows in whole splits: shared pictures, and what cannot be learned or judged.

    `folder` has the label files, and `noted` was found in single splits. DataError if there is
    nothing to learn.
    """
    if not _examples(train, len(classes)).sum():
        crowds = sum(len(objects.crowd) for objects in train.objects)
        part = os.path.relpath(train.labels, folder)
        reasons = [f"{f.what}: {f.count}, such as {f.example}" for f in noted if f.part == part]
        if crowds:
            reasons.insert(0, f"all {crowds} objects are marked as crowds (iscrowd)")
        raise DataError("; ".join([f"{train.labels} has no object to learn from", *reasons]))
    findings: list[Finding] = []
    seen: dict[tuple[str, str], str] = {}
    real = lru_cache(os.path.realpath)  # of folders, of which there are few
    for split in (train, *judging):
        part = os.path.relpath(split.labels, folder)
        notes = Notes(part)
        examples = _examples(split, len(classes))
        if not examples.sum():
            what = "pictures without a single object among them, which cannot score a network"
            notes.add(what, str(split.images.paths[0]), wrong=True, count=len(split))
        if split is train:
            for k in np.flatnonzero(examples == 0).tolist():
                notes.add("classes without an example to learn from", shown(classes[k]))
        for path in map(str, split.images.paths):
            directory, name = os.path.split(path)
            before = seen.setdefault((real(directory), name), part)
            if before != part:
                notes.add(f"pictures that {before} lists too", path, wrong=True)
        findings += notes.findings()
    return findings


def _examples(split: DetectionSplit, classes: int) -> np.ndarray:
    """How many objects of each class a split has, without crowds: int64 [classes]."""
    found = [objects.classes[~objects.crowd] for objects in split.objects]
    return np.bincount(np.concatenate(found), minlength=classes)


def _distinct(
    found: Sequence[str | None], names: Sequence[str], notes: Notes
) -> tuple[list[str], np.ndarray]:
    """The files that exist, each once, and the place of every listed picture among them."""
    places: dict[str, int] = {}
    place = np.full(len(found), _NO_PICTURE)
    first: dict[int, int] = {}
    for i, path in enumerate(found):
        if path is None:
            continue
        place[i] = places.setdefault(path, len(places))
        if first.setdefault(int(place[i]), i) != i:
            notes.add(
                "pictures listed more than once, read as one with the objects of all entries",
                shown(names[i]),
            )
    return list(places), place


def _said(sizes: Sequence[Size | None], place: np.ndarray, count: int) -> list[Size | None]:
    """The size that the labels give each file; None if they give none, or several."""
    said: list[Size | None] = [None] * count
    torn = set()
    for size, i in zip(sizes, place.tolist(), strict=True):
        if i == _NO_PICTURE or size is None:
            continue
        if said[i] not in (None, size):
            torn.add(i)
        said[i] = size
    for i in torn:
        said[i] = None
    return said


def _reach(picture: np.ndarray, boxes: np.ndarray, said: Sequence[Size | None]) -> np.ndarray:
    """How far down and to the right the boxes of each picture reach, float [n, 2].

    Boxes that do not fit the picture, whichever way it is turned, tell nothing and do not count.
    """
    longest = np.array([*(max(size) if size else np.inf for size in said), 0.0])
    with np.errstate(invalid="ignore", over="ignore"):
        ends = boxes[:, [1, 0]] + boxes[:, [3, 2]]
        fitting = (ends <= longest[picture][:, None] + 2).all(1)
    reach = np.zeros((len(said), 2))
    np.maximum.at(reach, picture[fitting], ends[fitting])
    return reach


def _corners(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)


def _sound(
    picture: np.ndarray, listed: Listed, shapes: np.ndarray, paths: Sequence[str], notes: Notes
) -> tuple[np.ndarray, Objects]:
    """The objects with at least a pixel of width and height in their picture, clipped to it.

    Returns the place of each object's picture too. `shapes`: float [n, 2], height and width.
    """
    there = picture != _NO_PICTURE
    picture, boxes = picture[there], listed.boxes[there]
    limits = shapes[picture][:, [1, 0, 1, 0]]
    with np.errstate(invalid="ignore", over="ignore"):
        corners = _corners(boxes)
        finite = np.isfinite(boxes).all(1) & np.isfinite(corners).all(1)
        empty = (boxes[:, 2:] <= 0).any(1)
        outside = (corners[:, :2] >= limits[:, :2]).any(1) | (corners[:, 2:] <= 0).any(1)
        shares = ((boxes >= 0) & (boxes <= 1)).all(1)
        clipped = np.clip(corners, 0, limits).astype(np.float32)
        thin = (clipped[:, 2:] - clipped[:, :2] < 1).any(1)
        reaching = (corners > limits + 1).any(1) | (corners < -1).any(1)
    left_out = np.zeros(len(boxes), bool)

    def note(what: str, which: np.ndarray) -> None:
        if which.any():
            i = int(np.flatnonzero(which)[0])
            numbers = ", ".join(f"{value:g}" for value in boxes[i])
            wrong = bool(which.mean() > _MOST)
            count = int(which.sum())
            notes.add(what, f"[{numbers}] in {paths[picture[i]]}", wrong=wrong, count=count)

    for what, odd in (
        (
            "boxes that are missing, or with a number that is missing or not finite, left out",
            ~finite,
        ),
        ("boxes of no size or a negative one, left out", empty),
        ("boxes whose numbers are shares of the picture and not pixels, left out", shares & thin),
        ("boxes outside their picture, left out", outside),
        ("boxes with less than a pixel in their picture, left out", thin),
    ):
        note(what, odd & ~left_out)
        left_out |= odd
    form = _other_form(boxes[finite], limits[finite, :2])
    if form:
        notes.add(
            f"boxes are read as left, top, width and height, but look like {form}",
            ", ".join(f"{value:g}" for value in boxes[finite][0]),
            wrong=True, count=int(finite.sum()),
        )  # fmt: skip
    note("boxes that reach out of their picture, clipped to it", reaching & ~left_out)
    objects = Objects(clipped, listed.classes[there], listed.crowd[there])
    return picture[~left_out], objects.take(~left_out)


def _other_form(boxes: np.ndarray, limits: np.ndarray) -> str | None:
    """The form in which these boxes are sound, if they are not as left, top, width and height.

    `limits` [m, 2] are the width and height of each box's picture.
    """

    def sound(left: np.ndarray, top: np.ndarray, right: np.ndarray, bottom: np.ndarray) -> float:
        low = (left >= -1) & (top >= -1) & (left < right) & (top < bottom)
        return float((low & (right <= limits[:, 0] + 1) & (bottom <= limits[:, 1] + 1)).mean())

    if len(boxes) < 2 or (boxes <= 1).all():
        return None
    a, b, c, d = boxes.T
    if sound(a, b, a + c, b + d) >= 0.75:
        return None
    for form, value in (
        ("left, top, right and bottom", sound(a, b, c, d)),
        ("left, right, top and bottom", sound(a, c, b, d)),
        ("centre, width and height", sound(a - c / 2, b - d / 2, a + c / 2, b + d / 2)),
    ):
        if value >= _FITTING:
            return form
    return None


def _once(
    picture: np.ndarray, objects: Objects, paths: Sequence[str], notes: Notes
) -> np.ndarray:  # fmt: skip
    """The places of the objects, without those that another one of their picture is equal to."""
    rows = np.column_stack([picture, objects.classes, objects.crowd, objects.boxes])
    # float32 holds the numbers of 16 million pictures; + 0 makes 0 of -0
    rows = rows.astype(np.float32) + 0
    weights = np.random.default_rng(0).integers(1, 2**63, rows.shape[1], np.uint64) | 1
    keys = rows.view(np.uint32) @ weights  # a sum of this kind is fast, and hardly ever the same
    _, first, back = np.unique(keys, return_index=True, return_inverse=True)
    again = first[back] != np.arange(len(keys))
    again &= (rows == rows[first[back]]).all(1)
    if again.any():
        notes.add(
            "objects that their picture has twice, with the same class and box, kept once",
            paths[picture[np.flatnonzero(again)[0]]],
            count=int(again.sum()),
        )
    return np.flatnonzero(~again)


def _by_picture(picture: np.ndarray, objects: Objects, count: int) -> tuple[Objects, ...]:
    """The objects of each picture, in the order in which the labels have them."""
    sorted_objects = objects.take(np.argsort(picture, kind="stable"))
    ends = np.cumsum(np.bincount(picture, minlength=count))
    return tuple(
        sorted_objects.take(slice(start, end))
        for start, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)
    )
