"""A folder of pictures -> a split of them, with labels by the names of folders and files."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch

from ramnas_edge.vision.picture_files import is_by_product
from ramnas_edge.vision.sources import list_images
from ramnas_host.data.class_names import class_name, folder_names, in_order
from ramnas_host.data.images import Files, Split
from ramnas_models import imagenet
from ramnas_models.bundle import Preprocessing
from ramnas_models.errors import DataError

_SYNSET = re.compile(r"n\d{8}(?=_|\W|$)")  # the number of a WordNet noun, as ImageNet has them


def load_folder(
    folder: Path, classes: Sequence[str], preprocessing: Preprocessing, most: int
) -> Split:
    """Up to `most` images from anywhere below `folder`, taken at even distances.

    The label comes from the outermost folder below `folder` that has the name of a class, as
    `write_image_folder` writes it, or for ImageNet's classes their number in WordNet, such as
    n01440764. The name of a file may begin with that number too, as in n01440764_tench.JPEG. If
    some subfolders do not have such names, but all are as many as the classes, they stand for the
    classes in the order of their names, as in ImageNet, or of their numbers, as in ImageNetV2.
    Images outside of subfolders have the label -1, which is enough to recalibrate BatchNorm.
    """
    paths = list_images(str(folder))
    inside = [path.relative_to(folder).parts for path in paths]
    place_of = _places(classes)
    labels = [next((k for k in map(place_of, parts) if k >= 0), -1) for parts in inside]
    if unknown := [p[0] for p, k in zip(inside, labels, strict=True) if k < 0 and len(p) > 1]:
        filled = {parts[0] for parts in inside if len(parts) > 1}
        # a class of which there is no image still has its place among the others
        every = [p.name for p in folder.iterdir() if p.is_dir() and not is_by_product(p.name)]
        names = in_order(every if len(every) == len(classes) else filled)
        if len(names) != len(classes):
            raise DataError(
                f"{folder} has {len(filled)} subfolders, such as '{min(unknown)}', that "
                f"do not match the {len(classes)} classes: name each after its class, or have one "
                "for each class"
            )
        order = {name: i for i, name in enumerate(names)}
        labels = [order[parts[0]] if len(parts) > 1 else -1 for parts in inside]
    chosen = np.linspace(0, len(paths) - 1, min(most, len(paths))).astype(int)
    taken = torch.tensor([labels[i] for i in chosen])
    return Split(Files([paths[i] for i in chosen]), taken, preprocessing)


def _places(classes: Sequence[str]) -> Callable[[str], int]:
    """Gives the class that a folder or file of some name is for, or -1."""
    index = {class_name(name): i for i, name in enumerate(classes)}
    written = {name: i for i, name in enumerate(folder_names(classes))}
    synsets: dict[str, int] = {}
    if tuple(classes) in (imagenet.names(), imagenet.synsets()):
        synsets = {name: i for i, name in enumerate(imagenet.synsets())}

    @cache
    def place_of(name: str) -> int:
        of_class = written.get(name, index.get(class_name(name), -1))
        synset = _SYNSET.match(name)
        return synsets.get(synset[0], -1) if synset and of_class < 0 else of_class

    return place_of
