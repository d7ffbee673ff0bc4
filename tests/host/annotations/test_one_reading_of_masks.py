"""Folders of masks as people have them: read as they mean it, or refused with what was seen."""

from __future__ import annotations

import codecs
import json
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

torch = pytest.importorskip("torch")

from ramnas_host.annotations import label_check
from ramnas_host.annotations.cityscapes import load_cityscapes
from ramnas_host.annotations.label_check import look_at_labels
from ramnas_host.annotations.segmentation_data import IGNORED
from ramnas_host.finetuning.segmentation import segmentation_evaluation
from ramnas_host.finetuning.segmentation_metrics import confusion
from ramnas_models.errors import DataError, SourceError
from tests.host.annotations.mask_files import FORMS, drawn, named, save_palette, write_set

# In the training set of Cityscapes 88 % of the pixels have one of the 19 classes; these have most.
STREET = {7: 33, 8: 5, 11: 20, 13: 1, 17: 1, 20: 1, 21: 14, 23: 3, 24: 1, 26: 6, 1: 5, 3: 5, 4: 2}
# sky, building, pole, road, pavement, tree, sign, fence, car, pedestrian, bicyclist, void
CAMVID = (16, 23, 1, 27, 6, 10, 1, 1, 6, 1, 1, 7)


def both(*masks: np.ndarray) -> dict[str, Sequence[np.ndarray]]:
    return {"train": masks, "val": masks}


def street(seed: int = 0) -> np.ndarray:
    return drawn(list(STREET), list(STREET.values()), seed)


def texts(folder: Path) -> list[str]:
    """The findings as people read them, those that make training wrong with `wrong: ` before."""
    found = load_cityscapes(folder).findings
    return [f"{'wrong: ' if finding.wrong else ''}{finding}" for finding in found]


def refusal(folder: Path) -> str:
    with pytest.raises(DataError) as raised:
        load_cityscapes(folder)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# Without a labels.json the ids can only be those of Cityscapes.


def test_ids_of_camvid_are_not_taken_for_classes_of_cityscapes(tmp_path: Path) -> None:
    write_set(tmp_path, both(drawn(range(12), CAMVID), drawn(range(12), CAMVID, 1)))
    text = refusal(tmp_path)
    assert "the label images have ids 0 to 11" in text
    assert re.search("8[5-8] % of the pixels in all 4 label images would be ignored", text)
    assert '[{"name": "road", "id": 0, "trainId": 0}, ...]' in text
    assert str(tmp_path / "labels.json") in text
    names = named(*(f"class {i}" for i in range(12)))
    (tmp_path / "labels.json").write_text(json.dumps(names))
    data = load_cityscapes(tmp_path)
    assert len(data.classes) == 12
    np.testing.assert_array_equal(data.train.read(0)[1], drawn(range(12), CAMVID))


OTHERS = {
    "train ids": (
        drawn([*range(19), 255], [37, 6, 23, 1, 1, 1, 1, 1, 16, 1, 4, *[1] * 8, 10]),
        "ids 0 to 18, 255",
    ),
    "a forest in train ids": (drawn([0, 2, 8, 255], [20, 5, 60, 10]), "ids 0, 2, 8, 255"),
    "Pascal VOC": (drawn([*range(21), 255], [69, *[1] * 20, 5]), "ids 0 to 20, 255"),
    "two classes": (drawn([0, 1], [80, 20]), "ids 0 to 1"),
    "white on black": (drawn([0, 255], [80, 20]), "ids 0, 255"),
    "ADE20K": (drawn(range(151), [1] * 151), "ids 0 to 150"),
    "smooth edges": (np.arange(512).reshape(16, 32).astype(np.uint8), "ids 0 to 255"),
    "nothing": (np.zeros((4, 6), np.uint8), "id 0"),
    "instance ids": (
        drawn([7, 8, 11, 26001, 26002], [3, 1, 2, 1, 1]), "ids 7 to 8, 11, 26001 to 26002"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_ids_that_are_not_those_of_cityscapes_are_refused(tmp_path: Path, name: str) -> None:
    mask, ids = OTHERS[name]
    form = "grey" if mask.dtype == np.uint8 else "16 bit"
    text = refusal(write_set(tmp_path, both(mask, mask), save=FORMS[form]))
    assert f"the label images have {ids}. These are not" in text
    assert "Name the classes in" in text
    assert ("if they are Cityscapes' train ids" in text) == name.startswith("train ids")


@pytest.mark.parametrize(
    "mask",
    [
        street(),
        drawn([0, 7, 11, 26], [70, 20, 7, 3]),  # most is not labelled yet
        drawn([7, 8, 11, 17], [6, 1, 2, 1]),  # inside of a building
        np.full((4, 6), 7, np.uint8),
    ],
)
def test_label_ids_of_cityscapes_need_no_list(tmp_path: Path, mask: np.ndarray) -> None:
    data = load_cityscapes(write_set(tmp_path, both(mask, mask)))
    assert len(data.classes) == 19
    assert ((data.train.read(0)[1] == 0) == (mask == 7)).all()


def test_train_ids_are_read_where_the_files_are_named_so(tmp_path: Path) -> None:
    mask = OTHERS["train ids"][0]
    ending = "_gtFine_labelTrainIds.png"
    data = load_cityscapes(write_set(tmp_path, both(mask, mask), ending=ending))
    np.testing.assert_array_equal(data.train.read(0)[1], mask)
    assert data.classes[18] == "bicycle"
    # with label ids beside them, those are read
    write_set(tmp_path, both(street(), street()))
    found = load_cityscapes(tmp_path).train.read(0)[1]
    assert ((found == 0) == (street() == 7)).all()


def test_other_ids_in_files_of_train_ids_are_refused(tmp_path: Path) -> None:
    ending = "_gtFine_labelTrainIds.png"
    text = refusal(write_set(tmp_path, both(street(), street()), ending=ending))
    assert "These are not the train ids of Cityscapes" in text


# With a labels.json everything that occurs should be in it.


def test_ids_that_are_not_listed_are_counted_and_shown(tmp_path: Path) -> None:
    mask = np.zeros((10, 10), np.uint8)
    mask[:, 5:] = 1
    mask[:3, 0] = (7, 8, 255)
    write_set(tmp_path, both(mask, mask), labels=named("floor", "wall"))
    found = texts(tmp_path)
    (stray,) = [text for text in found if "gtFine/train" in text and "7 to 8" in text]
    assert stray.startswith("wrong: gtFine/train: pixels that are ignored, because")
    assert "labels.json does not list ids 7 to 8 (2.0 % of the pixels in all 2 label" in stray
    assert ": 4, such as" in stray
    assert stray.endswith("town_000000_000000_gtFine_labelIds.png")
    # 255 means void in most sets, so it is said but is not wrong
    (void,) = [text for text in found if "gtFine/train" in text and "id 255 (1.0 %" in text]
    assert not void.startswith("wrong")


def test_listed_ids_that_are_ignored_are_no_finding(tmp_path: Path) -> None:
    mask = drawn([0, 1, 2, 3, 255], [4, 4, 1, 1, 1])
    other = drawn([0, 1, 2, 3, 255], [4, 4, 1, 1, 1], 1)
    ignored = [{"name": None, "id": 2, "trainId": -7}, {"name": "ego", "id": 3, "trainId": 255},
               {"name": "plate", "id": -1, "trainId": -1}]  # fmt: skip
    write_set(tmp_path, both(mask, other), labels=[*named("floor", "wall"), *ignored])
    assert [text for text in texts(tmp_path) if "gtFine" in text] == []
    found = load_cityscapes(tmp_path).train.read(0)[1]
    np.testing.assert_array_equal(found, np.where(mask > 1, IGNORED, mask))


def test_a_few_pixels_of_other_ids_do_not_make_training_wrong(tmp_path: Path) -> None:
    mask = drawn([0, 1], [1, 1])
    mask[0, :3] = 9
    write_set(tmp_path, both(mask, drawn([0, 1], [1, 1], 1)), labels=named("floor", "wall"))
    (text,) = [text for text in texts(tmp_path) if "gtFine/train" in text]
    assert text.startswith("gtFine/train: pixels that are ignored")
    assert re.search(r"id 9 \((0.1|less than 0.1) % of", text)


def test_masks_without_any_class_are_refused(tmp_path: Path) -> None:
    labels = [{"name": "floor", "id": 7, "trainId": 0}, {"name": "wall", "id": 8, "trainId": 1}]
    void = np.full((4, 6), 255, np.uint8)
    text = refusal(write_set(tmp_path, both(void, void), labels=labels))
    assert "every pixel of the 2 label images of train is ignored: they have id 255" in text


def test_a_half_of_val_without_any_class_is_refused_before_a_training(tmp_path: Path) -> None:
    mask, void = drawn([0, 1], [1, 1]), np.full((40, 50), 255, np.uint8)
    masks = {"train": [mask] * 2, "val": [mask, void, mask, void]}
    text = refusal(write_set(tmp_path, masks, labels=named("floor", "wall")))
    assert "no label image that is for the report has a class or can be read, such as" in text
    assert "val/town/town_000001_000000_gtFine_labelIds.png: mend the label images" in text


def test_a_few_masks_with_classes_among_many_without_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_check, "SOON", 0)
    masks = [np.full((2, 3), 255, np.uint8) for _ in range(250)]
    masks[1][0] = (0, 1, 1)
    write_set(tmp_path, {"train": masks, "val": [masks[1]] * 2}, labels=named("floor", "wall"))
    assert len(load_cityscapes(tmp_path).train) == 250


def test_masks_of_one_single_class_make_training_wrong(tmp_path: Path) -> None:
    """Such as 0 and 255 where a labels.json says 0 and 1."""
    mask = drawn([0, 255], [3, 1])
    write_set(tmp_path, both(mask, mask), labels=named("background", "crack"))
    found = texts(tmp_path)
    (single,) = [text for text in found if "gtFine/train: label images of one" in text]
    assert single.startswith("wrong: ")
    assert "background (" in single
    assert "% of the pixels are ignored)" in single
    assert "gtFine/train: classes that no label image has: 1, such as crack" in found


def test_a_class_that_only_val_has_is_said(tmp_path: Path) -> None:
    masks = {"train": [drawn([0, 1], [1, 1])] * 2, "val": [drawn([0, 1, 2], [1, 1, 1])] * 2}
    write_set(tmp_path, masks, labels=named("floor", "wall", "door", "lift"))
    found = texts(tmp_path)
    missing = "gtFine/train: classes that no label image has"
    assert f"wrong: {missing}, though those of val do: 1, such as door" in found
    assert f"{missing}: 1, such as lift" in found


def test_only_a_sample_of_many_large_label_images_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks = [drawn([0, 1], [1, 1])[:2, :3] for _ in range(300)]
    write_set(tmp_path, {"train": masks, "val": masks[:2]}, labels=named("floor", "wall", "door"))
    said = "gtFine/train: classes that no label image has: 1, such as door"
    assert said in texts(tmp_path)
    monkeypatch.setattr(label_check, "SOON", 300 * 6 - 1)
    data = load_cityscapes(tmp_path)
    assert said not in map(str, data.findings)  # the others may have it
    assert said in map(str, load_cityscapes(tmp_path, every_label=True).findings)
    seen = look_at_labels(data.train)
    assert (seen.looked, seen.count, seen.sample) == (100, 300, "100 of 300")
    assert look_at_labels(data.train, 300).pixels.sum() == 300 * 6
    assert data.train.label_counts(0) == {0: 6 - int(masks[0].sum()), 1: int(masks[0].sum())}


# Files that are label images in another form, or are none.


def test_palettes_are_read_by_their_index(tmp_path: Path) -> None:
    mask = drawn(range(12), CAMVID)
    write_set(tmp_path, both(mask, mask), labels=named(*"abcdefghijkl"), save=save_palette)
    np.testing.assert_array_equal(load_cityscapes(tmp_path).train.read(0)[1], mask)


def test_ids_beyond_255_have_classes_if_they_are_listed(tmp_path: Path) -> None:
    mask = drawn([0, 300, 65000], [1, 1, 1])
    labels = [{"name": "T-shirt/top", "id": 300, "trainId": 0},
              {"name": "靴", "id": 65000, "trainId": 1},
              {"name": "void", "id": 0, "trainId": 255}]  # fmt: skip
    write_set(tmp_path, both(mask, mask), labels=labels, save=FORMS["16 bit"])
    data = load_cityscapes(tmp_path)
    assert data.classes == ("T-shirt/top", "靴")
    found = data.train.read(0)[1]
    assert {int(i): set(found[mask == i].tolist()) for i in np.unique(mask)} == {
        0: {IGNORED}, 300: {0}, 65000: {1}
    }  # fmt: skip


def test_painted_labels_are_read_where_every_class_has_a_colour_of_its_own(tmp_path: Path) -> None:
    colours = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0], [9, 9, 9]], np.uint8)

    def save(ids: np.ndarray, path: Path) -> None:
        Image.fromarray(colours[ids]).save(path)

    mask = drawn([0, 1, 2, 3], [1, 1, 1, 1])
    labels = named("floor", "wall", "door")
    write_set(tmp_path, both(mask, mask), labels=labels, save=save)
    text = refusal(tmp_path)
    assert "none of the 2 label images of train can be read. The first: " in text
    assert "labelIds.png is painted in colours (mode RGB)" in text
    coloured = [{**label, "color": colours[i].tolist()} for i, label in enumerate(labels)]
    void = {"name": "void", "id": -1, "trainId": -1, "color": [9, 9, 9]}
    (tmp_path / "labels.json").write_text(json.dumps([*coloured, void]))
    found = load_cityscapes(tmp_path).train.read(0)[1]
    np.testing.assert_array_equal(found, np.where(mask == 3, IGNORED, mask))
    # two classes of one colour cannot be told apart
    coloured[2]["color"] = [128, 0, 0]
    (tmp_path / "labels.json").write_text(json.dumps([*coloured, void]))
    assert "painted in colours" in refusal(tmp_path)


def test_jpeg_labels_are_refused_by_name(tmp_path: Path) -> None:
    def save(ids: np.ndarray, path: Path) -> None:
        cv2.imwrite(str(path), ids)

    write_set(tmp_path, both(street(), street()), save=save, ending="_gtFine_labelIds.jpg")
    assert "labelIds.jpg is a JPEG image, whose compression changes label ids" in refusal(tmp_path)


def test_a_broken_label_image_is_named_and_not_its_sound_photo(tmp_path: Path) -> None:
    write_set(tmp_path, both(street(), street(1), street(2)))
    label = tmp_path / "gtFine/train/town/town_000001_000000_gtFine_labelIds.png"
    label.write_bytes(label.read_bytes()[:200])
    (text,) = [text for text in texts(tmp_path) if "cannot be read" in text]
    assert text == (
        "gtFine/train: label images that cannot be read, left out: 1, such as "
        f"{label} cannot be read as a label image: image file is truncated"
    )
    data = load_cityscapes(tmp_path)
    with pytest.raises(SourceError, match=r"gtFine_labelIds\.png cannot be read") as raised:
        data.train.read(1)
    assert "leftImg8bit" not in str(raised.value)
    photo = Path(data.train.images.name(2))
    photo.write_bytes(photo.read_bytes()[:200])
    with pytest.raises(SourceError, match="leftImg8bit") as raised:
        data.train.read(2)
    assert "gtFine" not in str(raised.value)


@pytest.mark.parametrize("turned", [False, True])
def test_masks_fit_pictures_that_their_exif_turns(tmp_path: Path, turned: bool) -> None:
    """Some tools label the stored pixels, and others the picture as it is seen."""
    stored = np.zeros((30, 40), np.uint8)
    stored[:, :20] = 1
    mask = np.rot90(stored, -1) if turned else stored  # orientation 6: a quarter turn to the right
    folder = write_set(tmp_path, both(mask, mask), labels=named("floor", "wall"))
    exif = Image.Exif()
    exif[0x0112] = 6
    for path in (folder / "leftImg8bit").rglob("*.png"):
        Image.fromarray(stored * 255).convert("RGB").save(path.with_suffix(".jpg"), exif=exif)
        path.unlink()
    image, labels = load_cityscapes(folder).train.read(0)
    assert image.shape[:2] == labels.shape == mask.shape
    assert ((image[..., 0] > 128) == (labels == 1)).mean() > 0.95


# What else lies in folders.


def test_what_systems_and_tools_put_beside_the_pictures_is_no_picture(tmp_path: Path) -> None:
    write_set(tmp_path, both(street(), street(1)))
    expected = load_cityscapes(tmp_path)
    for part in ("leftImg8bit", "gtFine"):
        town = tmp_path / part / "train/town"
        for folder in (".ipynb_checkpoints", "@eaDir", "__MACOSX", ".thumbnails"):
            for root in (town, town.parent):
                (root / folder).mkdir()
                for path in sorted(town.glob("*.png")):
                    (root / folder / path.name).write_bytes(path.read_bytes())
        for path in sorted(town.glob("*.png")):
            (town / f"._{path.name}").write_bytes(b"\0\5\x16\7")
        (town / "Thumbs.db").write_bytes(b"")
    found = load_cityscapes(tmp_path)
    assert list(found.train.images.paths) == list(expected.train.images.paths)
    assert found.findings == expected.findings


def test_pictures_may_have_no_city_and_any_suffix(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for kind in ("leftImg8bit", "gtFine"):
            (tmp_path / kind / part).mkdir(parents=True)
        for i, suffix in enumerate((".jpg", ".PNG", ".JPEG", ".webp")):
            noise = rng.integers(0, 256, (40, 50, 3)).astype(np.uint8)
            path = tmp_path / f"leftImg8bit/{part}/{i}_leftImg8bit"
            cv2.imwrite(f"{path}{suffix.lower()}", noise)
            os.rename(f"{path}{suffix.lower()}", f"{path}{suffix}")
            path = tmp_path / f"gtFine/{part}/{i}_gtFine_labelIds{'.PNG' if i else '.png'}"
            FORMS["grey"](street(i), path)
    data = load_cityscapes(tmp_path)
    assert len(data.train) == 4
    for i in range(4):
        assert ((data.train.read(i)[1] == 0) == (street(i) == 7)).all()


def test_label_images_without_a_picture_and_other_pictures_are_said(tmp_path: Path) -> None:
    write_set(tmp_path, both(street(), street(1), street(2)))
    (tmp_path / "leftImg8bit/train/town/town_000002_000000_leftImg8bit.png").unlink()
    shot = tmp_path / "leftImg8bit/train/town/preview.png"
    cv2.imwrite(str(shot), np.zeros((4, 4, 3), np.uint8))
    assert len(load_cityscapes(tmp_path).train) == 2
    found = texts(tmp_path)
    assert any(f"left out: 1, such as {shot}" in text for text in found)
    assert any("label images without a picture, left out: 1, such as" in text for text in found)


def test_a_picture_without_a_label_image_is_refused_with_what_lies_beside_it(
    tmp_path: Path,
) -> None:
    write_set(tmp_path, both(street(), street(1)))
    label = tmp_path / "gtFine/train/town/town_000001_000000_gtFine_labelIds.png"
    label.rename(label.with_name("town_000001_000000_gtFine_color.png"))
    text = refusal(tmp_path)
    assert f"{label} is missing: every image of train needs a label image" in text
    assert "town_000001_000000_gtFine_color.png is no such file" in text


def test_a_folder_that_is_none_and_pictures_of_other_names_are_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nowhere").startswith(f"{tmp_path / 'nowhere'} does not exist: ")
    (tmp_path / "leftImg8bit/train").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "leftImg8bit/train/a.png"), np.zeros((4, 4, 3), np.uint8))
    text = refusal(tmp_path)
    assert "none of the 1 pictures such as" in text
    assert "*_leftImg8bit.png" in text


def test_a_picture_in_train_and_val_is_wrong_but_a_name_in_both_is_not(tmp_path: Path) -> None:
    write_set(tmp_path, both(street(), street(1)))  # the same names in both, with other pictures
    assert not any(text.startswith("wrong") for text in texts(tmp_path))
    train, val = (tmp_path / f"leftImg8bit/{part}/town" for part in ("train", "val"))
    copy = val / "town_000001_000000_leftImg8bit.png"
    copy.write_bytes((train / "town_000000_000000_leftImg8bit.png").read_bytes())
    (wrong,) = [text for text in texts(tmp_path) if text.startswith("wrong")]
    assert "leftImg8bit/val (report): pictures that are in train too: 1, such as" in wrong
    assert str(copy) in wrong
    copy.unlink()
    copy.symlink_to(train / "town_000000_000000_leftImg8bit.png")
    assert [text for text in texts(tmp_path) if text.startswith("wrong")] == [wrong]
    # the halves of val judge for different purposes
    copy.unlink()
    copy.write_bytes((val / "town_000000_000000_leftImg8bit.png").read_bytes())
    (wrong,) = [text for text in texts(tmp_path) if text.startswith("wrong")]
    assert "leftImg8bit/val (report): pictures that are in val (selection) too: 1" in wrong
    # with a test split all of val is for selection
    write_set(tmp_path, {"test": [street(2)]}, labels=named(*map(str, range(34))))
    again = val.parent.parent / "test/town/town_000000_000000_leftImg8bit.png"
    again.write_bytes(copy.read_bytes())
    (wrong,) = [text for text in texts(tmp_path) if "too: " in text]
    assert "wrong: leftImg8bit/test: pictures that are in val too: 1, such as" in wrong


def test_a_test_split_of_blank_label_images_is_not_used(tmp_path: Path) -> None:
    """As Cityscapes publishes it, also beside a labels.json."""
    masks = both(street(), street(1))
    names = [{"name": str(i), "id": i, "trainId": k} for k, i in enumerate(sorted(STREET))]
    write_set(tmp_path, masks, labels=names)
    blank = {"test": [np.zeros((40, 50), np.uint8)] * 2}
    write_set(tmp_path, blank)
    data = load_cityscapes(tmp_path)
    assert {path.parts[-3] for path in data.report.labels} == {"val"}
    assert any("without any class" in text and "it is not used" in text for text in texts(tmp_path))
    for path in (tmp_path / "gtFine/test/town").iterdir():
        path.write_bytes(b"")
    assert "none of the 2 label images of test can be read. The first: " in refusal(tmp_path)
    # without a labels.json nobody looks at the labels of test, which may be missing
    for path in (tmp_path / "gtFine/test/town").iterdir():
        path.unlink()
    (tmp_path / "labels.json").unlink()
    assert len(load_cityscapes(tmp_path).train) == 2


# labels.json as people write it.


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le with a mark"])
def test_a_labels_json_of_an_editor_on_windows_is_read(tmp_path: Path, encoding: str) -> None:
    mask = drawn([0, 1], [1, 1])
    write_set(tmp_path, both(mask, mask))
    text = json.dumps(named("sol/mur", "été"), ensure_ascii=False)
    content = text.encode(encoding) if " " not in encoding else (
        codecs.BOM_UTF16_LE + text.encode("utf-16-le"))  # fmt: skip
    (tmp_path / "labels.json").write_bytes(content)
    assert load_cityscapes(tmp_path).classes == ("sol/mur", "été")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\xff", b"[1]", b'[{"id": 1e9}]'])
def test_a_labels_json_that_is_none_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    write_set(tmp_path, both(street(), street()))
    (tmp_path / "labels.json").write_bytes(content)
    assert "labels.json is not a list of labels: " in refusal(tmp_path)


# Whatever is accepted, a perfect prediction is perfect.


@settings(max_examples=30, deadline=None)
@given(
    masks=st.lists(
        arrays(np.uint8, (6, 7), elements=st.sampled_from([0, 1, 2, 3, 9, 255])),
        min_size=2, max_size=4,
    ),
    form=st.sampled_from(sorted(FORMS)),
    order=st.permutations([0, 1, 2, 3]),
    ignored=st.sampled_from([-1, 255, None]),
)  # fmt: skip
def test_perfect_predictions_of_what_was_kept_score_1(
    masks: list[np.ndarray], form: str, order: Sequence[int], ignored: int | None
) -> None:
    labels = [{"name": f"class {i}", "id": i, "trainId": t} for i, t in enumerate(order)]
    if ignored is not None:
        labels.append({"name": "void", "id": 9, "trainId": ignored})
    with tempfile.TemporaryDirectory() as place:
        folder = write_set(Path(place), both(*masks), labels=labels, save=FORMS[form])
        halves = masks[::2], masks[1::2]
        if any((np.stack(half) > 3).all() for half in halves):
            assert re.search("every pixel|no label image", refusal(folder))
            return
        data = load_cityscapes(folder)
        expected = np.full(256, IGNORED)
        expected[:4] = order
        matrices = []
        for i, mask in enumerate(masks):
            _, truth = data.train.read(i)
            np.testing.assert_array_equal(truth, expected[mask])
            perfect = np.where(truth == IGNORED, 0, truth)
            matrices.append(confusion(truth, perfect, len(data.classes)))
        found = segmentation_evaluation(np.stack(matrices), data.classes, "selection")
        assert found.accuracies[0].value == 1
        assert all(iou.value == 1 for (iou,) in found.by_class.values())
        assert len(found.by_class) == len(np.unique(np.stack(masks)[np.stack(masks) < 4]))
