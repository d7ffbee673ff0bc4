"""Reads the data sets that a recipe can name, from files or a folder, and splits them."""

from __future__ import annotations

import dataclasses
import gzip
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from ramnas_edge.vision.preprocessing import IMAGE_SUFFIXES
from ramnas_host.config import Recipe, SplitSizes, load_recipe
from ramnas_host.data.about import About
from ramnas_host.data.images import Arrays, Dataset, Files, Split
from ramnas_host.data.paths import scan
from ramnas_models.bundle import Preprocessing
from ramnas_models.errors import DataError
from ramnas_models.onnx_graph import Normalisation

DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")


def load_dataset(name: str, images: SplitSizes, folder: Path | None = None) -> Dataset:
    """Read a data set by name; DataError says what is missing.

    `digits` needs no `folder`, and `fashion` has a default one. `images` says how many images go to
    each split. Nothing else decides the splits, so a supernet is never searched on images that
    trained it.
    """
    if name not in _READERS:
        known = ", ".join(_READERS)
        raise DataError(f"unknown data set '{name or 'none'}': known are {known}")
    return _READERS[name](images, folder)


def dataset_of(about: About, folder: Path | None = None) -> Dataset:
    """The data set that a supernet was trained on, in the same splits.

    Imported weights have no recipe. They were trained on all of ImageNet's train/, so nothing may
    be chosen or reported there. `folder` must hold ImageNet: one half of its val/ is the selection
    split and the other half is the report split.
    """
    recipe = recipe_of(about)
    if about.recipe:
        found = load_dataset(recipe.dataset, recipe.images, folder)
    else:
        images = SplitSizes(train=0, selection=0, calibration=0)
        found = load_dataset(recipe.dataset, images, folder)
        found = _trained_elsewhere(found, folder, recipe.images.calibration)
    if len(found.classes) != len(about.classes):
        raise DataError(
            f"{folder} has {len(found.classes)} classes, but the supernet was trained on "
            f"{len(about.classes)}: give the data set that it was trained on"
        )
    return found


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
        findings=(),
        **{part: whole.take(taken) for part, taken in index.items()},
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
    return Dataset(
        name="fashion",
        classes=(
            "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
            "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
        ),
        licence="MIT",
        source="Fashion-MNIST, Zalando SE (2017)",
        report=parts["test"],
        findings=(),
        **_held_out(parts["train"], images, folder),
    )  # fmt: skip


def _imagenet(images: SplitSizes, folder: Path | None) -> Dataset:
    """A folder in the layout of ImageNet: `train/<class>/*` and `val/<class>/*`."""
    if folder is None:
        raise DataError("data set imagenet needs --data DIR with train/<class>/ and val/<class>/")
    classes = _subfolders(folder / "train")
    # as in the evaluation of the public AttentiveNAS code: a crop of 224, then the network's own
    # resolution
    preprocessing = Preprocessing(Normalisation(), "bicubic", resize_short=256, crop=224)
    if extra := set(_subfolders(folder / "val")) - set(classes):
        raise DataError(
            f"{folder / 'val'} has classes that are missing from train, such as {min(extra)}"
        )
    return Dataset(
        name="imagenet",
        classes=classes,
        licence="as that of the images",
        source=f"images of {folder.resolve().name}",
        report=_of_classes(folder / "val", classes, preprocessing),
        findings=(),
        **_held_out(_of_classes(folder / "train", classes, preprocessing), images, folder),
    )


_READERS: dict[str, Callable[[SplitSizes, Path | None], Dataset]] = {
    "digits": _digits,
    "fashion": _fashion,
    "imagenet": _imagenet,
}


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


def _held_out(labelled: Split, images: SplitSizes, folder: Path) -> dict[str, Split]:
    """Split `labelled` into selection and training, and take calibration out of training.

    The calibration images stay in training: BatchNorm takes its statistics from images that the
    weights were trained on, as in the public AttentiveNAS code.
    """
    order = np.random.default_rng(0).permutation(len(labelled))
    selection, train = np.split(order, [images.selection])
    train = train[: images.train or None]
    if len(train) < max(1, images.calibration):
        raise DataError(
            f"{folder} has {len(labelled)} training images, too few for images.selection "
            f"{images.selection}, images.calibration {images.calibration} and images.train "
            f"{images.train or 'all'}: lower these in the recipe"
        )
    index = {
        "train": train,
        "calibration": train[: images.calibration],
        "selection": selection,
    }
    return {part: labelled.take(chosen) for part, chosen in index.items()}


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


def _subfolders(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: a data set like ImageNet has train/ and val/")
    names = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir()))
    if not names:
        raise DataError(f"{folder} has no subfolders: it needs one for each class")
    return names


def _of_classes(folder: Path, classes: tuple[str, ...], preprocessing: Preprocessing) -> Split:
    """All image files in `folder/<class>/`, class by class, in the order of their names."""
    paths, labels = scan(folder, classes)
    if not paths:
        raise DataError(f"{folder} has no images ({', '.join(IMAGE_SUFFIXES)})")
    return Split(Files(paths), torch.from_numpy(labels), preprocessing)
