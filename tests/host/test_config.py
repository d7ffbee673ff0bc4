"""Recipes: ours hold the paper's values, and a wrong one is refused with its file and key."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

torch = pytest.importorskip("torch")

import ramnas_host
from ramnas_host.config import Override, Recipe, load_finetuning, load_recipe
from ramnas_models.errors import DataError
from ramnas_models.space import load_space

GONE = object()
RECIPES = Path(ramnas_host.__file__).parent / "recipes"


def flat(section: dict[str, object], path: str = "") -> dict[str, object]:
    """Flatten nested sections into {"optimizer.lr": 0.4, ...}, and keep the sections too."""
    found: dict[str, object] = {}
    for key, value in section.items():
        found[f"{path}{key}"] = value
        if isinstance(value, dict):
            found |= flat(value, f"{path}{key}.")
    return found


DIGITS = flat(msgspec.to_builtins(load_recipe("digits")))
SECTIONS = [key for key, value in DIGITS.items() if isinstance(value, dict)]
NUMBERS = [
    key
    for key, value in DIGITS.items()
    if isinstance(value, (int, float, type(None)))
    and not isinstance(value, bool)
    and key != "freeze"
]
# keys that came later: the recipes in older checkpoints do not have them
LATER = {
    "accumulate": 1, "ema": None, "random_subnets": 0, "optimizer.clip_value": None,
    "augment.policy": "none", "freeze": None,
}  # fmt: skip
TABLE_V = {  # row of Table V -> (smd_weighting, pair_loss)
    "baseline": ("off", "kl"),
    "exp1": ("per_student", "kl"),
    "exp2": ("off", "dkd"),
    "exp3": ("per_student", "dkd"),
}


def write(folder: Path, key: str, value: object) -> Path:
    """Write the recipe `digits` with another `value` for `key`, or without it if that is GONE."""
    content = msgspec.to_builtins(load_recipe("digits"))
    *sections, last = key.split(".")
    section = content
    for name in sections:
        section = section[name]
    if value is GONE:
        del section[last]
    else:
        section[last] = value
    path = folder / "mine.yaml"
    path.write_bytes(msgspec.yaml.encode(content))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as raised:
        load_recipe(str(path))
    assert str(path) in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_every_recipe_loads_and_reads_back_from_its_own_file(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    assert recipe.dataset == {"pretrained": "folder"}.get(name, name.partition("-")[0])
    path = tmp_path / "copy.yaml"
    path.write_bytes(msgspec.yaml.encode(recipe))
    assert load_recipe(str(path)) == recipe
    assert msgspec.json.decode(msgspec.json.encode(recipe), type=Recipe) == recipe


def test_the_imagenet_recipe_is_table_2_of_the_paper() -> None:
    recipe = load_recipe("imagenet")
    assert (recipe.epochs, recipe.warm_up_epochs, recipe.batch_size) == (240, 10, 448)
    optimizer = recipe.optimizer
    assert recipe.lr == 0.8
    assert (optimizer.momentum, optimizer.weight_decay) == (0.9, 1e-4)
    assert recipe.distillation.pair_loss == "dkd"
    assert (recipe.distillation.alpha, recipe.distillation.beta) == (1.0, 0.5)
    assert recipe.label_smoothing == 0.1
    assert (recipe.dropout, recipe.drop_connect) == (0.2, 0.2)
    assert recipe.images.calibration == 4096  # at least the paper's 2,048
    assert load_recipe("fashion").images.calibration >= 2048


@pytest.mark.parametrize("section", ["", *SECTIONS])
def test_an_unknown_key_is_named(section: str, tmp_path: Path) -> None:
    where = f" - at `{section}`" if section else ""
    path = write(tmp_path, f"{section}.colour".lstrip("."), 1)
    assert refusal(path).endswith(f"unknown field `colour`{where}")


@pytest.mark.parametrize("row", TABLE_V)
def test_the_recipes_of_table_5_differ_by_what_the_table_says(row: str) -> None:
    ours = flat(msgspec.to_builtins(load_recipe("imagenet")))
    found = flat(msgspec.to_builtins(load_recipe(f"imagenet-{row}")))
    assert found.keys() == ours.keys()
    weighting, loss = TABLE_V[row]
    assert found["distillation.smd_weighting"] == weighting
    assert found["distillation.pair_loss"] == loss
    named = {"distillation", "distillation.smd_weighting", "distillation.pair_loss"}
    assert {key for key in ours if ours[key] != found[key]} <= named
    assert (found == ours) == (row == "exp3")  # both together, which is the paper's own training


def test_imagenet_adds_the_papers_augmentations_to_those_of_bignas() -> None:
    augment = load_recipe("imagenet").augment
    assert augment.policy == "autoaugment"
    assert min(augment.flip, augment.brightness, augment.noise, augment.mask) > 0


@pytest.mark.parametrize("key", LATER)
def test_a_recipe_of_an_older_checkpoint_can_still_be_read(key: str, tmp_path: Path) -> None:
    recipe = load_recipe(str(write(tmp_path, key, GONE)))
    assert flat(msgspec.to_builtins(recipe))[key] == LATER[key]


@pytest.mark.parametrize("key", sorted(DIGITS.keys() - LATER.keys()))
def test_a_missing_key_is_named(key: str, tmp_path: Path) -> None:
    section, _, last = key.rpartition(".")
    where = f" - at `{section}`" if section else ""
    message = refusal(write(tmp_path, key, GONE))
    assert message.endswith(f"missing required field `{last}`{where}")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("optimizer.lr", "fast", "Expected `float`, got `str` - at `optimizer.lr`"),
        ("optimizer.lr_batch", 1.5, "Expected `int | null`, got `float` - at `optimizer.lr_batch`"),
        ("epochs", 1.5, "Expected `int`, got `float` - at `epochs`"),
        ("epochs", None, "Expected `int`, got `null` - at `epochs`"),
        ("compile", "yes", "Expected `bool`, got `str` - at `compile`"),
        ("images", 5, "Expected `object`, got `int` - at `images`"),
        ("ema", "slow", "Expected `float | null`, got `str` - at `ema`"),
        ("augment.policy", "all", "Invalid enum value 'all' - at `augment.policy`"),
        ("precision", "fp8", "Invalid enum value 'fp8' - at `precision`"),
        (
            "distillation.smd_weighting",
            "all",
            "Invalid enum value 'all' - at `distillation.smd_weighting`",
        ),
    ],
)
def test_a_wrong_type_is_named(key: str, value: object, message: str, tmp_path: Path) -> None:
    assert message in refusal(write(tmp_path, key, value))


@pytest.mark.parametrize("key", NUMBERS)
def test_no_number_may_be_below_0(key: str, tmp_path: Path) -> None:
    assert f" {key}: -1" in refusal(write(tmp_path, key, -1))


@pytest.mark.parametrize(
    "key",
    [
        "epochs",
        "batch_size",
        "save_every",
        "evaluate_every",
        "optimizer.lr",
        "optimizer.lr_batch",
        "optimizer.clip_norm",
        "optimizer.clip_value",
        "accumulate",
        "ema",
        "distillation.temperature",
        "augment.size",
        "augment.crop",
        "images.selection",
        "images.calibration",
    ],
)
def test_some_numbers_may_not_be_0(key: str, tmp_path: Path) -> None:
    assert refusal(write(tmp_path, key, 0)).split(": ", 1)[1].startswith(f"{key}: 0")


@pytest.mark.parametrize(
    "key",
    [
        "label_smoothing",
        "dropout",
        "drop_connect",
        "optimizer.momentum",
        "augment.crop",
        "augment.flip",
        "augment.brightness",
        "augment.mask",
    ],
)
def test_a_share_may_not_be_above_1(key: str, tmp_path: Path) -> None:
    assert f" {key}: 1.5 is above 1" in refusal(write(tmp_path, key, 1.5))


def test_an_average_that_never_changes_is_refused(tmp_path: Path) -> None:
    assert " ema: 1.0 must be below 1" in refusal(write(tmp_path, "ema", 1.0))


@pytest.mark.parametrize("key", ["train", "selection"])
def test_a_labelled_folder_divides_itself(key: str, tmp_path: Path) -> None:
    text = f"base: pretrained\nimages: {{{key}: 10}}"
    message = refusal(mine(tmp_path, text))
    assert message.endswith(
        f"images.{key}: 10 must be 0 for the data set folder, which is divided by its own folders"
    )


def test_a_crop_without_a_size_is_as_large_as_the_largest_resolution(tmp_path: Path) -> None:
    space, recipe = load_space("lite"), load_recipe("pretrained")
    assert recipe.augment.size is None
    found = recipe.for_space(space)
    assert found == msgspec.structs.replace(
        recipe, augment=msgspec.structs.replace(recipe.augment, size=224)
    )
    assert found.for_space(load_space("micro")) == found


def test_a_batch_that_has_no_equal_parts_is_refused(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, "accumulate", 3))
    assert message.endswith("accumulate: 3 does not divide batch_size 64")


@pytest.mark.parametrize(
    "content", [b"epochs: [1", b"\xff\xfe\x00", b"", b"- 1", b"{[1]: 2}"], ids=repr
)
def test_a_file_that_is_not_a_recipe_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mine.yml"
    path.write_bytes(content)
    refusal(path)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    assert "cannot read recipe" in refusal(tmp_path / "absent.yaml")
    assert "cannot read recipe" in refusal(tmp_path.joinpath("absent", "mine.yaml"))


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(DataError, match="'x': known are digits, digits-small, fashion, imagenet, "):
        load_recipe("x")


@pytest.mark.parametrize(
    ("batch_size", "lr_batch", "expected"),
    [(448, 256, 0.175), (2048, 256, 0.8), (256, 256, 0.1), (448, None, 0.1), (2048, None, 0.1)],
)
def test_the_learning_rate_grows_with_the_batch_if_lr_batch_is_given(
    batch_size: int, lr_batch: int | None, expected: float
) -> None:
    recipe = load_recipe("imagenet")
    optimizer = msgspec.structs.replace(recipe.optimizer, lr=0.1, lr_batch=lr_batch)
    recipe = msgspec.structs.replace(recipe, batch_size=batch_size, optimizer=optimizer)
    assert recipe.lr == pytest.approx(expected)


def mine(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(("text", "lr"), [("1e-3", 0.001), ("5E-1", 0.5), (".5e1", 5), ("1", 1)])
def test_numbers_may_be_written_with_an_exponent(text: str, lr: float, tmp_path: Path) -> None:
    recipe = load_recipe(str(mine(tmp_path, f"base: digits\noptimizer: {{lr: {text}}}")))
    assert recipe.optimizer.lr == lr


def test_words_that_yaml_once_took_for_bools_are_what_the_key_wants(tmp_path: Path) -> None:
    text = "base: digits\ndistillation: {smd_weighting: off}\ncompile: yes\nsync_batchnorm: off"
    recipe = load_recipe(str(mine(tmp_path, text)))
    assert recipe.distillation.smd_weighting == "off"
    assert (recipe.compile, recipe.sync_batchnorm) == (True, False)
    text = "base: digits\nbatch_size: 64.0\nepochs: 1e1\nimages: {train: 1_000}"
    message = refusal(mine(tmp_path, text))
    assert message.endswith("Expected `int`, got `str` - at `images.train`")


def test_a_recipe_may_hold_only_what_it_changes_in_another(tmp_path: Path) -> None:
    coco = load_finetuning("coco")
    text = "base: coco\nepochs: 3\noptimizer: {lr: 1e-2}\ninput_hw: [64, 96]\n"
    found = load_finetuning(str(mine(tmp_path, text)))
    optimizer = msgspec.structs.replace(coco.optimizer, lr=0.01)
    assert found == msgspec.structs.replace(coco, epochs=3, optimizer=optimizer, input_hw=(64, 96))
    assert refusal(mine(tmp_path, "base: digits\ncolour: 1")).endswith("unknown field `colour`")
    assert "base: unknown recipe 'coco': known are" in refusal(mine(tmp_path, "base: coco"))
    assert "unknown field `base`" in refusal(mine(tmp_path, "base: 3"))


def test_a_key_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    message = refusal(mine(tmp_path, "base: digits\nepochs: 3\nepochs: 30"))
    assert message.endswith("line 3, column 1: the key 'epochs' was already given in line 2")


def test_an_override_takes_the_place_of_a_value_and_is_checked_in_its_own_name(
    tmp_path: Path,
) -> None:
    def epochs(value: object) -> list[Override]:
        return [Override("epochs", value, "--epochs")]

    digits = load_recipe("digits")
    assert load_recipe("digits", epochs(3)) == msgspec.structs.replace(digits, epochs=3)
    path = mine(tmp_path, "base: digits\nepochs: 0")
    assert load_recipe(str(path), epochs(3)).epochs == 3
    lr = Override("optimizer.lr", 0.25, "--lr")
    assert load_recipe("digits", [lr]).optimizer == msgspec.structs.replace(
        digits.optimizer, lr=0.25
    )
    for override, message in [
        (Override("epochs", 0, "--epochs"), "--epochs: 0 must be above 0"),
        (Override("epochs", -1, "--epochs"), "--epochs: -1 is below 0"),
        (Override("optimizer.lr", float("nan"), "--lr"), "--lr: nan is not a finite number"),
        (Override("optimizer.lr", float("inf"), "--lr"), "--lr: inf is not a finite number"),
    ]:
        with pytest.raises(DataError) as raised:
            load_recipe("digits", [override])
        assert str(raised.value) == message
    path = mine(tmp_path, "base: digits\naccumulate: 4")
    with pytest.raises(DataError, match="accumulate: 4 does not divide --batch-size 10"):
        load_recipe(str(path), [Override("batch_size", 10, "--batch-size")])


def test_an_input_size_is_for_tasks_that_have_one() -> None:
    def size(*value: int) -> list[Override]:
        return [Override("input_hw", value, "--input-size")]

    assert load_finetuning("coco", size(64, 96)).input_hw == (64, 96)
    with pytest.raises(DataError, match=r"^--input-size: an image cannot have the size 0x96"):
        load_finetuning("coco", size(0, 96))
    with pytest.raises(DataError, match=r"^--input-size: must be null for classification"):
        load_finetuning("inherited", size(64, 96))
