"""A training recipe: one YAML file -> one frozen, checked value that travels with the results."""

from __future__ import annotations

from pathlib import Path

import msgspec
import yaml

from ramnas_host.distill import PAIR_LOSSES, SMD_WEIGHTINGS
from ramnas_models.errors import DataError

_FOLDER = Path(__file__).parent / "recipes"


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """SGD with Nesterov momentum and a cosine schedule (Table II); `lr` is for `batch_size`."""

    dataset: str
    epochs: int
    warm_up_epochs: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    clip_norm: float
    label_smoothing: float
    shift: float
    smd_weighting: str
    pair_loss: str
    alpha: float
    beta: float
    temperature: float
    seed: int


def load_recipe(name_or_path: str) -> Recipe:
    """Read a recipe by name (`digits`) or from a YAML file; DataError names the key at fault."""
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = _FOLDER / f"{name_or_path}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(p.stem for p in _FOLDER.glob("*.yaml")))
            raise DataError(f"unknown recipe '{name_or_path}': known are {known}, or give a .yaml")
    try:
        recipe = msgspec.convert(yaml.safe_load(path.read_text(encoding="utf-8")), Recipe)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"cannot read recipe {path}: {error}") from error
    except msgspec.ValidationError as error:
        raise DataError(f"{path}: {str(error).replace('$.', '')}") from error
    for key, allowed in (("smd_weighting", SMD_WEIGHTINGS), ("pair_loss", PAIR_LOSSES)):
        if getattr(recipe, key) not in allowed:
            raise DataError(f"{path}: {key}: '{getattr(recipe, key)}' is not one of {allowed}")
    for key in ("epochs", "batch_size", "lr", "temperature"):
        if getattr(recipe, key) <= 0:
            raise DataError(f"{path}: {key}: {getattr(recipe, key)} must be above 0")
    return recipe
