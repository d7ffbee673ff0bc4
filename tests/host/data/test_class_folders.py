"""Class folders as people have them: what is a class, what is left out, and what is refused."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from ramnas_host.config import SplitSizes, load_recipe
from ramnas_host.data import images
from ramnas_host.data.about import About, describe
from ramnas_host.data.datasets import (
    dataset_of,
    dataset_to_finetune,
    load_class_folders,
    load_dataset,
)
from ramnas_host.data.findings import Notes
from ramnas_host.data.images import Arrays, Dataset, Files, Split, write_image_folder
from ramnas_host.data.labelled_folder import load_folder
from ramnas_host.data.paths import labelled, list_classes
from ramnas_models.bundle import Preprocessing
from ramnas_models.errors import DataError
from ramnas_models.onnx_graph import Normalisation

HOW = Preprocessing(Normalisation((0.3,) * 3, (0.4,) * 3, "bgr"))
SIZES = SplitSizes(train=0, selection=4, calibration=4)


def touch(folder: Path, *names: str) -> None:
    """Empty files: their content plays no part until they are read."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def class_folders(folder: Path, part: str, counts: dict[str, int]) -> Path:
    for name, count in counts.items():
        touch(folder / part / name, *(f"{i:03d}.jpg" for i in range(count)))
    return folder


def paths(split: Split) -> set[str]:
    assert isinstance(split.images, Files)
    return set(map(str, split.images.paths))


def said(dataset: Dataset) -> list[str]:
    return [str(finding) for finding in dataset.findings]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    class_folders(tmp_path, "train", {"ant": 12, "bee": 10})
    return class_folders(tmp_path, "val", {"ant": 4, "bee": 4})


@pytest.mark.parametrize(
    "name",
    [
        ".ipynb_checkpoints", ".git", ".DS_Store", "__MACOSX", "@eaDir", "$RECYCLE.BIN",
        "lost+found", "__pycache__",
    ],
)  # fmt: skip
def test_a_folder_that_a_system_or_tool_keeps_is_no_class(name: str, folder: Path) -> None:
    for part in ("train", "val"):
        touch(folder / part, f"{name}/1-checkpoint.jpg", f"ant/{name}/2-checkpoint.jpg")
    found = load_dataset("imagenet", SIZES, folder)
    assert found.classes == ("ant", "bee")
    assert len(found.train) + len(found.selection) == 22
    assert len(found.report) == 8
    what = "folders that a system or tool keeps for itself, which are not classes"
    assert said(found) == [f"{part}: {what}: 1, such as {name}" for part in ("train", "val")]


def test_files_of_macos_and_windows_beside_the_pictures_are_not_read(folder: Path) -> None:
    touch(folder / "train/ant", "._000.jpg", ".DS_Store", "Thumbs.db", "desktop.ini")
    found = load_dataset("imagenet", SIZES, folder)
    assert len(found.train) + len(found.selection) == 22
    assert not said(found)


def test_a_class_folder_without_a_picture_is_no_class(folder: Path) -> None:
    (folder / "train/cat").mkdir()
    (folder / "val/dog").mkdir()
    found = load_dataset("imagenet", SIZES, folder)
    assert found.classes == ("ant", "bee")
    what = "class folders without a picture, which are not classes"
    assert said(found) == [f"train: {what}: 1, such as cat", f"val: {what}: 1, such as dog"]


def test_a_class_that_only_val_has_pictures_of_is_refused(folder: Path) -> None:
    (folder / "train/cat").mkdir()
    touch(folder / "val/cat", "1.jpg")
    missing = "val has classes that are missing from train, such as cat: .*/train/cat has no images"
    with pytest.raises(DataError, match=missing):
        load_dataset("imagenet", SIZES, folder)
    (folder / "train/cat").rmdir()
    (folder / "val/cat").rename(folder / "val/Bee ")
    with pytest.raises(DataError, match=r"such as Bee : train calls it 'bee'"):
        load_dataset("imagenet", SIZES, folder)


def test_linked_class_folders_are_classes(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    away = tmp_path_factory.mktemp("away")
    touch(away, "1.jpg", "2.jpg")
    (folder / "train/cat").symlink_to(away)
    (folder / "train/gone").symlink_to(away / "absent")
    for name in ("train/loop", "train/ant/loop"):
        (folder / name).symlink_to(folder / name)
    found = load_dataset("imagenet", SIZES, folder)
    assert found.classes == ("ant", "bee", "cat")
    assert said(found)[0] == "train: links that lead nowhere, left out: 2, such as gone"


def test_pictures_that_no_class_has_are_counted(folder: Path) -> None:
    touch(folder / "train", "1.jpg", "2.PNG", "README.md", "bee/close/1.jpg", "bee/far/1.jpg")
    found = load_dataset("imagenet", SIZES, folder)
    assert len(found.train) + len(found.selection) == 22
    assert said(found) == [
        "train: pictures beside the class folders, left out: 2, such as 1.jpg",
        "train: folders inside of class folders, left out with all that is in them: 2, such as "
        "bee/close",
    ]


def test_suffixes_that_are_not_read_are_counted_and_others_are_read_in_any_case(
    folder: Path,
) -> None:
    touch(folder / "train/ant", "1.gif", "2.GIF", "3.heic", "4", "a.JPG", "b.Tiff", "c.WebP")
    found = load_dataset("imagenet", SIZES, folder)
    assert len(found.train) + len(found.selection) == 25
    assert said(found) == [
        "train: files that are not read because of their suffix, .gif (2), .heic (1), no suffix "
        "(1): 4, such as ant/1.gif",
    ]


def test_pictures_without_class_folders_are_refused(tmp_path: Path) -> None:
    """As ImageNet publishes its val/."""
    class_folders(tmp_path, "train", {"ant": 5, "bee": 5})
    touch(tmp_path / "val", "1.JPEG", "2.JPEG")
    with pytest.raises(DataError, match="val has no subfolders for its 2 images: it needs one for"):
        load_class_folders(tmp_path)


def test_a_folder_without_any_picture_says_what_is_there_instead(tmp_path: Path) -> None:
    def refusal() -> str:
        with pytest.raises(DataError) as raised:
            load_class_folders(tmp_path)
        return str(raised.value)

    touch(tmp_path / "train/ant", "1.gif", "2.avif", "3.gif")
    assert "but files with other suffixes: .gif (2), .avif (1)" in refusal()
    touch(tmp_path / "train/bee", "front/1.jpg")
    assert "but bee has a folder front: put the images of a class into one folder" in refusal()


def test_the_same_class_of_macos_and_linux_is_one_class(tmp_path: Path) -> None:
    composed, decomposed = "p\u00e2t\u00e9", "pa\u0302te\u0301"
    class_folders(tmp_path, "train", {composed: 5, "pain": 5})
    class_folders(tmp_path, "val", {decomposed: 2, "pain": 2})
    found = load_class_folders(tmp_path)
    assert found.classes == ("pain", composed)
    assert sorted(torch.cat([found.selection.labels, found.report.labels]).tolist()) == [0, 0, 1, 1]
    touch(tmp_path / "train" / decomposed, "1.jpg")
    with pytest.raises(DataError, match="has two folders for the class 'pâté'"):
        load_class_folders(tmp_path)


def test_classes_that_differ_only_in_case_are_two_and_are_noticed(tmp_path: Path) -> None:
    class_folders(tmp_path, "train", {"cat": 5, "Cat": 5})
    found = load_class_folders(tmp_path)
    assert found.classes == ("Cat", "cat")
    assert (
        "classes that differ from another one only in case: 1, such as cat and Cat"
        in said(found)[0]
    )


def test_a_folder_name_that_is_not_utf8_is_refused_before_the_training(tmp_path: Path) -> None:
    os.makedirs(os.path.join(os.fsencode(tmp_path), b"train/caf\xe9"))
    with pytest.raises(DataError, match=r"caf\\xe9' is not in UTF-8: rename it"):
        load_class_folders(tmp_path)


NAMES = st.sampled_from(
    [
        "ant",
        "Bee",
        "猫",
        "T-shirt%2Ftop",
        ".git",
        "__MACOSX",
        "lost+found",
        "@eaDir",
        "a b",
        "x.jpg",
    ]
)
FILES = st.sampled_from(
    ["1.jpg", "2.PNG", "._1.jpg", "3.gif", "4", ".5.png", "6.tif", "notes.txt", "7.jpeg/8.png"]
)


@settings(max_examples=40, deadline=None)
@given(tree=st.dictionaries(NAMES, st.sets(FILES), min_size=1, max_size=6), beside=st.sets(FILES))
def test_the_classes_are_exactly_those_with_a_picture_of_their_own(
    tree: dict[str, set[str]], beside: set[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("tree")
    for name, files in tree.items():
        (root / name).mkdir()
        touch(root / name, *files)
    touch(root, *beside)
    by_tools = {".git", "__MACOSX", "lost+found", "@eaDir"}
    expected = {
        name.replace("%2F", "/"): files & {"1.jpg", "2.PNG", "6.tif"}
        for name, files in tree.items()
        if name not in by_tools and files & {"1.jpg", "2.PNG", "6.tif"}
    }
    # of the files beside the class folders only one makes a folder, which has a picture
    if "7.jpeg/8.png" in beside:
        expected["7.jpeg"] = {"8.png"}
    if not expected:
        with pytest.raises(DataError, match="has no "):
            list_classes(root, Notes("train"))
        return
    found = list_classes(root, Notes("train"))
    assert list(found) == sorted(expected)
    files, labels = labelled(found, list(found))
    assert [(list(found)[k], path.name) for path, k in zip(files, labels, strict=True)] == [
        (name, file) for name in sorted(expected) for file in sorted(expected[name])
    ]


def test_own_classes_are_judged_on_val_and_test(folder: Path) -> None:
    class_folders(folder, "test", {"bee": 3})
    found = load_class_folders(folder, HOW, calibration=7)
    assert found.classes == ("ant", "bee")
    assert paths(found.train) == set(map(str, folder.glob("train/*/*")))
    assert paths(found.selection) == set(map(str, folder.glob("val/*/*")))
    assert paths(found.report) == set(map(str, folder.glob("test/*/*")))
    assert found.report.labels.tolist() == [1, 1, 1]
    assert paths(found.calibration) < paths(found.train)
    assert set(found.calibration.labels.tolist()) == {0, 1}  # not only those of the first class
    assert {split.preprocessing for split in (found.train, found.report)} == {HOW}


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_without_test_each_half_of_val_is_for_one_thing(
    val: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "val").rename(folder / val)
    with caplog.at_level(logging.INFO):
        found = load_class_folders(folder)
    both = paths(found.selection) | paths(found.report)
    assert both == set(map(str, (folder / val).glob("*/*")))
    for half in (found.selection, found.report):
        assert half.labels.bincount().tolist() == [2, 2]
    assert "4 images for selection, 4 for the report" in caplog.text


@pytest.mark.parametrize("test", [True, False])
def test_without_val_a_fifth_of_each_class_is_held_out(test: bool, tmp_path: Path) -> None:
    class_folders(tmp_path, "train", {"ant": 14, "bee": 10, "cat": 3})
    if test:
        class_folders(tmp_path, "test", {"ant": 2})
    found = load_class_folders(tmp_path)
    names = ("ant/004", "ant/009", "bee/004", "bee/009")
    held_out = {f"{tmp_path}/train/{name}.jpg" for name in names}
    if test:
        assert paths(found.selection) == held_out
        assert paths(found.report) == set(map(str, tmp_path.glob("test/*/*")))
    else:
        assert (len(found.selection), len(found.report)) == (2, 2)
        assert paths(found.selection) | paths(found.report) == held_out
    assert paths(found.train) == set(map(str, tmp_path.glob("train/*/*"))) - held_out
    assert paths(found.calibration) <= paths(found.train)


def test_a_test_split_without_labels_is_left_out(folder: Path) -> None:
    """As competitions publish it."""
    touch(folder / "test", "1.jpg", "2.jpg", "sample.csv")
    found = load_class_folders(folder)
    assert (len(found.selection), len(found.report)) == (4, 4)
    assert said(found) == ["test: images without a class folder, left out: 2, such as 1.jpg"]


def test_a_single_class_is_refused_with_what_was_left_out(tmp_path: Path) -> None:
    """Pictures of an iPhone are HEIC files, which are not read."""
    class_folders(tmp_path, "train", {"ant": 9})
    class_folders(tmp_path, "val", {"ant": 9})
    touch(tmp_path / "train/bee", "1.heic", "2.heic")
    for load in (load_class_folders, lambda folder: load_dataset("imagenet", SIZES, folder)):
        with pytest.raises(DataError, match=r"one class only, 'ant'.* such as bee;.*heic"):
            load(tmp_path)


@pytest.mark.parametrize("names", [("images", "masks"), ("img",), ("Images", "labels")])
def test_folders_of_pictures_and_labels_are_no_classes(
    names: tuple[str, ...], tmp_path: Path
) -> None:
    """As train/images and train/labels of YOLO, and train/images and train/masks elsewhere."""
    for part in ("train", "val"):
        class_folders(tmp_path, part, dict.fromkeys(names, 9))
    for load in (load_class_folders, lambda folder: load_dataset("imagenet", SIZES, folder)):
        with pytest.raises(DataError, match=r"where class folders should be.* another layout"):
            load(tmp_path)


def test_a_folder_without_train_is_refused_with_what_it_has(tmp_path: Path) -> None:
    class_folders(tmp_path, "Train", {"ant": 9, "bee": 9})
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=f"{tmp_path} has Train/, notes.txt: put the folders"):
        load_class_folders(tmp_path)


def test_too_few_pictures_to_hold_some_out_are_refused(tmp_path: Path) -> None:
    class_folders(tmp_path, "train", {"ant": 4, "bee": 9})
    with pytest.raises(DataError, match=r"has no val/, and too few images .* add val/<class>/"):
        load_class_folders(tmp_path)


def test_a_folder_that_is_given_is_used_or_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"digits comes with scikit-learn .* leave --data /nowhere"):
        load_dataset("digits", load_recipe("digits").images, Path("/nowhere"))
    with pytest.raises(DataError, match="/nowhere/at/all does not exist"):
        load_class_folders(Path("/nowhere/at/all"))
    digits = about_of("digits", load_dataset("digits", load_recipe("digits").images))
    with pytest.raises(DataError, match="/nowhere/at/all does not exist"):
        dataset_to_finetune(digits, Path("/nowhere/at/all"))
    with pytest.raises(DataError, match=f"{tmp_path}/train is not a folder"):
        dataset_to_finetune(digits, tmp_path)


def about_of(name: str, dataset: Dataset) -> About:
    sizes = {"imagenet": SIZES, "digits": load_recipe("digits").images}[name]
    return describe(dataset, msgspec.structs.replace(load_recipe(name), images=sizes))


def test_the_folder_that_trained_a_supernet_keeps_its_splits(folder: Path) -> None:
    trained = load_dataset("imagenet", SIZES, folder)
    found = dataset_to_finetune(about_of("imagenet", trained), folder)
    for part in ("train", "selection", "report"):
        assert paths(found.split(part)) == paths(trained.split(part))


def test_no_picture_that_trained_the_weights_judges_them(folder: Path) -> None:
    """A folder that has grown would be divided in another way."""
    trained = load_dataset("imagenet", SIZES, folder)
    about = about_of("imagenet", trained)
    touch(folder / "train/ant", "new.jpg")
    grown = load_dataset("imagenet", SIZES, folder)
    assert paths(grown.selection) & paths(trained.train)
    with pytest.raises(DataError, match="has other images in train/ than when the supernet was"):
        dataset_of(about, folder)
    found = dataset_to_finetune(about, folder)
    assert not (paths(found.selection) | paths(found.report)) & paths(trained.train)
    assert len(found.train) == 23
    (folder / "val").rename(folder / "away")
    with pytest.raises(DataError, match=r"has no val/, .* was trained on the class 'ant' too"):
        dataset_to_finetune(about, folder)
    older = msgspec.structs.replace(about, listing="")  # it has no digest to compare
    (folder / "away").rename(folder / "val")
    assert len(dataset_of(older, folder).selection) == 4


LABELLED = SplitSizes(train=0, selection=0, calibration=8)
INIT = Preprocessing(Normalisation((0.4,) * 3, (0.3,) * 3, "rgb"), "bicubic", margin=32)


def of_folder(dataset: Dataset) -> About:
    recipe = msgspec.structs.replace(load_recipe("pretrained"), images=LABELLED)
    return describe(dataset, recipe)


def test_a_supernet_of_a_labelled_folder_leads_back_to_its_splits(folder: Path) -> None:
    trained = load_dataset("folder", LABELLED, folder, INIT)
    assert (len(trained.train), len(trained.calibration)) == (22, 8)
    assert trained.train.preprocessing == INIT
    about = of_folder(trained)
    for found in (dataset_of(about, folder), dataset_to_finetune(about, folder)):
        assert (found.name, found.classes) == ("folder", ("ant", "bee"))
        for part in ("train", "calibration", "selection", "report"):
            one, other = found.split(part), trained.split(part)
            assert paths(one) == paths(other)
            assert one.labels.tolist() == other.labels.tolist()
            assert one.preprocessing == INIT
    with pytest.raises(DataError, match="data set folder needs --data DIR with train/<class>/"):
        dataset_of(about)


def test_without_weights_a_labelled_folder_is_prepared_as_imagenet_is(folder: Path) -> None:
    how = load_dataset("folder", LABELLED, folder).report.preprocessing
    assert how == Preprocessing(Normalisation(), "bicubic", margin=32)


CHANGES = {
    "a picture more in train/": lambda root: touch(root / "train/ant", "new.jpg"),
    "a picture less in train/": lambda root: (root / "train/bee/003.jpg").unlink(),
    "a picture moved to val/": lambda root: (root / "train/ant/000.jpg").rename(
        root / "val/ant/new.jpg"
    ),
    "a picture more in val/": lambda root: touch(root / "val/ant", "new.jpg"),
    "no val/": lambda root: (root / "val").rename(root / "away"),
    "a test/ or none": lambda root: (
        (root / "test").rename(root / "away")
        if (root / "test").is_dir()
        else touch(root / "test/ant", "1.jpg")
    ),
}


@pytest.mark.parametrize("parts", [("train", "val"), ("train", "val", "test")])
@pytest.mark.parametrize("change", CHANGES)
def test_a_folder_with_other_splits_than_those_that_trained_is_refused(
    change: str, parts: tuple[str, ...], tmp_path: Path
) -> None:
    for part in parts:
        class_folders(tmp_path, part, {"ant": 12, "bee": 10})
    about = of_folder(load_dataset("folder", LABELLED, tmp_path))
    CHANGES[change](tmp_path)
    with pytest.raises(DataError, match=r"has other images in train/ or val/, or another .* than"):
        dataset_of(about, tmp_path)


def test_more_pictures_to_report_on_change_no_other_split(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        class_folders(tmp_path, part, {"ant": 12, "bee": 10})
    trained = load_dataset("folder", LABELLED, tmp_path)
    touch(tmp_path / "test/bee", "new.jpg")
    found = dataset_of(of_folder(trained), tmp_path)
    assert len(found.report) == len(trained.report) + 1
    assert paths(found.selection) == paths(trained.selection)


def test_a_grown_folder_that_trained_a_supernet_needs_a_val_to_finetune_on(folder: Path) -> None:
    """Every fifth picture of train/ would be held out anew, and these have trained the weights."""
    about = of_folder(load_dataset("folder", LABELLED, folder))
    touch(folder / "train/ant", "new.jpg")
    assert len(dataset_to_finetune(about, folder).train) == 23
    (folder / "val").rename(folder / "away")
    with pytest.raises(DataError, match=r"has no val/, .* was trained on the class 'ant' too"):
        dataset_to_finetune(about, folder)


def test_imported_weights_see_images_as_they_were_trained_to(tmp_path: Path) -> None:
    """And not as the reader of ImageNet would prepare them for a training of its own."""
    for part in ("train", "val"):
        class_folders(tmp_path, part, {"ant": 12, "bee": 10})
    found = dataset_of(About(("ant", "bee"), INIT, "", ""), tmp_path)
    for part in ("train", "calibration", "selection", "report"):
        assert found.split(part).preprocessing == INIT


def test_other_classes_are_read_with_the_preprocessing_of_the_supernet(folder: Path) -> None:
    about = about_of("digits", load_dataset("digits", load_recipe("digits").images))
    found = dataset_to_finetune(about, folder)
    assert found.classes == ("ant", "bee")
    assert found.train.preprocessing == about.preprocessing
    imported = About(("x", "y", "z"), HOW, "", "")
    assert dataset_to_finetune(imported, folder).classes == ("ant", "bee")


ODD_NAMES = st.lists(
    st.one_of(
        st.sampled_from(["T-shirt/top", "..", ".git", "CON", "a.", "Cat", "cat", "x" * 300]),
        st.sampled_from(["\u00e9", "e\u0301"]),
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8),
    ),
    min_size=1, max_size=5, unique=True,
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(names=ODD_NAMES)
def test_classes_of_any_name_are_written_and_read_back(
    names: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("odd")
    pixels = np.arange(len(names) * 2, dtype=np.uint8)[:, None, None].repeat(3, 1).repeat(3, 2)
    labels = torch.arange(len(names)).repeat(2)
    split = Split(Arrays(pixels), labels, HOW)
    dataset = Dataset("odd", tuple(names), "", "", split, split, split, split)
    assert write_image_folder(dataset, "report", root / "out") == len(split)
    found = load_folder(root / "out", names, HOW, 100)
    grey = [int(found.images[i][0, 0, 0]) for i in range(len(found))]
    assert len(found) == len(split)
    assert [labels[value] for value in grey] == found.labels.tolist()


def test_a_class_with_a_slash_keeps_its_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Fashion-MNIST has the class `T-shirt/top`."""
    pixels = np.zeros((12, 4, 4), np.uint8)
    split = Split(Arrays(pixels), torch.tensor([0, 1] * 6), HOW)
    dataset = Dataset("fashion", ("T-shirt/top", "Trouser"), "", "", split, split, split, split)
    for part in ("train", "val"):
        write_image_folder(dataset, "report", tmp_path / part)
    assert "the class 'T-shirt/top' is in the folder 'T-shirt%2Ftop'" in caplog.text
    assert load_class_folders(tmp_path).classes == ("T-shirt/top", "Trouser")


def test_numbered_class_folders_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    """ImageNetV2 calls its folders 0 to 999, and sorted as words 10 would come before 2."""
    names = [str(i) for i in range(12)]
    for part in ("train", "val"):
        class_folders(tmp_path, part, dict.fromkeys(names, 2))
    classes = tuple("abcdefghijkl")
    found = dataset_of(About(classes, HOW, "", ""), tmp_path)
    for split in (found.calibration, found.selection, found.report):
        assert isinstance(split.images, Files)
        folders = [int(path.parent.name) for path in split.images.paths]
        assert split.labels.tolist() == folders
    found_again = load_folder(tmp_path / "val", classes, HOW, 100)
    assert isinstance(found_again.images, Files)
    folders = [int(path.parent.name) for path in found_again.images.paths]
    assert found_again.labels.tolist() == folders


def test_classes_with_the_names_of_the_weights_have_their_places(tmp_path: Path) -> None:
    for part in ("train", "val"):
        class_folders(tmp_path, part, {"ant": 2, "bee": 2, "cat": 2})
    found = dataset_of(About(("cat", "ant", "bee"), HOW, "", ""), tmp_path)
    assert found.classes == ("cat", "ant", "bee")
    assert isinstance(found.report.images, Files)
    named = [found.classes[k] for k in found.report.labels]
    assert named == [path.parent.name for path in found.report.images.paths]


def test_a_class_without_a_picture_keeps_its_place_among_the_others(tmp_path: Path) -> None:
    """As where a test set has the folders of all classes, under other names."""
    for name in ("n01", "n02", "n03", ".git"):
        (tmp_path / name).mkdir()
    cv2.imwrite(str(tmp_path / "n03/1.png"), np.zeros((4, 4, 3), np.uint8))
    assert load_folder(tmp_path, ("x", "y", "z"), HOW, 9).labels.tolist() == [2]


def test_a_picture_that_cannot_be_written_is_named_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = Split(Arrays(np.zeros((1, 4, 4), np.uint8)), torch.tensor([0]), HOW)
    dataset = Dataset("d", ("a",), "", "", split, split, split, split)

    def fails(suffix: str, image: np.ndarray) -> None:
        raise cv2.error("the encoder is missing")

    for encode, reason in (
        (lambda suffix, image: (False, None), "OpenCV does not say why"),
        (fails, "the encoder is missing"),
    ):
        monkeypatch.setattr(images.cv2, "imencode", encode)
        with pytest.raises(DataError, match=f"image 0 cannot be written as PNG: {reason}"):
            write_image_folder(dataset, "report", tmp_path / "out")
        assert not (tmp_path / "out").exists()
