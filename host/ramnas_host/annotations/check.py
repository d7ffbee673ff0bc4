"""A data set as its reader gives it -> counts and findings, by looking at every picture once."""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np

from ramnas_edge.board import cores
from ramnas_edge.vision.picture_files import is_picture
from ramnas_host.annotations.detection_data import DetectionData, DetectionSplit
from ramnas_host.annotations.segmentation_data import IGNORED, SegmentationData, SegmentationSplit
from ramnas_host.data.findings import Finding, Notes
from ramnas_host.data.images import Arrays, Dataset, Files, Split
from ramnas_models.accuracy import wilson
from ramnas_models.errors import SourceError

Data = DetectionData | SegmentationData | Dataset
AnySplit = DetectionSplit | SegmentationSplit | Split

PARTS = ("train", "selection", "report")
FEW_TO_LEARN = 10  # pictures of a class
FEW_TO_JUDGE = 30  # pictures of a split; with fewer, 95 % intervals are some 35 points wide
TINY = 0.02  # of the picture's side; at an input size of 320 such an object has six pixels
FLAT = 16  # of 255 steps; the colours of a picture that differ less are nearly one
_MANY = 0.5  # of the pictures of a split
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # as in glibc's malloc.h
_ONE_COLOUR = "pictures of nearly a single colour"


@dataclass(frozen=True)
class Part:
    """What one split holds, counted over the pictures that can be read.

    `objects` and `pictures_with` have a number for each class: of objects for detection, of pixels
    for segmentation and of pictures for classification; and of the pictures that have the class.
    `empty` pictures have no class at all. `sizes`: the (width, height) of the smallest, the median
    and the largest picture by area; empty if no picture can be read.
    """

    name: str
    pictures: int
    unreadable: int
    empty: int
    objects: tuple[int, ...]
    pictures_with: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Checked:
    """A whole data set: its classes, its parts, and everything that was noticed."""

    classes: tuple[str, ...]
    parts: tuple[Part, ...]
    findings: tuple[Finding, ...]

    @property
    def wrong(self) -> bool:
        """Whether a network trained on the data would be wrong, or would be judged wrongly."""
        return any(finding.wrong for finding in self.findings)


@dataclass(frozen=True)
class _Seen:
    """What is known of one picture; `fault` says why it cannot be used."""

    name: str
    digest: bytes = b""
    size: tuple[int, int] = (0, 0)
    counts: tuple[int, ...] = ()
    notes: tuple[tuple[str, str], ...] = ()  # (what, example)
    fault: str = ""


def keep_freed_memory() -> None:
    """Have this process keep the memory of a picture for the next one, where its libc is glibc.

    glibc gives large blocks back to the system, which has to clear them each time. For pictures of
    1920x1080 that takes nearly as long as to decode them.
    """
    with suppress(OSError, AttributeError):  # another libc
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**29)


def check(data: Data, on_picture: Callable[[], None] = lambda: None) -> Checked:
    """Look at every picture of `data` with its labels.

    `on_picture` is called for each one. The findings of the reader come first, then those of the
    parts, and at last those that a comparison of parts shows.
    """
    findings = list(data.findings)
    parts: list[Part] = []
    seen: dict[str, list[_Seen]] = {}
    with ThreadPoolExecutor(cores.usable()) as pool:  # OpenCV works outside the GIL
        for name in PARTS:
            split = getattr(data, name)
            seen[name] = []
            for picture in pool.map(partial(_look, split, len(data.classes)), range(len(split))):
                seen[name].append(picture)
                on_picture()
            part, found = _summary(name, seen[name], len(data.classes))
            parts.append(part)
            findings += found
    if isinstance(data, DetectionData):
        findings += _unlisted(seen)
    findings += _copies(seen, data)
    findings += _coverage(parts, data.classes)
    return Checked(data.classes, tuple(parts), tuple(findings))


def picture_and_labels(split: AnySplit, index: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture, uint8 [h, w, 3] in BGR, and how often it has each class, int64 [up to classes].

    SourceError if the picture or its label image cannot be used.
    """
    if isinstance(split, DetectionSplit):
        objects = split.objects[index]
        return split.read(index), np.bincount(objects.classes[~objects.crowd])
    if isinstance(split, SegmentationSplit):
        image, classes = split.read(index)
        return image, np.bincount(classes[classes != IGNORED])
    return split.images[index], np.bincount(split.labels[index : index + 1].numpy())


def _look(split: AnySplit, classes: int, index: int) -> _Seen:
    name = split.images.name(index)
    try:
        image, found = picture_and_labels(split, index)
        content = _content(split.images, index)
    except (SourceError, OSError) as error:
        return _Seen(name, fault=str(error))
    counts = np.zeros(classes, np.int64)
    counts[: len(found)] = found
    notes = [(what, name) for what in _left_out_of_png(content)]
    if _nearly_one_colour(image):
        notes.append((_ONE_COLOUR, name))
    if isinstance(split, DetectionSplit):
        notes += _odd_boxes(split, index, name)
    height, width = image.shape[:2]
    digest = hashlib.blake2b(content, digest_size=16).digest()
    return _Seen(name, digest, (width, height), tuple(counts.tolist()), tuple(notes))


def _nearly_one_colour(image: np.ndarray) -> bool:
    """Whether it shows next to nothing, as with a covered lens, or with 12 bits in a PNG of 16."""

    def flat(pixels: np.ndarray) -> bool:
        return bool((np.ptp(pixels.reshape(-1, 3), axis=0) < FLAT).all())

    return flat(image[::16, ::16]) and flat(image)  # the first is soon done, and mostly enough


def _content(images: Arrays | Files, index: int) -> bytes:
    """The bytes of the file, or the pixels."""
    if isinstance(images, Arrays):
        return np.ascontiguousarray(images.pixels[index]).tobytes()
    return images.paths[index].read_bytes()


def _left_out_of_png(content: bytes) -> Iterator[str]:
    """What a PNG file has that is not read, as its header (IHDR) tells."""
    if content.startswith(b"\x89PNG") and len(content) > 25:
        bits, colour_type = content[24], content[25]
        if bits == 16:
            yield "pictures with 16 bits per channel, of which the upper 8 are read"
        if colour_type in (4, 6):
            yield "pictures with transparency, which is left out: hidden colours show"


def _odd_boxes(split: DetectionSplit, index: int, name: str) -> list[tuple[str, str]]:
    objects = split.objects[index]
    height, width = split.sizes[index]
    sides = (objects.boxes[:, 2:] - objects.boxes[:, :2]) / (width, height)
    shares = sides.prod(1)
    notes = [("objects smaller than 2 % of the picture's side", name)] * int(
        (np.sqrt(shares) < TINY).sum()
    )
    notes += [("boxes that cover the whole picture", name)] * int((shares > 0.99).sum())
    crowds = "objects marked as crowds (iscrowd), which are neither examples nor background"
    notes += [(crowds, name)] * int(objects.crowd.sum())
    return notes


def _summary(name: str, seen: Sequence[_Seen], classes: int) -> tuple[Part, tuple[Finding, ...]]:
    notes = Notes(name)
    usable = [picture for picture in seen if not picture.fault]
    for picture in seen:
        if picture.fault:
            notes.add("pictures that cannot be used", picture.fault, wrong=True)
    odd = Counter(what for picture in usable for what, _ in picture.notes)
    for picture in usable:
        for what, example in picture.notes:
            many = what == _ONE_COLOUR and odd[what] > _MANY * len(usable)
            notes.add(what, example, wrong=many)
    counts = np.array([picture.counts for picture in usable], np.int64).reshape(-1, classes)
    empty = np.flatnonzero(counts.sum(1) == 0)
    if name != "train" and len(usable) < FEW_TO_JUDGE:
        low, high = (100 * edge for edge in wilson(0.5, max(1, len(usable))))
        notes.add(
            f"pictures, so few that an accuracy of 50 % could be {low:.0f} or {high:.0f} %", "",
            count=len(usable),
        )  # fmt: skip
    sizes = sorted((picture.size for picture in usable), key=lambda size: size[0] * size[1])
    part = Part(
        name=name,
        pictures=len(usable),
        unreadable=len(seen) - len(usable),
        empty=len(empty),
        objects=tuple(counts.sum(0).tolist()),
        pictures_with=tuple((counts > 0).sum(0).tolist()),
        sizes=(sizes[0], sizes[len(sizes) // 2], sizes[-1]) if sizes else (),
    )
    return part, notes.findings()


def _unlisted(seen: Mapping[str, Sequence[_Seen]]) -> Iterable[Finding]:
    """Pictures beside those of the label files. Some tools do not list pictures without objects."""
    listed: dict[str, set[str]] = {}
    for picture in chain.from_iterable(seen.values()):
        folder, name = os.path.split(picture.name)
        listed.setdefault(folder, set()).add(name)
    for folder, names in listed.items():
        beside = [n for n in os.listdir(folder) if is_picture(n) and n not in names]
        if beside:
            what = "pictures that no label file lists, left out; if nothing is on them, list them"
            yield Finding(folder, what, len(beside), min(beside))


def _copies(seen: Mapping[str, Sequence[_Seen]], data: Data) -> Iterable[Finding]:
    """Files with the same bytes: in two parts, with two classes, or twice in one part.

    The reader of label images has compared the parts already.
    """
    notes = {part: Notes(part) for part in seen}
    first: dict[bytes, tuple[str, _Seen]] = {}
    for part, pictures in seen.items():
        for picture in pictures:
            if picture.fault:
                continue
            before, other = first.setdefault(picture.digest, (part, picture))
            if other is picture:
                continue
            example = f"{picture.name} is the same as {other.name}"
            if isinstance(data, Dataset) and other.counts != picture.counts:
                notes[part].add("pictures that have another class too", example, wrong=True)
            elif before == part:
                notes[part].add("pictures that are there twice", example)
            elif not isinstance(data, SegmentationData):
                notes[part].add(f"pictures that are in {before} too", example, wrong=True)
    return [finding for of_part in notes.values() for finding in of_part.findings()]


def _coverage(parts: Sequence[Part], classes: Sequence[str]) -> Iterable[Finding]:
    """Classes that a part lacks or has too few pictures of, and whether train is large."""
    train, *others = parts
    notes = {part.name: Notes(part.name) for part in parts}
    for k, name in enumerate(classes):
        learned = train.pictures_with[k]
        judged = [part for part in others if part.pictures_with[k]]
        if not learned and judged and train.pictures:
            having = " and ".join(part.name for part in judged)
            verb = "has" if len(judged) == 1 else "have"
            what = f"classes without a picture, though {having} {verb} some"
            notes["train"].add(what, name, wrong=True)
        elif 0 < learned < FEW_TO_LEARN:  # the readers say it of those that no picture has
            notes["train"].add(f"classes with fewer than {FEW_TO_LEARN} pictures", name)
        for part in others:
            if learned and part.pictures > part.empty and not part.pictures_with[k]:
                notes[part.name].add("classes without a picture, which it does not judge", name)
    for part in others:
        if part.pictures >= 2 * train.pictures > 0:
            what = "at least twice as many pictures as in train; perhaps the two were exchanged"
            notes[part.name].add(what, "", count=part.pictures)
    return [finding for of_part in notes.values() for finding in of_part.findings()]
