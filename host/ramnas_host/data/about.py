"""The facts stored with trained weights: classes, preprocessing, licence, source and recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ramnas_models.bundle import Preprocessing

if TYPE_CHECKING:
    from ramnas_host.config import Recipe
    from ramnas_host.data.images import Dataset


class About(msgspec.Struct, frozen=True):
    """Facts about a network's weights. They are stored with them and copied into every bundle.

    `dataset` is a name that `ramnas train` knows, and `recipe` is the training recipe as JSON. Both
    are empty for imported weights. `listing` is that of the `Dataset`; it is empty too in files of
    an earlier version. `published_statistics` says that the max net's statistics of BatchNorm came
    with the weights, so that it keeps them. `init` is the digest of the weights that the training
    started with; it is empty if they were random.
    """

    classes: tuple[str, ...]
    preprocessing: Preprocessing
    licence: str
    source: str
    dataset: str = ""
    recipe: str = ""
    listing: str = ""
    published_statistics: bool = False
    init: str = ""


def describe(dataset: Dataset, recipe: Recipe) -> About:
    """The facts about weights that were trained on `dataset` by `recipe`."""
    return About(
        dataset.classes, dataset.train.preprocessing, dataset.licence, dataset.source,
        dataset.name, msgspec.json.encode(recipe).decode(), dataset.listing,
    )  # fmt: skip


def weights_and_data(weights: str, data: str) -> str:
    """A licence or source that covers the weights of a start and the data that trained them on."""
    return data if weights == data else f"{weights} (weights); {data} (data)"
