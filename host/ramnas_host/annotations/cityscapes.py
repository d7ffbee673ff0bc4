"""Reads a folder in the layout of Cityscapes: images with a class for every pixel, in splits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import msgspec

from ramnas_edge.vision.picture_files import pictures_below
from ramnas_host.annotations.json_file import JsonFile
from ramnas_host.annotations.label_check import (
    MOST,
    LabelsSeen,
    check_cityscapes_ids,
    label_findings,
    look_at_labels,
)
from ramnas_host.annotations.label_images import IDS, Colours
from ramnas_host.annotations.same_pictures import same_pictures
from ramnas_host.annotations.segmentation_data import (
    IGNORED,
    LabelTable,
    SegmentationData,
    SegmentationSplit,
)
from ramnas_host.data.findings import Finding, Notes
from ramnas_host.data.halves import halves
from ramnas_host.data.images import Files
from ramnas_host.data.paths import check_folder
from ramnas_models.errors import DataError

# The label ids that Cityscapes evaluates, in the order of their train ids (from its labels.py).
_CITYSCAPES = {
    "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17,
    "traffic light": 19, "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23,
    "person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28, "train": 31, "motorcycle": 32,
    "bicycle": 33,
}  # fmt: skip
_LABEL_IDS = range(34)  # all of them
_PICTURE = "_leftImg8bit"
# how the names of label images end, without the suffix
_LABELS, _TRAIN_LABELS = "_gtFine_labelIds", "_gtFine_labelTrainIds"


class _Label(msgspec.Struct):
    id: int
    trainId: int
    name: str | None = None
    color: object = None

    @property
    def ignored(self) -> bool:
        return self.trainId < 0 or self.trainId == IGNORED


class _ScenesFile(msgspec.Struct):
    licence: str = "as that of the images"


def load_cityscapes(folder: Path, *, every_label: bool = False) -> SegmentationData:
    """Read `leftImg8bit/<split>/**/*_leftImg8bit.png` and their `gtFine/..._gtFine_labelIds.png`.

    The suffixes may be those of other image formats. If no label image is named `_labelIds`, those
    named `_labelTrainIds` are read, whose ids are the classes. The classes are the 19 of
    Cityscapes, unless the folder has a `labels.json` that names others: a list of entries with
    `name`, `id` and `trainId`, where 255 or a negative number means ignored. val is the selection
    split and test the report split. Cityscapes itself publishes its test split without labels: if
    that is so, or if there is no test split, one half of val is the selection split and the other
    half the report split.

    Some label images of each split are looked at, or all of them with `every_label`, which shows
    whether their ids are those that are known. DataError names what is missing or wrong.
    """
    check_folder(folder, "give a folder in the format of Cityscapes")
    file = folder / "labels.json"
    own = file.exists()
    labels = _own_labels(file) if own else _cityscapes_labels()
    classes = tuple(str(label.name) for label in _kept(labels))
    # the published labels of Cityscapes' own test split are blank
    parts = ("train", "val", "test") if own else ("train", "val")
    splits, findings = _splits(folder, parts, labels)
    seen = {
        part: look_at_labels(split, len(split) if every_label else MOST)
        for part, split in splits.items()
    }
    if not own:
        check_cityscapes_ids(seen.values(), splits["train"], folder)
    if "test" in seen and seen["test"].pixels.any() and not seen["test"].present:
        what = "label images without any class, as in Cityscapes' own test split: it is not used"
        first = str(splits["test"].labels[0])
        findings.append(Finding("gtFine/test", what, len(splits["test"]), first))
        del splits["test"], seen["test"]
    train = splits["train"]
    findings += label_findings(seen, train.table, classes, str(file) if own else "Cityscapes")
    if "test" in splits:
        names, selection, report = ("val", "test"), splits["val"], splits["test"]
    else:
        names = ("val (selection)", "val (report)")
        selection, report = _halves(folder, splits["val"], seen["val"])
    findings += _copies(dict(zip(("train", *names), (train, selection, report), strict=True)))
    return SegmentationData(
        classes=classes,
        licence=_licence(folder),
        source=f"images of {folder.resolve().name}",
        train=train,
        selection=selection,
        report=report,
        findings=tuple(findings),
    )


def _splits(
    folder: Path, parts: Sequence[str], labels: Sequence[_Label]
) -> tuple[dict[str, SegmentationSplit], list[Finding]]:
    """The parts that have pictures, and what was left out; DataError without train or val."""
    truths = {part: _pictures(folder / "gtFine" / part) for part in parts}
    stems = [path.stem for paths in truths.values() for path in paths]
    ending, table = _LABELS, _table(labels)
    has_ids, has_train_ids = (
        any(stem.endswith(name) for stem in stems) for name in (_LABELS, _TRAIN_LABELS)
    )
    if has_train_ids and not has_ids:
        ending, table = _TRAIN_LABELS, LabelTable.of(range(len(_kept(labels))), [IGNORED])
    splits: dict[str, SegmentationSplit] = {}
    findings: list[Finding] = []
    for part in parts:
        split, found = _split(folder, part, truths[part], ending, table)
        findings += found
        if split:
            splits[part] = split
        elif part != "test":
            raise DataError(_no_pictures(folder, part))
    return splits, findings


def _pictures(folder: Path) -> list[Path]:
    return pictures_below(folder) if folder.is_dir() else []


def _split(
    folder: Path, part: str, truths: list[Path], ending: str, table: LabelTable
) -> tuple[SegmentationSplit | None, tuple[Finding, ...]]:
    """The pictures of a part with their label images among `truths`, and what was left out."""
    of_pictures, of_labels = folder / "leftImg8bit" / part, folder / "gtFine" / part
    named, others = _by_name(_pictures(of_pictures), of_pictures, _PICTURE)
    labels, _ = _by_name(truths, of_labels, ending)
    for name in named:
        if name not in labels:
            path = of_labels / f"{name}{ending}.png"
            beside = next((p for p in truths if str(p).startswith(f"{of_labels / name}_")), None)
            hint = f"; {beside.name} is no such file" if beside else ""
            raise DataError(
                f"{path} is missing: every image of {part} needs a label image, which has the id "
                f"of its class for each pixel{hint}"
            )
    notes, of_truths = Notes(f"leftImg8bit/{part}"), Notes(f"gtFine/{part}")
    what = f"pictures that are not named *{_PICTURE}, or are there twice, left out"
    for path in others if named else ():
        notes.add(what, str(path))
    for name, path in labels.items():
        if name not in named:
            of_truths.add("label images without a picture, left out", str(path))
    split = SegmentationSplit(
        Files(list(named.values())), tuple(labels[name] for name in named), table
    )
    return split if named else None, (*notes.findings(), *of_truths.findings())


def _by_name(paths: Iterable[Path], root: Path, ending: str) -> tuple[dict[str, Path], list[Path]]:
    """The files whose stem has this ending, by their path below `root` without it; the others."""
    found: dict[str, Path] = {}
    others = []
    for path in paths:
        name = path.relative_to(root).with_name(path.stem).as_posix()
        if not name.endswith(ending) or found.setdefault(name[: -len(ending)], path) is not path:
            others.append(path)
    return found, others


def _halves(
    folder: Path, val: SegmentationSplit, seen: LabelsSeen
) -> tuple[SegmentationSplit, SegmentationSplit]:
    """The halves of val for selection and for the report; both need an image to be judged by."""
    where, missing = str(folder / "leftImg8bit/val"), "a test split with labels"
    parts = halves([str(path) for path in val.images.paths], where, missing)
    for part, purpose in zip(parts, ("selection", "the report"), strict=True):
        if {*part.tolist()} <= {*seen.blank}:
            raise DataError(
                f"no label image that is for {purpose} has a class or can be read, such as "
                f"{val.labels[part[0]]}: mend the label images of val, or add {missing}"
            )
    selection, report = map(val.take, parts)
    return selection, report


def _no_pictures(folder: Path, part: str) -> str:
    missing = f"leftImg8bit/{part}/<city>/*{_PICTURE}.png"
    others = _pictures(folder / "leftImg8bit" / part)
    if others:
        return f"none of the {len(others)} pictures such as {others[0]} is named as in {missing}"
    return f"{folder} is not in the format of Cityscapes: it has no {missing}"


def _copies(splits: Mapping[str, SegmentationSplit]) -> Iterable[Finding]:
    """Pictures that are in two of the splits, which have the names that people know."""
    for first, second in combinations(splits, 2):
        pairs = same_pictures(splits[first].images.paths, splits[second].images.paths)
        if pairs:
            one, other = pairs[0]
            what = f"pictures that are in {first} too"
            yield Finding(
                f"leftImg8bit/{second}",
                what,
                len(pairs),
                f"{other} is the same as {one}",
                wrong=True,
            )


def _cityscapes_labels() -> list[_Label]:
    places = {identity: (k, name) for k, (name, identity) in enumerate(_CITYSCAPES.items())}
    return [_Label(i, *places.get(i, (IGNORED,))) for i in (*_LABEL_IDS, -1)]


def _own_labels(file: Path) -> list[_Label]:
    """The entries of a labels.json whose classes have the train ids 0, 1, 2 ..."""
    found = JsonFile(file, "a list of labels").read(list[_Label])
    kept = _kept(found)
    ids = [label.trainId for label in kept]
    if not kept or ids != list(range(len(kept))):
        at = next((k for k, train_id in enumerate(ids) if k != train_id), 0)
        shown = ", ".join(map(str, ids[max(0, at - 2) : at + 3])) or "missing"
        raise DataError(
            f"{file}: the trainIds must be 0, 1, 2 and so on, but are {'..., ' if at > 2 else ''}"
            f"{shown} ({IGNORED} and negative ones mean ignored)"
        )
    names: dict[str, int] = {}
    identities = {label.id: label for label in found if label.ignored}
    for label in kept:
        if not 0 <= label.id < IDS:
            raise DataError(f"{file}: id {label.id} of {label.name} is not between 0 and {IDS - 1}")
        if label.id in identities:
            raise DataError(
                f"{file}: id {label.id} is that of {identities[label.id].name} and of {label.name}"
            )
        if not label.name:
            raise DataError(f"{file}: the label with id {label.id} has no name")
        if label.name in names:
            raise DataError(
                f"{file}: {label.name} is the name of the ids {names[label.name]} and {label.id}"
            )
        identities[label.id], names[label.name] = label, label.id
    return found


def _kept(labels: Sequence[_Label]) -> list[_Label]:
    """The labels that are classes, in the order of their train ids."""
    return sorted((x for x in labels if not x.ignored), key=lambda label: label.trainId)


def _table(labels: Sequence[_Label]) -> LabelTable:
    """Which id stands for which class."""
    ids = [label.id for label in _kept(labels)]
    ignored: set[int] = set()
    for label in labels:
        # a negative id is stored without its sign: -1 is 255 in 8 bits and 65535 in 16
        ignored |= {label.id} if label.id >= 0 else {label.id % 256, label.id % IDS}
    return LabelTable.of(ids, [i for i in ignored - {*ids} if i < IDS], _colours(labels))


def _colours(labels: Sequence[_Label]) -> Colours:
    """The id of each colour; empty unless every class has a colour of its own."""
    found: dict[tuple[int, int, int], int] = {}
    for label in _kept(labels):
        colour = _colour(label)
        if colour is None or colour in found:
            return {}
        found[colour] = label.id
    for label in labels:
        colour = _colour(label)
        if colour is not None:
            found.setdefault(colour, label.id % IDS)
    return found


def _colour(label: _Label) -> tuple[int, int, int] | None:
    try:
        return msgspec.convert(label.color, tuple[int, int, int])
    except msgspec.ValidationError:
        return None


def _licence(folder: Path) -> str:
    """The licence in `scenes.json` beside the folder, if `ramnas scenes` made the folder."""
    file = folder.parent / "scenes.json"
    try:
        return msgspec.json.decode(file.read_bytes(), type=_ScenesFile).licence
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _ScenesFile().licence
