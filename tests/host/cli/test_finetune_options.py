"""`ramnas finetune`: options in place of keys of the recipe, --space, and accuracies by class."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

pytest.importorskip("torch")

from ramnas_host.cli.finetune import by_class_lines
from ramnas_host.config import load_recipe
from ramnas_host.data.datasets import load_dataset
from ramnas_host.data.scenes import write_scenes
from ramnas_host.finetuning import saved_network
from ramnas_models.accuracy import Accuracy
from ramnas_models.space import load_space
from tests.host.cli.commands import ramnas, refused

BARE = ("--arch", "min", "--space", "micro", "--from-scratch")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "scenes"
    digits = load_dataset("digits", load_recipe("digits").images)
    write_scenes(digits, folder, {"train": 16, "val": 4, "test": 4}, 0)
    return folder


def short(task: str, scenes: Path, *more: str | Path) -> list[str | Path]:
    folder = {"detection": "coco", "segmentation": "cityscapes"}[task]
    return [
        "finetune", "--task", task, "--data", scenes / folder, "--recipe", f"scenes-{task}",
        *BARE, "--epochs", "2", "--batch-size", "8", *more,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("task", "size", "hw"),
    [("detection", ["64"], (64, 64)), ("segmentation", ["64", "96"], (64, 96))],
)
def test_a_space_and_a_few_options_are_enough_to_train_from_scratch(
    task: str, size: list[str], hw: tuple[int, int], scenes: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    argv = short(
        task, scenes, "--lr", "1e-2", "--workers", "0", "--out", out, "--input-size", *size
    )
    ran = ramnas(*argv)
    assert ran.returncode == 0, ran.stderr
    saved = saved_network.load(out / "finetuned.safetensors")
    recipe = saved.about.recipe
    assert (recipe.epochs, recipe.batch_size, recipe.optimizer.lr) == (2, 8, 0.01)
    assert saved.about.input_hw == recipe.input_hw == hw
    assert saved.about.from_scratch
    assert saved.space.hash == load_space("micro").hash
    lines = [line for line in ran.stderr.splitlines() if " of 4, epoch " in line]
    assert [line.partition(" of 4, ")[2][:12] for line in lines] == ["epoch 1 of 2", "epoch 2 of 2"]
    assert "selection split, n 4: " in lines[1]

    by_class = json.loads((out / "scores_by_class.json").read_text())
    table = ran.stdout.partition("by class in %, report split:\n")[2].splitlines()
    assert table[0].split()[0] == "class"
    assert {line.split()[0] for line in table[1 : 1 + len(by_class)]} == set(by_class)
    assert "already fine-tuned" in ramnas(*argv).stdout
    refused(ramnas(*argv, "--epochs", "3"), "was fine-tuned with another arch, recipe, supernet")


def test_what_the_arch_is_cut_out_of_must_be_said(scenes: Path, tmp_path: Path) -> None:
    argv = ["finetune", "--task", "detection", "--data", scenes / "coco", "--arch", "min"]
    argv += ["--out", tmp_path / "run"]
    nothing = "there is nothing to cut --arch min out of: give --supernet"
    refused(ramnas(*argv), f"{nothing}, or --from-scratch with --space NAME")
    refused(ramnas(*argv, "--from-scratch"), f"{nothing} or --space NAME")
    refused(ramnas(*argv, "--space", "micro"), "--space micro has no weights: give --supernet, or")
    both = ["--space", "micro", "--supernet", tmp_path / "supernet.safetensors"]
    refused(ramnas(*argv, *both), "give --supernet or --space, not both")
    refused(ramnas(*argv, "--from-scratch", "--space", "nano"), "unknown space 'nano'")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epochs=0"], "--epochs: 0 must be above 0"),
        (["--lr=nan"], "--lr: nan is not a finite number"),
        (["--batch-size=-8"], "--batch-size: -8 is below 0"),
        (
            ["--batch-size=17"],
            "batch_size 17 is more than the 16 training images: lower it with --b",
        ),
        (["--input-size", "0", "64"], "--input-size: an image cannot have the size 0x64"),
        (["--input-size", "1", "2", "3"], "--input-size 1 2 3: give a height and a width, or one"),
    ],
)
def test_an_option_out_of_range_is_named(
    options: list[str], message: str, scenes: Path, tmp_path: Path
) -> None:
    refused(ramnas(*short("detection", scenes, "--out", tmp_path / "run", *options)), message)


def test_classification_has_the_input_size_of_its_arch(tmp_path: Path) -> None:
    argv = ["finetune", "--task", "classification", *BARE, "--out", tmp_path / "run"]
    refused(ramnas(*argv, "--input-size", "32"), "--input-size is for detection and segmentation")


def test_a_warm_up_that_never_ends_is_said(
    scenes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    argv = short("detection", scenes, "--workers", "0", "--input-size", "32", "--out")
    said = "the learning rate never reaches its peak, 0.5: the warm-up lasts for all of the train"
    assert ramnas(*argv, tmp_path / "two").returncode == 0
    assert "reaches its peak" not in caplog.text
    assert ramnas(*argv, tmp_path / "one", "--epochs", "1", "--lr", "0.5").returncode == 0
    assert said in caplog.text


@pytest.mark.parametrize("task", ["detection", "segmentation", "classification"])
@pytest.mark.parametrize("what", ["absent", "a file", "empty"])
def test_a_folder_without_data_is_one_line(task: str, what: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    if what == "a file":
        data.write_text("")
    elif what == "empty":
        data.mkdir()
    argv = ["finetune", "--task", task, "--data", data, *BARE, "--out", tmp_path / "run"]
    refused(ramnas(*argv), str(data))
    assert not (tmp_path / "run").exists()


def test_paths_that_are_something_else_are_one_line(scenes: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    folder = tmp_path / "folder.yaml"
    folder.mkdir()
    argv = short("detection", scenes, "--out")
    for out in (file, file / "run"):
        refused(ramnas(*argv, out), "a part of the path is a file, not a folder")
    argv += [tmp_path / "run"]
    refused(ramnas(*argv, "--recipe", folder), f"cannot read recipe {folder}: Is a directory")
    refused(ramnas(*argv, "--recipe", file), "unknown recipe")
    refused(ramnas(*argv, "--front", folder), "folder.yaml is not a front of ramnas")
    refused(ramnas(*argv, "--space", folder), f"cannot read space {folder}: Is a directory")


def test_the_table_of_classes_begins_with_the_worst_and_is_short() -> None:
    def scores(value: float, n: int) -> tuple[Accuracy, ...]:
        first = Accuracy("AP50-95", value, "report", n)
        return first, msgspec.structs.replace(first, metric="AP50", value=2 * value)

    assert by_class_lines({}) == []
    assert by_class_lines({"cat": scores(0.5, 12), "traffic light": scores(0.125, 3)}) == [
        "by class in %, report split:",
        "  class           AP50-95      AP50       n",
        "  traffic light      12.5      25.0       3",
        "  cat                50.0     100.0      12",
    ]
    many = by_class_lines({f"class {i}": scores(i / 100, 1) for i in range(32)})
    assert len(many) == 2 + 30 + 1
    assert many[2].split()[:2] == ["class", "0"]
    assert many[-1] == "  2 more in scores_by_class.json"
