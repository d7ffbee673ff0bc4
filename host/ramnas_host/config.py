"""A training recipe: one YAML file -> one frozen, checked value that travels with the results."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec
import yaml

from ramnas_models.errors import DataError

_FOLDER = Path(__file__).parent / "recipes"


class Images(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many images of a data set go where; `train` 0 takes all that are left."""

    train: int
    validation: int
    calibration: int


class Augment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What training does to an image; the value in brackets switches each off.

    `size`: side in pixels of the random crop that is decoded, before each network takes it to its
    own resolution. `crop`: its smallest share of the image's area [1.0]. `flip`: probability of a
    mirror image [0]. The paper's robot augmentations, each on half of the images: `brightness`,
    largest shift where white is 1 [0]; `noise`, standard deviation of the same scale [0]; `mask`,
    largest share of the area that one black rectangle hides [0].
    """

    size: int
    crop: float
    flip: float
    brightness: float
    noise: float
    mask: float


class Optimizer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """SGD with Nesterov momentum, linear warm-up and cosine (Table II).

    `lr` is the peak rate for `lr_batch` images a step and grows in proportion to the batch (the
    linear rule); with `lr_batch` null it is the rate as it stands, whatever the batch. Weight decay
    leaves out BatchNorm and biases. `clip_norm` null: gradients are not clipped.
    """

    lr: float
    lr_batch: int | None
    momentum: float
    weight_decay: float
    clip_norm: float | None


class Distillation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who teaches whom, and how (Eq. 3 to 5); `alpha`, `beta` are of `dkd` alone."""

    smd_weighting: Literal["per_student", "per_teacher", "off"]
    pair_loss: Literal["kl", "dkd"]
    alpha: float
    beta: float
    temperature: float


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a supernet is trained. `batch_size` is in all, over every process of the run.

    `label_smoothing`, `dropout` and `drop_connect` are of the max net alone (BigNAS). Intervals:
    `save_every` in steps, `evaluate_every` in epochs. Training goes on past broken images until
    there are more than `max_broken`.
    """

    dataset: str
    images: Images
    epochs: int
    warm_up_epochs: int
    batch_size: int
    optimizer: Optimizer
    distillation: Distillation
    label_smoothing: float
    dropout: float
    drop_connect: float
    augment: Augment
    precision: Literal["fp32", "bf16", "fp16"]
    compile: bool
    sync_batchnorm: bool
    save_every: int
    evaluate_every: int
    max_broken: int
    seed: int

    @property
    def lr(self) -> float:
        """The peak learning rate of this batch size."""
        optimizer = self.optimizer
        if optimizer.lr_batch is None:
            return optimizer.lr
        return optimizer.lr * self.batch_size / optimizer.lr_batch


def load_recipe(name_or_path: str) -> Recipe:
    """Read a recipe by name (`imagenet`) or from a YAML file; DataError names the key at fault."""
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
    for key, fault in _faults(recipe):
        raise DataError(f"{path}: {key}: {fault}")
    return recipe


def _faults(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """(key, fault) of every value that has the right type and makes no sense."""
    values = dict(_leaves(recipe))
    above_0 = (
        "epochs", "batch_size", "save_every", "evaluate_every", "optimizer.lr",
        "optimizer.lr_batch", "optimizer.clip_norm", "distillation.temperature", "augment.size",
        "augment.crop", "images.validation", "images.calibration",
    )  # fmt: skip
    up_to_1 = (
        "label_smoothing", "dropout", "drop_connect", "optimizer.momentum", "augment.crop",
        "augment.flip", "augment.brightness", "augment.mask",
    )  # fmt: skip
    for key, value in values.items():
        if not isinstance(value, (int, float)):
            continue
        if not math.isfinite(value):
            yield key, f"{value} is no finite number"
        if value < 0:
            yield key, f"{value} is below 0"
        if key in above_0 and value <= 0:
            yield key, f"{value} must be above 0"
        if key in up_to_1 and value > 1:
            yield key, f"{value} is above 1"


def _leaves(section: msgspec.Struct, path: str = "") -> Iterator[tuple[str, object]]:
    for key, value in msgspec.structs.asdict(section).items():
        if isinstance(value, msgspec.Struct):
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value
