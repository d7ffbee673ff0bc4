"""A run goes on, or counts as finished, only on the labels and pictures that it began with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import msgspec
import pytest

pytest.importorskip("torch")

from ramnas_host.annotations.cityscapes import load_cityscapes
from ramnas_host.annotations.coco import load_coco
from ramnas_host.config import Override, load_finetuning, load_recipe
from ramnas_host.data.class_folders import load_class_folders
from ramnas_host.data.datasets import load_dataset
from ramnas_host.data.images import write_image_folder
from ramnas_host.data.scenes import write_scenes
from ramnas_host.finetuning import saved_network
from ramnas_host.finetuning.data_digest import data_digest
from ramnas_host.finetuning.prepare import FINETUNED, PreparedRun, prepare
from ramnas_host.training.distributed import Ranks
from ramnas_host.training.loop import Step
from ramnas_host.training.run_folder import STATE
from ramnas_models.errors import DataError
from ramnas_models.space import load_space

SPACE = load_space("micro")


class Stopped(Exception):
    pass


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "scenes"
    digits = load_dataset("digits", load_recipe("digits").images)
    write_scenes(digits, folder, {"train": 8, "val": 4, "test": 4}, 0)
    return folder


@pytest.fixture
def scenes(made: Path, tmp_path: Path) -> Path:
    """A copy of the scenes that may be changed."""
    return Path(shutil.copytree(made, tmp_path / "scenes"))


def change(folder: Path, what: Callable[[Any], None], part: str = "train") -> None:
    file = folder / f"annotations/instances_{part}.json"
    content = json.loads(file.read_bytes())
    what(content)
    file.write_text(json.dumps(content))


def move_a_box(content: Any) -> None:
    content["annotations"][0]["bbox"][0] += 1


def change_a_class(content: Any) -> None:
    ids = {category["id"] for category in content["categories"]}
    first = content["annotations"][0]
    first["category_id"] = min(ids - {first["category_id"]})


def make_a_crowd(content: Any) -> None:
    content["annotations"][0]["iscrowd"] = 1


def give_an_object_to_another_picture(content: Any) -> None:
    content["annotations"][0]["image_id"] = content["images"][-1]["id"]


def rename_a_class(content: Any) -> None:
    content["categories"][0]["name"] = "nil"


def drop_an_area(content: Any) -> None:
    del content["annotations"][0]["area"]


def renumber(content: Any) -> None:
    for i, annotation in enumerate(content["annotations"]):
        annotation["id"] = 1000 - i


@pytest.mark.parametrize(
    "what",
    [move_a_box, change_a_class, make_a_crowd, give_an_object_to_another_picture],
)
@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_a_changed_object_changes_the_digest(
    what: Callable[[Any], None], part: str, scenes: Path
) -> None:
    before = data_digest(load_coco(scenes / "coco"))
    change(scenes / "coco", what, part)
    assert data_digest(load_coco(scenes / "coco")) != before


def test_a_renamed_class_changes_the_digest(scenes: Path) -> None:
    before = data_digest(load_coco(scenes / "coco"))
    for part in ("train", "val", "test"):
        change(scenes / "coco", rename_a_class, part)
    assert data_digest(load_coco(scenes / "coco")) != before


def test_what_training_does_not_read_leaves_the_digest(scenes: Path, tmp_path: Path) -> None:
    before = data_digest(load_coco(scenes / "coco"))
    change(scenes / "coco", drop_an_area)
    change(scenes / "coco", renumber)
    moved = shutil.move(scenes, tmp_path / "moved")
    assert data_digest(load_coco(Path(moved) / "coco")) == before


def test_a_label_image_that_is_painted_anew_changes_the_digest(
    scenes: Path, tmp_path: Path
) -> None:
    folder = scenes / "cityscapes"
    before = data_digest(load_cityscapes(folder))
    assert data_digest(load_cityscapes(shutil.copytree(folder, tmp_path / "copy"))) == before
    label = next((folder / "gtFine/train").rglob("*labelIds.png"))
    painted = cv2.imread(str(label), cv2.IMREAD_UNCHANGED)
    assert painted is not None
    painted[::3] = painted.max()
    cv2.imwrite(str(label), painted)
    assert data_digest(load_cityscapes(folder)) != before


def test_a_picture_in_another_class_folder_changes_the_digest(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    digits = load_dataset("digits", load_recipe("digits").images)
    for part, split in (("train", "calibration"), ("val", "selection")):
        write_image_folder(digits, split, folder / part)
    before = data_digest(load_class_folders(folder))
    first, second = sorted((folder / "train").iterdir())[:2]
    picture = next(first.iterdir())
    picture.rename(second / f"moved-{picture.name}")
    assert data_digest(load_class_folders(folder)) != before


def run_of(folder: Path) -> PreparedRun:
    overrides = [
        Override(key, value, f"--{key}")
        for key, value in {
            "epochs": 2, "batch_size": 4, "input_hw": (32, 32), "save_every": 1,
            "warm_up_epochs": 0,
        }.items()
    ]  # fmt: skip
    recipe = load_finetuning("scenes-detection", overrides)
    return prepare(SPACE, SPACE.min(), recipe, folder / "coco")


def test_a_stopped_run_does_not_go_on_with_other_labels(scenes: Path, tmp_path: Path) -> None:
    def stop(step: Step) -> None:
        if step.number == 2:
            raise Stopped

    out = tmp_path / "out"
    with pytest.raises(Stopped):
        run_of(scenes).train(out, Ranks(), 0, stop)
    assert (out / STATE).exists()
    change(scenes / "coco", move_a_box)
    with pytest.raises(DataError, match="another space, recipe, data set or version"):
        run_of(scenes).train(out, Ranks(), 0, lambda step: None)


def test_a_finished_run_is_not_that_of_other_labels(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_of(scenes).train(out, Ranks(), 0, lambda step: None)
    file = out / FINETUNED
    run_of(scenes).check_same(file)
    change(scenes / "coco", change_a_class, "val")
    with pytest.raises(DataError, match=r"fine-tuned when .*coco had other pictures or labels"):
        run_of(scenes).check_same(file)


def test_a_network_of_an_earlier_version_counts_as_finished(scenes: Path, tmp_path: Path) -> None:
    run, file = run_of(scenes), tmp_path / FINETUNED
    about = msgspec.structs.replace(run.about, data="")
    saved_network.save(file, run.net, run.space, about)
    run.check_same(file)
