"""`ramnas data check`: what a folder of labelled pictures holds, and what makes training wrong."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")

from ramnas_host.config import load_recipe
from ramnas_host.data.datasets import load_dataset
from ramnas_host.data.scenes import write_scenes
from tests.host.cli.commands import Ran, ramnas, refused


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes in both formats, with a hundred pictures to train on."""
    folder = tmp_path_factory.mktemp("made") / "scenes"
    digits = load_dataset("digits", load_recipe("digits").images)
    write_scenes(digits, folder, {"train": 100, "val": 40, "test": 40}, seed=0)
    return folder


@pytest.fixture
def scenes(made: Path, tmp_path: Path) -> Path:
    """A copy of them that a test may spoil."""
    shutil.copytree(made, tmp_path / "scenes")  # links become files
    return tmp_path / "scenes"


def checked(folder: Path, *more: str) -> Ran:
    return ramnas("data", "check", folder, "--sheet", folder.parent / "sheet.png", *more)


def change_annotations(folder: Path, part: str, change: Callable[[dict[str, Any]], None]) -> None:
    file = folder / f"annotations/instances_{part}.json"
    content = json.loads(file.read_bytes())
    change(content)
    file.write_text(json.dumps(content))


def classes(folder: Path, names: tuple[str, ...], counts: dict[str, int]) -> Path:
    """A folder of pictures in class folders, each with other pixels."""
    rng = np.random.default_rng(0)
    for part, count in counts.items():
        for name in names:
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 255, (24, 32, 3), np.uint8)
                cv2.imwrite(str(folder / part / name / f"{i}.png"), pixels)
    return folder


def wrong(ran: Ran) -> list[str]:
    """The lines that say what would make training wrong."""
    assert "Traceback" not in ran.stderr
    return [line for line in ran.stdout.splitlines() if line.startswith("wrong: ")]


@pytest.mark.parametrize(("part", "task"), [("coco", "detection"), ("cityscapes", "segmentation")])
def test_sound_data_have_counts_a_sheet_and_exit_code_0(
    made: Path, part: str, task: str, tmp_path: Path
) -> None:
    sheet = tmp_path / "sheet.png"
    ran = ramnas("data", "check", made / part, "--sheet", sheet)
    assert (ran.returncode, wrong(ran)) == (0, [])
    assert ran.stdout.startswith(f"{task}, ")
    assert [line.split()[:2] for line in ran.stdout.splitlines()[3:6]] == [
        ["train", "100"], ["selection", "40"], ["report", "40"],
    ]  # fmt: skip
    drawn = cv2.imread(str(sheet))
    assert drawn is not None
    assert drawn.shape[1] == 6 * 256
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 100  # pictures, not a blank page


def test_sound_class_folders_are_counted(tmp_path: Path) -> None:
    folder = classes(tmp_path / "set", ("ant", "bee"), {"train": 12, "val": 30, "test": 30})
    ran = checked(folder)
    assert (ran.returncode, wrong(ran)) == (0, [])
    assert ran.stdout.startswith("classification, 2 classes")
    assert [line.split()[:2] for line in ran.stdout.splitlines()[3:6]] == [
        ["train", "24"], ["selection", "60"], ["report", "60"],
    ]  # fmt: skip


def test_everything_is_there_as_json(made: Path, tmp_path: Path) -> None:
    ran = ramnas("data", "check", made / "coco", "--json", "--sheet", tmp_path / "s.png")
    found = json.loads(ran.stdout)
    assert (found["task"], found["wrong"], len(found["classes"])) == ("detection", False, 10)
    train = found["parts"][0]
    annotated = json.loads((made / "coco/annotations/instances_train.json").read_bytes())
    assert sum(train["objects"]) == len(annotated["annotations"])
    assert train["sizes"][0] == [train["sizes"][0][0], train["sizes"][0][1]]


def test_the_sheet_has_the_name_of_the_folder_by_default(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "coco-check.png" in ramnas("data", "check", made / "coco").stdout
    assert cv2.imread("coco-check.png") is not None


def test_what_was_found_is_told_where_the_sheet_cannot_be_written(tmp_path: Path) -> None:
    folder = classes(tmp_path / "set", ("ant", "bee"), {"train": 10, "val": 60})
    (tmp_path / "file").touch()
    ran = ramnas("data", "check", folder, "--sheet", tmp_path / "file/sheet.png")
    refused(ran, "file/sheet.png: a part of the path is a file")
    assert "nothing was found that would make training wrong" in ran.stdout
    refused(ramnas("data", "check", folder, "--sheet", "sheet.jpg"), "has to end in .png")


def test_a_refusal_is_json_too(tmp_path: Path) -> None:
    folder = classes(tmp_path / "set", ("ant",), {"train": 2, "val": 2})
    ran = ramnas("data", "check", folder, "--json")
    found = json.loads(ran.stdout)
    assert (ran.returncode, found["wrong"], found["sheet"], found["parts"]) == (1, True, None, [])
    (finding,) = found["findings"]
    assert "images of one class only, 'ant'" in finding["what"]


def test_a_folder_without_the_right_to_list_it_is_refused_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = classes(tmp_path / "set", ("ant", "bee"), {"train": 5, "val": 5, "test": 5})
    (folder / "annotations").mkdir()
    scandir, listdir = os.scandir, os.listdir

    def closed(path: str, listed: Callable[[str], Any]) -> Any:
        if os.fspath(path) == os.fspath(folder / part):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", lambda path: closed(path, scandir))
    monkeypatch.setattr(os, "listdir", lambda path: closed(path, listdir))
    for part in ("train", "val", "test", "annotations"):
        ran = checked(folder)
        assert ran.returncode == 1
        assert wrong(ran) == [f"wrong: cannot list {folder / part}: Permission denied"]


def test_pictures_that_show_nothing_are_wrong_if_they_are_many(tmp_path: Path) -> None:
    """A thermal camera of 12 bits writes PNG files of 16 bits, whose upper 8 are nearly black."""
    folder = classes(tmp_path / "set", ("ant", "bee"), {"train": 10, "val": 60})
    pictures = sorted((folder / "train").rglob("*.png"))
    rng = np.random.default_rng(0)
    for count, code in ((2, 0), (15, 1)):
        for path in pictures[:count]:
            cv2.imwrite(str(path), rng.integers(0, 4096, (60, 80), np.uint16))
        ran = checked(folder)
        assert ran.returncode == code
        assert f"train: pictures of nearly a single colour: {count}, such as" in ran.stdout
        assert f"16 bits per channel, of which the upper 8 are read: {count}" in ran.stdout


def test_names_with_control_characters_stay_on_their_line(tmp_path: Path) -> None:
    folder = classes(tmp_path / "set", ("ant\nhill", "\x1b[31mbee"), {"train": 10, "val": 60})
    (folder / "train/ant\nhill/empty\r.png").touch()
    ran = checked(folder)
    assert ran.returncode == 1
    assert any(line.startswith("ant\\nhill  ") for line in ran.stdout.splitlines())
    assert any(line.startswith("\\x1b[31mbee  ") for line in ran.stdout.splitlines())
    (line,) = wrong(ran)
    assert line.endswith("ant\\nhill/empty\\r.png cannot be read as an image: it is empty")


def test_transparency_is_noted(tmp_path: Path) -> None:
    folder = classes(tmp_path / "set", ("ant", "bee"), {"train": 10, "val": 60})
    cut_out = np.random.default_rng(0).integers(0, 255, (24, 32, 4), np.uint8)
    cv2.imwrite(str(folder / "train/ant/0.png"), cut_out)
    ran = checked(folder)
    assert (ran.returncode, wrong(ran)) == (0, [])
    assert "train: pictures with transparency, which is left out: hidden" in ran.stdout


def test_few_pictures_are_noted_with_what_their_accuracy_is_worth(tmp_path: Path) -> None:
    folder = classes(tmp_path / "set", ("ant", "bee"), {"train": 10, "val": 12, "test": 40})
    ran = checked(folder)
    assert (ran.returncode, wrong(ran)) == (0, [])
    notes = [line for line in ran.stdout.splitlines() if line.startswith("note: ")]
    assert notes == [
        "note: selection: pictures, so few that an accuracy of 50 % could be 31 or 69 %: 24",
        "note: report: at least twice as many pictures as in train; perhaps the two were "
        "exchanged: 80",
        "note: train: pictures, fewer than a batch of 32 as in the recipe transfer, so give ramnas "
        "finetune a lower --batch-size, and a lower --lr with it: 20",
    ]


def test_a_picture_that_cannot_be_read_is_named_with_its_reason(scenes: Path) -> None:
    victim = sorted((scenes / "coco/train").iterdir())[3]
    victim.write_bytes(b"")
    ran = checked(scenes / "coco")
    assert ran.returncode == 1
    (line,) = wrong(ran)
    assert victim.name in line


def test_a_picture_of_training_must_not_be_in_the_report(scenes: Path) -> None:
    train, test = (sorted((scenes / "coco" / part).iterdir())[0] for part in ("train", "test"))
    shutil.copyfile(train, test)
    ran = checked(scenes / "coco")
    assert ran.returncode == 1
    lines = [line for line in wrong(ran) if "report: pictures that are in train too: 1" in line]
    assert len(lines) == 1
    assert train.name in lines[0]
    assert test.name in lines[0]


def test_one_picture_with_two_classes_is_wrong(tmp_path: Path) -> None:
    folder = classes(tmp_path / "set", ("ant", "bee"), {"train": 12, "val": 30, "test": 30})
    shutil.copyfile(folder / "train/ant/0.png", folder / "train/bee/0.png")
    ran = checked(folder)
    assert ran.returncode == 1
    (line,) = wrong(ran)
    assert "train: pictures that have another class too: 1" in line


def test_a_class_that_only_the_report_has_is_wrong(scenes: Path) -> None:
    def without_nines(coco: dict[str, Any]) -> None:
        nine = next(c["id"] for c in coco["categories"] if c["name"] == "9")
        coco["annotations"] = [a for a in coco["annotations"] if a["category_id"] != nine]

    change_annotations(scenes / "coco", "train", without_nines)
    ran = checked(scenes / "coco")
    assert ran.returncode == 1
    assert any(
        "train: classes without a picture, though selection and report have some: 1, such as 9"
        in line
        for line in wrong(ran)
    )


def test_a_split_without_any_object_is_wrong(scenes: Path) -> None:
    """Also a half of val, if there is no test split."""
    (scenes / "coco/annotations/instances_test.json").unlink()

    def every_second(coco: dict[str, Any]) -> None:
        named = sorted(coco["images"], key=lambda image: image["file_name"])
        kept = {image["id"] for image in named[1::2]}
        coco["annotations"] = [a for a in coco["annotations"] if a["image_id"] in kept]

    for change, count in ((every_second, 20), (lambda coco: coco.update(annotations=[]), 20)):
        change_annotations(scenes / "coco", "val", change)
        ran = checked(scenes / "coco")
        assert ran.returncode == 1
        line = wrong(ran)[0]
        assert f"without a single object among them, which cannot score a network: {count}" in line


def test_pictures_that_no_label_file_lists_are_counted(scenes: Path) -> None:
    """Label Studio once left pictures without an object out of its export."""
    shutil.copyfile(next((scenes / "coco/train").iterdir()), scenes / "coco/train/empty scene.png")
    ran = checked(scenes / "coco")
    assert (ran.returncode, wrong(ran)) == (0, [])
    (line,) = [line for line in ran.stdout.splitlines() if "no label file lists" in line]
    assert line.startswith(f"note: {scenes}/coco/train: ")
    assert line.endswith("list them: 1, such as empty scene.png")


def test_odd_boxes_are_noted_and_training_goes_on(scenes: Path) -> None:
    def odd(coco: dict[str, Any]) -> None:
        first = coco["annotations"][0]
        image = next(i for i in coco["images"] if i["id"] == first["image_id"])
        everything = [0, 0, image["width"], image["height"]]
        coco["annotations"] += [
            {**first, "id": 90001},
            {**first, "id": 90002, "bbox": [1, 1, 2, 2]},
            {**first, "id": 90003, "bbox": everything},
            {**first, "id": 90004, "iscrowd": 1},
        ]

    change_annotations(scenes / "coco", "train", odd)
    ran = checked(scenes / "coco")
    assert (ran.returncode, wrong(ran)) == (0, [])
    notes = [line for line in ran.stdout.splitlines() if line.startswith("note: ")]
    for words in (
        "objects that their picture has twice, with the same class and box, kept once: 1",
        "objects smaller than 2 % of the picture's side: 1",
        "boxes that cover the whole picture: 1",
        "objects marked as crowds (iscrowd), which are neither examples nor background: 1",
    ):
        assert any(words in line for line in notes), words


def test_data_that_training_refuses_have_the_reason_and_exit_code_1(scenes: Path) -> None:
    (scenes / "coco/annotations/instances_val.json").write_text("{")
    ran = checked(scenes / "coco")
    assert ran.returncode == 1
    (line,) = wrong(ran)
    assert "instances_val.json" in line


def test_another_layout_is_refused_with_what_the_folder_has(tmp_path: Path) -> None:
    """As YOLO has it."""
    classes(tmp_path, ("train", "val"), {"images": 1})
    (tmp_path / "data.yaml").touch()
    (tmp_path / ".git").mkdir()
    refused(checked(tmp_path), f"{tmp_path} has data.yaml, images/, which is no layout that is")


def test_an_annotation_file_of_another_name_is_named(scenes: Path) -> None:
    """CVAT calls it instances_default.json."""
    annotations = scenes / "coco/annotations"
    (annotations / "instances_train.json").rename(annotations / "instances_default.json")
    ran = checked(scenes / "coco")
    assert ran.returncode == 1
    (line,) = wrong(ran)
    assert f"instances_train*.json; {annotations} has instances_default.json, " in line


@pytest.mark.parametrize("there", ["nothing", "file", "empty folder"])
def test_what_is_no_folder_of_labelled_pictures_is_an_error(there: str, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    if there == "file":
        folder.write_text("")
    elif there == "empty folder":
        folder.mkdir()
    ran = checked(folder)
    assert ran.returncode == 2
    assert ran.stderr.startswith("error: ")
    assert str(folder) in ran.stderr


def test_two_layouts_in_one_folder_are_told_apart_by_task(scenes: Path) -> None:
    for entry in ("leftImg8bit", "gtFine", "labels.json"):
        (scenes / "cityscapes" / entry).rename(scenes / "coco" / entry)
    ran = checked(scenes / "coco")
    assert ran.returncode == 2
    assert "--task" in ran.stderr
    assert checked(scenes / "coco", "--task", "segmentation").stdout.startswith("segmentation")


@pytest.mark.parametrize(
    "option", [("--out", "x"), ("--split", "train"), ("--recipe", "fashion"), ("--data", "x")]
)
def test_an_option_for_writing_a_split_is_refused(option: tuple[str, str], tmp_path: Path) -> None:
    refused(ramnas("data", *option, "check", tmp_path), f"{option[0]} is for writing a split")
