"""What travels with trained weights: their classes, preprocessing, licence, source and recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ramnas_models.bundle import Preprocessing

if TYPE_CHECKING:
    from ramnas_host.config import Recipe
    from ramnas_host.data.images import Dataset


class About(msgspec.Struct, frozen=True):
    """What travels with the weights, from here into every bundle.

    `dataset` is the name that `ramnas train` knows, `recipe` its JSON; empty for imported weights.
    """

    classes: tuple[str, ...]
    preprocessing: Preprocessing
    licence: str
    source: str
    dataset: str = ""
    recipe: str = ""


def describe(dataset: Dataset, recipe: Recipe) -> About:
    """What travels with weights trained on `dataset` by `recipe`."""
    return About(
        dataset.classes, dataset.train.preprocessing, dataset.licence, dataset.source,
        dataset.name, msgspec.json.encode(recipe).decode(),
    )  # fmt: skip
