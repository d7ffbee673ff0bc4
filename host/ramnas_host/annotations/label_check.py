"""Label images and the ids that somebody listed -> whether the two belong together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ramnas_edge.board import cores
from ramnas_host.annotations.label_images import IDS
from ramnas_host.annotations.segmentation_data import IGNORED, LabelTable, SegmentationSplit
from ramnas_host.data.findings import Finding, Notes
from ramnas_models.errors import DataError, SourceError

MOST = 100  # label images of a split that are looked at
SOON = 2 * 10**8  # pixels of label images that are read in some 2 s on one processor
VOID = 255  # means "ignored" in most data sets, whether it is listed or not
SMALL = 0.01  # the share of pixels that ids may have by accident
# In Cityscapes 88 % of the pixels have one of the 19 classes. In label images with other ids, such
# as those of CamVid, it is a quarter.
_COVERED, _OF_LABELLED = 0.5, 0.8
_LAST_TRAIN_ID, _PERHAPS_TRAIN_ID = 18, 12
_SHOWN = 8


@dataclass(frozen=True)
class LabelsSeen:
    """What the label images of one split hold.

    `pixels` counts those of each id, int64 [IDS], and `present` are the classes that occur, in
    order. `blank` are the positions of label images that have no class or cannot be read, and
    `unreadable` says why. `first` has a label image for each id that occurs. `looked` of `count`
    were opened.
    """

    pixels: np.ndarray
    present: Sequence[int]
    blank: Sequence[int]
    first: Mapping[int, Path]
    unreadable: Sequence[str]
    looked: int
    count: int

    @property
    def sample(self) -> str:
        """How much was looked at, for people."""
        return f"{'all ' if self.looked == self.count else f'{self.looked} of '}{self.count}"

    def share(self, which: np.ndarray) -> float:
        """The share of all pixels that have one of the ids `which`, bool [IDS]."""
        return float(self.pixels[which].sum() / max(1, self.pixels.sum()))


def look_at_labels(split: SegmentationSplit, most: int = MOST) -> LabelsSeen:
    """Count the ids in up to `most` label images, evenly spread over the split.

    Every label image is looked at if these have no class at all, or if that is soon done.
    """
    index = np.linspace(0, len(split) - 1, min(most, len(split))).astype(int).tolist()
    pixels, blank, unreadable = np.zeros(IDS, np.int64), [], []
    first: dict[int, Path] = {}

    def counted(i: int) -> dict[int, int] | str:
        try:
            return split.label_counts(i)
        except SourceError as error:
            return str(error)

    with ThreadPoolExecutor(cores.usable()) as pool:  # Pillow decodes outside the GIL
        for i, found in zip(index, pool.map(counted, index), strict=True):
            if isinstance(found, str):
                unreadable.append(found)
                blank.append(i)
                continue
            if (split.table.classes[[*found]] == IGNORED).all():
                blank.append(i)
            for label, count in found.items():
                pixels[label] += count
                first.setdefault(label, split.labels[i])
    present = np.unique(split.table.classes[pixels > 0]).tolist()
    present = [k for k in present if k != IGNORED]
    soon = pixels.sum() / len(index) * len(split) <= SOON
    if len(index) < len(split) and (soon or not present):
        return look_at_labels(split, len(split))
    return LabelsSeen(pixels, present, blank, first, unreadable, len(index), len(split))


def check_cityscapes_ids(
    seen: Iterable[LabelsSeen], train: SegmentationSplit, folder: Path
) -> None:
    """DataError if label images have other ids than those of Cityscapes.

    Nobody has said what their ids mean, and most data sets count their classes from 0: some of
    those numbers would be taken for other classes and the rest would be ignored. The label images
    of `train` are named for what they should have: label ids, or train ids from 0 to 18.
    """
    table, train_ids = train.table, "TrainIds" in train.labels[0].stem
    parts = list(seen)
    pixels = sum((part.pixels for part in parts), np.zeros(IDS, np.int64))
    looked, count = sum(part.looked for part in parts), sum(part.count for part in parts)
    both = LabelsSeen(pixels, (), (), {}, (), looked, count)
    if not pixels.any():
        return  # no label image can be read
    known, void = table.classes != IGNORED, np.zeros(IDS, bool)
    void[VOID if pixels[VOID] else 0] = True
    covered, others = both.share(known), both.share(~table.listed)
    of_labelled = covered / max(1e-9, 1 - both.share(void))
    beyond = train_ids or bool(pixels[_LAST_TRAIN_ID + 1 : VOID].any())
    enough = of_labelled >= _OF_LABELLED or (beyond and covered >= _COVERED)
    if enough and others <= SMALL / 10:
        return
    numbers = np.flatnonzero(pixels)
    highest = max(numbers[numbers != VOID], default=0)
    hint = ""
    if not train_ids and _PERHAPS_TRAIN_ID <= highest <= _LAST_TRAIN_ID:
        hint = "; or, if they are Cityscapes' train ids, name the files *_gtFine_labelTrainIds.png"
    raise DataError(
        f"{folder / 'gtFine'}: the label images have {_ids(numbers)}. These are not the "
        f"{'train' if train_ids else 'label'} ids of Cityscapes: {100 * (1 - covered):.0f} % of "
        f"the pixels in {both.sample} label images would be ignored. Name the classes in "
        f'{folder / "labels.json"}, such as [{{"name": "road", "id": {numbers[0]}, "trainId": 0}}, '
        f"...]{hint}"
    )


def label_findings(
    seen: Mapping[str, LabelsSeen], table: LabelTable, classes: Sequence[str], origin: str
) -> tuple[Finding, ...]:
    """What is odd about the label images of each part, of which `train` comes first.

    `origin` lists the ids. DataError if a part has no label image that can be read, or no pixel
    with a class.
    """
    found: list[Finding] = []
    for part, labels in seen.items():
        notes = Notes(f"gtFine/{part}")
        for reason in labels.unreadable:
            notes.add("label images that cannot be read, left out", reason)
        if not labels.pixels.any():
            raise DataError(
                f"none of the {labels.count} label images of {part} can be read. The first: "
                f"{labels.unreadable[0]}"
            )
        if not labels.present:
            numbers = np.flatnonzero(labels.pixels)
            raise DataError(
                f"every pixel of the {labels.count} label images of {part} is ignored: they have "
                f"{_ids(numbers)}, and {origin} has a class for none of them"
            )
        _note_strays(notes, labels, table, origin)
        if len(labels.present) == 1:
            share = labels.share(table.classes == IGNORED)
            notes.add(
                "label images of one single class, so there is nothing to tell apart",
                f"{classes[labels.present[0]]} ({100 * share:.0f} % of the pixels are ignored)",
                wrong=part == "train", count=labels.looked,
            )  # fmt: skip
        found += notes.findings()
    return (*found, *_coverage(seen, classes))


def _note_strays(notes: Notes, labels: LabelsSeen, table: LabelTable, origin: str) -> None:
    """Note ids that occur but are not listed. Some pixels may have them by accident."""
    strays, void = (labels.pixels > 0) & ~table.listed, np.arange(IDS) == VOID
    for ids, usual in ((strays & ~void, False), (strays & void, True)):
        if not ids.any():
            continue
        share = labels.share(ids)
        first = int(np.flatnonzero(ids)[0])
        notes.add(
            f"pixels that are ignored, because {origin} does not list "
            f"{_ids(np.flatnonzero(ids))} ({_percent(share)} of the pixels in {labels.sample} "
            "label images)",
            str(labels.first[first]), wrong=not usual and share > SMALL,
            count=int(labels.pixels[ids].sum()),
        )  # fmt: skip


def _coverage(seen: Mapping[str, LabelsSeen], classes: Sequence[str]) -> Iterable[Finding]:
    """Classes that are in no label image of train, if all of them were looked at."""
    train, *others = seen
    notes = Notes(f"gtFine/{train}")
    for k, name in enumerate(classes):
        judged = [part for part in others if k in seen[part].present]
        if seen[train].looked == seen[train].count and k not in seen[train].present:
            though = f", though those of {' and '.join(judged)} do" if judged else ""
            notes.add(f"classes that no label image has{though}", name, wrong=bool(judged))
    return notes.findings()


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.001 else "less than 0.1 %"


def _ids(numbers: np.ndarray) -> str:
    """`id 7` or `ids 0 to 11, 255`, from ascending numbers."""
    groups = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    words = [str(g[0]) if len(g) == 1 else f"{g[0]} to {g[-1]}" for g in groups]
    if len(words) > _SHOWN:
        words[_SHOWN - 1 : -1] = ["..."]
    return f"{'id' if len(numbers) == 1 else 'ids'} {', '.join(words)}"
