"""Reads a training recipe: a YAML file becomes a checked, frozen value.

It is stored with the results, so that they say how they were made.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec

from ramnas_models.errors import DataError
from ramnas_models.space import Space
from ramnas_models.yaml_file import as_type, read_yaml

_FOLDER = Path(__file__).parent / "recipes"

R = TypeVar("R", bound="Schedule")


class SplitSizes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many images of a data set each split gets; 0 for `train` means all that are left.

    The data set `folder` is divided by its own folders: there `train` and `selection` are 0.
    """

    train: int
    selection: int
    calibration: int


class SceneAugment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How training changes an image. The value in brackets switches each change off.

    `crop`: the smallest share of the image's area that a random crop keeps [1.0]. `flip`: the
    probability of mirroring the image [0].

    The paper's robot augmentations, each applied to half of the images: `brightness` is the largest
    shift, where white is 1 [0]; `noise` is a standard deviation on the same scale [0]; `mask` is
    the largest share of the area that a black rectangle hides [0].
    """

    crop: float
    flip: float
    brightness: float
    noise: float
    mask: float


class Augment(SceneAugment, frozen=True):
    """The same for images with one label each.

    `size`: the side, in pixels, of the random crop. Each network of a step then resizes the crop to
    its own resolution. Null means the largest resolution of the space.

    `policy` changes colours and shapes, between the flip and the robot augmentations. `autoaugment`
    is AutoAugment's policy for ImageNet (Cubuk et al. 2019), `randaugment` is RandAugment with two
    operations of magnitude 9 out of 30 (Cubuk et al. 2020). Operations are drawn for each image.
    """

    size: int | None
    policy: Literal["none", "autoaugment", "randaugment"] = "none"


class Optimizer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """SGD with Nesterov momentum, linear warm-up and cosine decay (Table II).

    `lr` is the peak learning rate for `lr_batch` images per step, and is scaled in proportion to
    the batch size (the linear rule). If `lr_batch` is null, `lr` is used for any batch size. Weight
    decay does not apply to BatchNorm and biases.

    `clip_value` limits each element of the gradient, as the public AttentiveNAS code does, and
    `clip_norm` then limits the norm of the whole gradient. Null means no limit.
    """

    lr: float
    lr_batch: int | None
    momentum: float
    weight_decay: float
    clip_norm: float | None
    clip_value: float | None = None


class Distillation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which networks teach which, and by what loss (Eq. 3 to 5).

    `alpha` and `beta` only matter for the pair loss `dkd`.
    """

    smd_weighting: Literal["per_student", "per_teacher", "off"]
    pair_loss: Literal["kl", "dkd"]
    alpha: float
    beta: float
    temperature: float


class Schedule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The settings that every training has.

    `batch_size` is the number of images of an optimizer step, over all processes of the run. With
    `accumulate` k each process takes its share in k parts, one after the other, and adds up their
    gradients, so that a large batch fits into the memory of one GPU. BatchNorm normalises each
    part by itself.

    `precision`: `fp32` computes in float32 and `tf32` lets a GPU round the inputs of convolutions
    and products to TF32, which is several times as fast. `bf16` and `fp16` are autocast.

    `ema`: if it is not null, the moving average of the weights with this decay, such as 0.9999, is
    what is evaluated and saved.

    `save_every` counts steps, `evaluate_every` epochs. Training stops when it has found more than
    `max_broken` broken images.
    """

    epochs: int
    warm_up_epochs: int
    batch_size: int
    optimizer: Optimizer
    precision: Literal["fp32", "tf32", "bf16", "fp16"]
    sync_batchnorm: bool
    save_every: int
    evaluate_every: int
    max_broken: int
    seed: int
    accumulate: int = 1
    ema: float | None = None

    @property
    def lr(self) -> float:
        """The peak learning rate at this batch size."""
        optimizer = self.optimizer
        if optimizer.lr_batch is None:
            return optimizer.lr
        return optimizer.lr * self.batch_size / optimizer.lr_batch


class Recipe(Schedule, frozen=True, kw_only=True):
    """How a supernet is trained.

    `label_smoothing`, `dropout` and `drop_connect` apply only to the max net (BigNAS). Beside min
    and max, `random_subnets` archs are evaluated on the way; the seed decides which.

    `freeze` names the last part of the network that keeps the weights with which the training
    starts: `stem`, or `stage3` for the stem and the first three stages. Their BatchNorm still uses
    the statistics of each batch, as each slice has its own. Null freezes nothing.
    """

    dataset: str
    images: SplitSizes
    distillation: Distillation
    label_smoothing: float
    dropout: float
    drop_connect: float
    augment: Augment
    compile: bool
    random_subnets: int = 0
    freeze: str | None = None

    def for_space(self, space: Space) -> Recipe:
        """The same recipe with a number for every null that the space decides."""
        if self.augment.size is not None:
            return self
        augment = msgspec.structs.replace(self.augment, size=max(space.resolutions))
        return msgspec.structs.replace(self, augment=augment)


class SegmentationHead(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An LR-ASPP head: with two skip branches or one, and the stride of its deepest features."""

    form: Literal["three_input", "two_input"]
    output_stride: Literal[16, 32]


class Finetuning(Schedule, frozen=True, kw_only=True):
    """How a network that was cut out of a supernet is trained for a task.

    `input_hw`: the height and width that images are resized to. `calibration`: the number of
    training images that BatchNorm takes its statistics from before an evaluation.

    Only for segmentation: `head`; `hardest_pixels`, the share of a batch's pixels that the network
    learns from, those with the highest loss (1: all); and `train_hw`, the size of the images to
    learn from if it is not `input_hw`.

    Classification has none of these, nor `augment`: it uses the resolution, images and
    augmentation that the supernet was trained with.
    """

    task: Literal["detection", "segmentation", "classification"]
    input_hw: tuple[int, int] | None
    head: SegmentationHead | None
    hardest_pixels: float | None
    augment: SceneAugment | None
    calibration: int | None
    train_hw: tuple[int, int] | None = None


class Override(NamedTuple):
    """A value from the command line that takes the place of a recipe's.

    `key` is such as `optimizer.lr`, and `option` is what messages call it.
    """

    key: str
    value: object
    option: str


def load_recipe(name_or_path: str, overrides: Sequence[Override] = ()) -> Recipe:
    """Read a recipe by its name (`imagenet`) or from a YAML file; DataError names the wrong key.

    A file may hold `base: imagenet` and only the keys that it changes.
    """
    return _load(name_or_path, Recipe, _FOLDER, overrides)


def load_finetuning(name_or_path: str, overrides: Sequence[Override] = ()) -> Finetuning:
    """Read a recipe for fine-tuning by its name (`coco`) or from a YAML file, as `load_recipe`."""
    return _load(name_or_path, Finetuning, _FOLDER / "finetuning", overrides)


def _load(name_or_path: str, kind: type[R], folder: Path, overrides: Sequence[Override]) -> R:
    path = Path(name_or_path)
    if path.suffix.lower() in (".yaml", ".yml"):
        content = _read(path)
        if isinstance(content, dict) and isinstance(base := content.get("base"), str):
            own = {key: value for key, value in content.items() if key != "base"}
            content = _merged(_shipped(base, folder, f"{path}: base: "), own)
    else:
        content = _shipped(name_or_path, folder)
    options = {override.key: override for override in overrides}
    for override in overrides:
        *sections, key = override.key.split(".")
        change: dict[str, object] = {key: override.value}
        for section in reversed(sections):
            change = {section: change}
        if isinstance(content, dict):
            content = _merged(content, change)
    try:
        recipe = as_type(content, kind)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    for key, fault in _faults(recipe):
        where = f"{path}: {key}"
        if key in options:
            where = options[key].option
        elif key == "accumulate" and "batch_size" in options:
            fault = fault.replace("batch_size", options["batch_size"].option)
        raise DataError(f"{where}: {fault}")
    return recipe


def _shipped(name: str, folder: Path, where: str = "") -> Any:
    """The content of a recipe that ships with ramnas."""
    known = {path.stem: path for path in folder.glob("*.yaml")}
    if name not in known:
        names = ", ".join(sorted(known))
        raise DataError(f"{where}unknown recipe '{name}': known are {names}, or give a .yaml")
    return _read(known[name])


def _read(path: Path) -> Any:
    try:
        return read_yaml(path)
    except ValueError as error:
        raise DataError(f"cannot read recipe {path}: {error}") from error


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of `changes`, which may hold parts of its sections."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = _merged(old, value) if both else value  # type: ignore[arg-type]
    return merged


def _faults(recipe: Schedule) -> Iterator[tuple[str, str]]:
    """(key, fault) for every value that has the right type but is out of range."""
    values = dict(_leaves(recipe))
    above_0 = (
        "epochs", "batch_size", "save_every", "evaluate_every", "accumulate", "ema",
        "optimizer.lr", "optimizer.lr_batch", "optimizer.clip_norm", "optimizer.clip_value",
        "distillation.temperature", "augment.size", "augment.crop", "images.calibration",
        "calibration", "hardest_pixels",
    )  # fmt: skip
    up_to_1 = (
        "label_smoothing", "dropout", "drop_connect", "optimizer.momentum", "augment.crop",
        "augment.flip", "augment.brightness", "augment.mask", "hardest_pixels",
    )  # fmt: skip
    for key, value in values.items():
        if not isinstance(value, (int, float)):
            continue
        if not math.isfinite(value):
            yield key, f"{value} is not a finite number"
        if value < 0:
            yield key, f"{value} is below 0"
        if key in above_0 and value <= 0:
            yield key, f"{value} must be above 0"
        if key in up_to_1 and value > 1:
            yield key, f"{value} is above 1"
    if isinstance(recipe, Finetuning):
        yield from _task_faults(recipe)
    if isinstance(recipe, Recipe):
        yield from _split_faults(recipe)
    if recipe.ema is not None and recipe.ema >= 1:
        yield "ema", f"{recipe.ema} must be below 1, or the average would never change"
    if recipe.accumulate and recipe.batch_size % recipe.accumulate:
        yield "accumulate", f"{recipe.accumulate} does not divide batch_size {recipe.batch_size}"


def _split_faults(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """The same for the numbers of images, which a labelled folder decides by itself."""
    if recipe.dataset != "folder":
        if recipe.images.selection == 0:
            yield "images.selection", "0 must be above 0"
        return
    for key in ("train", "selection"):
        if number := getattr(recipe.images, key):
            yield (
                f"images.{key}",
                f"{number} must be 0 for the data set folder, which is divided by its own folders",
            )


def _task_faults(recipe: Finetuning) -> Iterator[tuple[str, str]]:
    """The same for what depends on the task."""
    required = {
        "input_hw": recipe.task != "classification",
        "augment": recipe.task != "classification",
        "calibration": recipe.task != "classification",
        "head": recipe.task == "segmentation",
        "hardest_pixels": recipe.task == "segmentation",
    }
    for key, needed in required.items():
        if (getattr(recipe, key) is None) == needed:
            yield key, f"must be {'given' if needed else 'null'} for {recipe.task}"
    if recipe.train_hw and recipe.task != "segmentation":
        yield "train_hw", f"must be null for {recipe.task}"
    for key, size in (("input_hw", recipe.input_hw), ("train_hw", recipe.train_hw)):
        if size and min(size) < 1:
            yield key, f"an image cannot have the size {'x'.join(map(str, size))}"


def _leaves(section: msgspec.Struct, path: str = "") -> Iterator[tuple[str, object]]:
    for key, value in msgspec.structs.asdict(section).items():
        if isinstance(value, msgspec.Struct):
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value
