"""Reads the data sets that a recipe can name, from files or a folder, and splits them."""

from __future__ import annotations

import dataclasses
import gzip
import logging
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from ramnas_host.config import Recipe, SplitSizes, load_recipe
from ramnas_host.data.about import About
from ramnas_host.data.class_folders import (
    listing_of,
    load_class_folders,
    read_class_folders,
    train_folder,
    val_folder,
)
from ramnas_host.data.class_names import in_order
from ramnas_host.data.findings import Notes
from ramnas_host.data.images import Arrays, Dataset, Split
from ramnas_host.data.paths import (
    list_classes,
)
from ramnas_models.bundle import Preprocessing
from ramnas_models.errors import DataError
from ramnas_models.onnx_graph import Normalisation

log = logging.getLogger(__name__)

DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")


def load_dataset(
    name: str, images: SplitSizes, folder: Path | None = None,
    preprocessing: Preprocessing | None = None,
) -> Dataset:  # fmt: skip
    """Read a data set by name; DataError says what is missing.

    `preprocessing` is that of the weights which the images are for. None is the data set's own, for
    weights that are trained on it from the start.

    `digits` takes no `folder`, and `fashion` has a default one. `images` says how many images go to
    each split. Nothing else decides the splits, so a supernet is never searched on images that
    trained it.
    """
    if name not in _READERS:
        known = ", ".join(_READERS)
        raise DataError(f"unknown data set '{name or 'none'}': known are {known}")
    found = _READERS[name](images, folder)
    return _prepared(found, preprocessing) if preprocessing else found


def dataset_of(about: About, folder: Path | None = None) -> Dataset:
    """The data set that a supernet was trained on, in the same splits.

    Imported weights have no recipe. They were trained on all of ImageNet's train/, so nothing may
    be chosen or reported there. `folder` must hold ImageNet: one half of its val/ is the selection
    split and the other half is the report split. Images are prepared as the weights want them.

    DataError if `folder` has other classes, or other training images, than the data set that the
    supernet was trained on: the splits would be others, and images that have trained the weights
    would be among those for selection.
    """
    recipe = recipe_of(about)
    if about.recipe:
        found = load_dataset(recipe.dataset, recipe.images, folder, about.preprocessing)
    else:
        images = SplitSizes(train=0, selection=0, calibration=0)
        found = load_dataset(recipe.dataset, images, folder, about.preprocessing)
        found = _trained_elsewhere(found, folder, recipe.images.calibration)
    if len(found.classes) != len(about.classes):
        raise DataError(
            f"{folder} has {len(found.classes)} classes, but the supernet was trained on "
            f"{len(about.classes)}: give the data set that it was trained on"
        )
    if about.recipe and (other := set(found.classes) - set(about.classes)):
        raise DataError(
            f"{folder} has the class '{min(other)}', which the supernet was not trained on: give "
            "the data set that it was trained on"
        )
    if about.listing and about.listing != found.listing:
        raise DataError(
            f"{folder} has {_other(recipe)} than when the supernet was trained, so images that "
            "have trained its weights would be among those for selection: give the folder as it "
            "was then"
        )
    return _with_places(found, about.classes)


def dataset_to_finetune(about: About, folder: Path | None) -> Dataset:
    """What a classifier that is cut out of a supernet is trained on.

    That is the data set of the supernet, in the same splits, if `folder` is None or holds it. Any
    other folder is read by `load_class_folders`, with the supernet's preprocessing.
    """
    if folder is None or trained_on(about, folder):
        return dataset_of(about, folder)
    recipe = recipe_of(about)
    if recipe.dataset in _IN_FOLDERS and not val_folder(folder).is_dir():
        known = set(about.classes) & set(list_classes(train_folder(folder), Notes("")))
        if known:
            raise DataError(
                f"{folder} has no val/, and images of train/ cannot stand in for it: the supernet "
                f"was trained on the class '{min(known)}' too, perhaps on the same images"
            )
    return load_class_folders(folder, about.preprocessing, recipe.images.calibration)


def trained_on(about: About, folder: Path) -> bool:
    """Whether `folder` holds the data set that a supernet was trained on, with the same images."""
    name = recipe_of(about).dataset
    if name == "imagenet":
        found = list_classes(train_folder(folder), Notes(""))
        if not about.recipe:  # imported weights name the classes in another way
            return len(found) == len(about.classes)
        return tuple(found) == about.classes and about.listing in ("", listing_of(found))
    if name == "folder":
        return load_class_folders(folder).listing == about.listing
    return name == "fashion" and not (folder / "train").is_dir()


def recipe_of(about: About) -> Recipe:
    """The recipe by which a supernet was trained; the recipe `imagenet` for imported weights."""
    if not about.recipe:
        return load_recipe("imagenet")
    try:
        return msgspec.convert(_renamed(msgspec.json.decode(about.recipe)), Recipe)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise DataError(
            f"the supernet was trained by another version of ramnas, whose recipe this one cannot "
            f"read: {error}"
        ) from error


def _renamed(recipe: dict[str, Any]) -> dict[str, Any]:
    """A stored recipe with today's names: the selection split was once called validation."""
    names = {"validation": "selection"}
    images = {names.get(key, key): value for key, value in recipe.get("images", {}).items()}
    return {**recipe, "images": images}


def _digits(images: SplitSizes, folder: Path | None) -> Dataset:
    """UCI's optical recognition of handwritten digits, as scikit-learn ships it."""
    if folder is not None:
        raise DataError(
            f"the data set digits comes with scikit-learn and is not read from a folder: leave "
            f"--data {folder} out, or name another data set"
        )
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    grey = (pixels.reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8)
    # ink covers about 30 % of a digit; the images are grey, so all channels have the same figures
    norm = Normalisation(mean=(0.3, 0.3, 0.3), std=(0.38, 0.38, 0.38), channels="bgr")
    whole = Split(Arrays(grey), torch.from_numpy(labels.astype(np.int64)), Preprocessing(norm))
    index = {}
    rest = np.arange(len(labels))
    sizes = (("report", 250), ("selection", images.selection), ("calibration", images.calibration))
    for part, size in sizes:
        if not 10 <= size <= len(rest) - 10:  # at least one image per class on either side
            raise DataError(
                f"digits: images.{part} must be between 10 and {len(rest) - 10}, but is {size}"
            )
        rest, taken = train_test_split(rest, test_size=size, random_state=0, stratify=labels[rest])
        index[part] = taken
    return Dataset(
        name="digits",
        classes=tuple(str(i) for i in range(10)),
        licence="CC-BY-4.0",
        source="UCI optical recognition of handwritten digits (test part), through scikit-learn",
        train=whole.take(rest[: images.train or None]),
        calibration=whole.take(index["calibration"]),
        selection=whole.take(index["selection"]),
        report=whole.take(index["report"]),
    )


def _fashion(images: SplitSizes, folder: Path | None) -> Dataset:
    """Fashion-MNIST (Xiao et al. 2017) from its four IDX files, gzipped or not."""
    folder = folder or DEBIAN_FASHION
    norm = Normalisation(mean=(0.286,) * 3, std=(0.353,) * 3, channels="bgr")
    preprocessing = Preprocessing(norm)
    parts = {}
    for part, prefix in (("train", "train"), ("test", "t10k")):
        pixels = _read_idx(folder, f"{prefix}-images-idx3-ubyte", 3)
        labels = _read_idx(folder, f"{prefix}-labels-idx1-ubyte", 1)
        if len(pixels) != len(labels):
            raise DataError(
                f"{folder}: the {prefix} files hold {len(pixels)} images but {len(labels)} labels"
            )
        if labels.max(initial=0) > 9:
            raise DataError(
                f"{folder}: {prefix} has a label {labels.max()}, but the classes are 0 to 9"
            )
        targets = torch.from_numpy(labels.astype(np.int64))
        parts[part] = Split(Arrays(pixels), targets, preprocessing)
    train, calibration, selection = _held_out(parts["train"], images, folder)
    return Dataset(
        name="fashion",
        classes=(
            "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
            "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
        ),
        licence="MIT",
        source="Fashion-MNIST, Zalando SE (2017)",
        train=train,
        calibration=calibration,
        selection=selection,
        report=parts["test"],
    )  # fmt: skip


def _imagenet(images: SplitSizes, folder: Path | None) -> Dataset:
    """A folder in the layout of ImageNet: `train/<class>/*` and `val/<class>/*`."""
    if folder is None:
        raise DataError("data set imagenet needs --data DIR with train/<class>/ and val/<class>/")
    # as in the evaluation of the public AttentiveNAS code: a crop of 224, then the network's own
    # resolution
    preprocessing = Preprocessing(Normalisation(), "bicubic", resize_short=256, crop=224)
    val = val_folder(folder)
    found = read_class_folders(folder, [val], preprocessing)
    train, calibration, selection = _held_out(found.splits["train"], images, folder)
    return Dataset(
        name="imagenet",
        classes=found.classes,
        licence="as that of the images",
        source=f"images of {folder.resolve().name}",
        train=train,
        calibration=calibration,
        selection=selection,
        report=found.splits[val.name],
        findings=found.findings,
        listing=found.listings["train"],
    )


def _folder(images: SplitSizes, folder: Path | None) -> Dataset:
    """Any labelled folder: `train/<class>/*`, and perhaps `val/<class>/*` and `test/<class>/*`.

    Its own folders divide it, so `images` only says how many are for BatchNorm.
    """
    if folder is None:
        raise DataError(
            "data set folder needs --data DIR with train/<class>/, and val/<class>/ if there is one"
        )
    preprocessing = Preprocessing(Normalisation(), "bicubic", margin=32)
    found = load_class_folders(folder, preprocessing, images.calibration)
    return dataclasses.replace(found, name="folder")


_READERS: dict[str, Callable[[SplitSizes, Path | None], Dataset]] = {
    "digits": _digits,
    "fashion": _fashion,
    "imagenet": _imagenet,
    "folder": _folder,
}
_IN_FOLDERS = ("imagenet", "folder")  # those whose images are files in folders of their classes


def _other(recipe: Recipe) -> str:
    """What another `listing` says about a folder, for messages."""
    if recipe.dataset == "folder":
        return "other images in train/ or val/, or another choice of val/ and test/,"
    return "other images in train/"


def _prepared(dataset: Dataset, preprocessing: Preprocessing) -> Dataset:
    """The data set with images that are prepared by `preprocessing` in every split."""

    def prepared(split: Split) -> Split:
        return Split(split.images, split.labels, preprocessing)

    return _mapped(dataset, prepared)


def _mapped(dataset: Dataset, change: Callable[[Split], Split]) -> Dataset:
    """The data set with `change` applied to each split."""
    return dataclasses.replace(
        dataset, train=change(dataset.train), calibration=change(dataset.calibration),
        selection=change(dataset.selection), report=change(dataset.report),
    )  # fmt: skip


def _with_places(dataset: Dataset, classes: tuple[str, ...]) -> Dataset:
    """The data set with every class in the place that it has in `classes`, as far as it is known.

    A class is known by its name, or by its number in the folders of ImageNetV2, which are called
    0 to 999. ImageNet's own folders are in the order of its classes.
    """
    named = set(dataset.classes) == set(classes)
    order = list(classes) if named else in_order(dataset.classes)
    place = torch.tensor([order.index(name) for name in dataset.classes])

    def placed(split: Split) -> Split:
        return Split(split.images, place[split.labels], split.preprocessing)

    return _mapped(dataclasses.replace(dataset, classes=tuple(order)), placed)


def _trained_elsewhere(dataset: Dataset, folder: Path | None, calibration: int) -> Dataset:
    """The data set for weights that have seen all training images: val/ makes both other splits.

    Every second image of val/ is for selection and the others are for the report. The images are
    in the order of their classes, so both halves have as many of each class, give or take one.
    `calibration` images of train/ are for BatchNorm, or all of them if there are fewer: such
    weights have no recipe in which the number could be lowered.
    """
    whole = dataset.report
    if len(whole) < 2:
        raise DataError(
            f"{folder} has one image in val/; imported weights need two or more, because one half "
            "is for the search and the other for the report"
        )
    places = np.arange(len(whole))
    return dataclasses.replace(
        dataset,
        calibration=dataset.train.take(np.arange(min(calibration, len(dataset.train)))),
        selection=whole.take(places[::2]),
        report=whole.take(places[1::2]),
    )


def _held_out(whole: Split, images: SplitSizes, folder: Path) -> tuple[Split, Split, Split]:
    """Training, calibration and selection images: selection is held out of `whole`.

    The calibration images stay in training: BatchNorm takes its statistics from images that the
    weights were trained on, as in the public AttentiveNAS code.
    """
    order = np.random.default_rng(0).permutation(len(whole))
    selection, train = np.split(order, [images.selection])
    train = train[: images.train or None]
    if len(train) < max(1, images.calibration):
        raise DataError(
            f"{folder} has {len(whole)} training images, too few for images.selection "
            f"{images.selection}, images.calibration {images.calibration} and images.train "
            f"{images.train or 'all'}: lower these in the recipe"
        )
    return whole.take(train), whole.take(train[: images.calibration]), whole.take(selection)


def _read_idx(folder: Path, name: str, dimensions: int) -> np.ndarray:
    """Read an IDX file of unsigned bytes (LeCun's format) as a uint8 array of `dimensions`."""
    path = folder / name
    if not path.exists():
        path = folder / f"{name}.gz"
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except FileNotFoundError as error:
        raise DataError(
            f"{folder} has neither {name} nor {name}.gz: install Debian's package "
            f"dataset-fashion-mnist, which puts them into {DEBIAN_FASHION}, or give their folder "
            "with --data"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    # the header: two zero bytes, the type (8 for unsigned bytes), the number of dimensions, then
    # the size of each dimension as a big-endian uint32
    head = 4 + 4 * dimensions
    if data[:4] != bytes((0, 0, 8, dimensions)) or len(data) < head:
        raise DataError(f"{path} is not an IDX file of unsigned bytes with {dimensions} dimensions")
    shape = np.frombuffer(data, ">u4", dimensions, 4)
    if len(data) - head != shape.prod(dtype=np.int64):
        raise DataError(
            f"{path} has the wrong length: {len(data) - head} bytes for shape {shape.tolist()}"
        )
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)
