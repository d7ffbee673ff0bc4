"""Detection data are read once, by one set of rules, whatever tool has written their COCO files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("pycocotools")

from ramnas_host.annotations.coco import load_coco
from ramnas_host.annotations.detection_data import DetectionData, DetectionSplit
from ramnas_host.data.findings import Finding
from ramnas_models.errors import DataError, SourceError
from tests.host.annotations.generated_coco import HW, NAMES, annotated, file, picture, write_sound
from tests.host.finetuning.scored import coco_scores

Change = Callable[[dict[str, Any]], None]


def write(folder: Path, change: Change | None = None, *parts: str) -> Path:
    """A folder with the splits train, val and test; `change` is applied to `parts`, or to all."""
    write_sound(folder)
    for part in parts or ("train", "val", "test"):
        content = annotated()
        if change:
            change(content)
        file(folder, part).write_text(json.dumps(content))
    return folder


def perfect(split: DetectionSplit) -> float:
    """The mAP50-95 of a detector that finds exactly the objects of the split."""
    examples = [objects.take(~objects.crowd) for objects in split.objects]
    found = [(o.boxes, np.ones(len(o.classes)), o.classes) for o in examples]
    return coco_scores(split.objects, found)["mAP50-95"]


def counts(split: DetectionSplit) -> list[int]:
    return [len(objects.classes) for objects in split.objects]


def finding(data: DetectionData, words: str) -> Finding:
    """The one finding that has these words."""
    (found,) = (one for one in data.findings if words in one.what)
    return found


def refusal(folder: Path) -> str:
    """The one line by which a folder is refused."""
    with pytest.raises(DataError) as raised:
        load_coco(folder)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def each(key: str, **values: Any) -> Change:
    """A change of every entry of `key`."""

    def change(content: dict[str, Any]) -> None:
        for entry in content[key]:
            entry.update(values)

    return change


# --- ids


def test_ids_of_annotations_need_not_differ(tmp_path: Path) -> None:
    def again_in_every_picture(content: dict[str, Any]) -> None:
        for place, annotation in enumerate(content["annotations"]):
            annotation["id"] = place % 2

    changes: list[Change] = [
        again_in_every_picture, each("annotations", id=7), each("annotations", id=None),
        lambda content: [a.pop("id") for a in content["annotations"]] and None,
    ]  # fmt: skip
    for i, change in enumerate(changes):
        data = load_coco(write(tmp_path / str(i), change))
        for split in (data.train, data.selection, data.report):
            assert counts(split) == [2] * 4
            assert perfect(split) == pytest.approx(1)
        assert data.findings == ()


def test_an_id_listed_twice_for_one_file_is_one_picture_with_all_objects(tmp_path: Path) -> None:
    data = load_coco(write(tmp_path / "a", lambda c: c["images"].append(c["images"][0])))
    assert counts(data.train) == [2] * 4
    parts = [one.part for one in data.findings if "ids listed more than once" in one.what]
    assert parts == [f"annotations/instances_{part}.json" for part in ("train", "val", "test")]

    def other_name(content: dict[str, Any]) -> None:
        content["images"].append({**content["images"][0], "file_name": "train/0.jpg"})

    assert counts(load_coco(write(tmp_path / "b", other_name, "train")).train) == [2] * 4


def test_an_id_listed_for_two_files_is_refused_and_names_both(tmp_path: Path) -> None:
    def twice(content: dict[str, Any]) -> None:
        content["images"][1]["id"] = 1

    error = refusal(write(tmp_path / "a", twice))
    assert "image 1 is listed as '0.jpg' and as '1.jpg'" in error


def test_a_file_listed_under_two_ids_is_one_picture_with_all_objects(tmp_path: Path) -> None:
    def twice(content: dict[str, Any]) -> None:
        content["images"].append({**content["images"][0], "id": 99})
        content["annotations"].append({
            **content["annotations"][0], "image_id": 99, "bbox": [40, 30, 20, 10],
        })  # fmt: skip

    data = load_coco(write(tmp_path / "a", twice, "train"))
    assert counts(data.train) == [3, 2, 2, 2]
    assert finding(data, "pictures listed more than once").count == 1
    assert perfect(data.train) == pytest.approx(1)


def test_ids_may_be_texts_or_floats(tmp_path: Path) -> None:
    def texts(content: dict[str, Any]) -> None:
        for entry in content["images"]:
            entry["id"] = f"frame-{entry['id']}"
        for entry in content["annotations"]:
            entry["image_id"] = f"frame-{entry['image_id']}"
            entry["category_id"] = f"{entry['category_id']}.0"

    assert counts(load_coco(write(tmp_path / "a", texts)).train) == [2] * 4

    def floats(content: dict[str, Any]) -> None:
        for entry in content["annotations"]:
            entry["image_id"] = float(entry["image_id"])
            entry["category_id"] = float(entry["category_id"])

    assert counts(load_coco(write(tmp_path / "b", floats)).train) == [2] * 4


# --- classes


def test_classes_are_matched_by_name_and_not_by_id(tmp_path: Path) -> None:
    def other_order(content: dict[str, Any]) -> None:
        content["categories"] = [{"id": 1, "name": "dog"}, {"id": 2, "name": " cat"}]

    data = load_coco(write(tmp_path / "a", other_order, "val", "test"))
    assert data.classes == ("cat", "dog")
    assert data.train.objects[0].classes.tolist() == [0, 1]
    assert data.selection.objects[0].classes.tolist() == [1, 0]
    assert perfect(data.selection) == pytest.approx(1)


def test_a_class_that_only_val_has_is_refused_if_an_object_has_it(tmp_path: Path) -> None:
    def unused(content: dict[str, Any]) -> None:
        content["categories"].append({"id": 3, "name": "cow"})

    data = load_coco(write(tmp_path / "a", unused, "val"))
    assert data.classes == ("cat", "dog")
    assert finding(data, "classes that train does not list").example == "'cow'"

    def used(content: dict[str, Any]) -> None:
        unused(content)
        content["annotations"][0]["category_id"] = 3

    error = refusal(write(tmp_path / "b", used, "val"))
    assert "instances_val.json has objects of classes that train does not list: cow" in error
    assert "train has cat, dog" in error


def test_val_need_not_list_every_class_of_train(tmp_path: Path) -> None:
    def only_dogs(content: dict[str, Any]) -> None:
        content["categories"] = [{"id": 2, "name": "dog"}]
        content["annotations"] = content["annotations"][1::2]

    data = load_coco(write(tmp_path / "a", only_dogs, "val"))
    assert {k for objects in data.selection.objects for k in objects.classes.tolist()} == {1}


def test_a_class_listed_twice_is_one_class(tmp_path: Path) -> None:
    def twice(content: dict[str, Any]) -> None:
        content["categories"] += [{"id": 2, "name": "dog"}, {"id": 3, "name": "dog"}]
        content["annotations"][0]["category_id"] = 3

    data = load_coco(write(tmp_path / "a", twice, "train"))
    assert data.classes == ("cat", "dog")
    assert data.train.objects[0].classes.tolist() == [1, 1]
    assert finding(data, "several ids").example == "'dog'"

    def torn(content: dict[str, Any]) -> None:
        content["categories"].append({"id": 2, "name": "cow"})

    assert "category 2 is listed as 'dog' and as 'cow'" in refusal(write(tmp_path / "b", torn))


def test_a_class_without_an_example_is_noted_and_training_without_any_is_refused(
    tmp_path: Path,
) -> None:
    def no_dogs(content: dict[str, Any]) -> None:
        content["annotations"] = content["annotations"][::2]

    data = load_coco(write(tmp_path / "a", no_dogs, "train"))
    assert data.classes == ("cat", "dog")
    assert finding(data, "without an example").example == "'dog'"
    crowds = write(tmp_path / "b", each("annotations", iscrowd=1), "train")
    assert "all 8 objects are marked as crowds (iscrowd)" in refusal(crowds)
    shares = write(tmp_path / "c", each("annotations", bbox=[0.1, 0.1, 0.2, 0.2]), "train")
    assert "no object to learn from; boxes whose numbers are shares of the picture" in refusal(
        shares
    )


# --- boxes


def test_boxes_that_cannot_be_used_are_left_out_of_training_and_of_scoring(tmp_path: Path) -> None:
    boxes = {
        "of no size": [[5, 5, 0, 9], [5, 5, -3, 9]],
        "missing or not finite": [[float("nan"), 5, 9, 9], [5, 5, float("inf"), 9], None, []],
        "outside their picture": [[64, 5, 9, 9], [5, -20, 9, 9]],
        "shares of the picture": [[0.5, 0.5, 0.2, 0.25]],
        "less than a pixel": [[5, 5, 0.5, 9], [63.5, 5, 9, 9]],
    }

    def odd(content: dict[str, Any]) -> None:
        known = {"image_id": 1, "category_id": 1}
        rows = [row for group in boxes.values() for row in group]
        content["annotations"] += [{**known, "bbox": row} for row in rows]

    data = load_coco(write(tmp_path / "a", odd, "val"))
    assert counts(data.selection) == [2] * 4
    assert perfect(data.selection) == pytest.approx(1)
    for words, rows in boxes.items():
        found = finding(data, words)
        assert found.count == len(rows)
        assert "0.jpg" in found.example
        assert not found.wrong


@pytest.mark.parametrize(
    ("form", "of_corners"),
    [
        ("left, top, right and bottom", lambda x, y, u, v: [x, y, u, v]),
        ("left, right, top and bottom", lambda x, y, u, v: [x, u, y, v]),
        ("centre, width and height", lambda x, y, u, v: [(x + u) / 2, (y + v) / 2, u - x, v - y]),
        ("shares", lambda x, y, u, v: [x / 64, y / 48, (u - x) / 64, (v - y) / 48]),
    ],
)
def test_boxes_of_another_form_are_said_to_be_wrong(
    form: str, of_corners: Callable[..., list[float]], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)

    def other_form(content: dict[str, Any]) -> None:
        for annotation in content["annotations"]:
            left, top = rng.uniform(20, 40), rng.uniform(20, 28)
            annotation["bbox"] = of_corners(left, top, left + 24, top + 19)

    data = load_coco(write(tmp_path / "a", other_form, "val"))
    assert finding(data, form).wrong
    assert finding(data, form).part == "annotations/instances_val.json"


def test_sound_boxes_are_not_taken_for_another_form(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def anywhere(content: dict[str, Any]) -> None:
        for annotation in content["annotations"]:
            left, top = rng.uniform(0, 60), rng.uniform(0, 44)
            annotation["bbox"] = [left, top, rng.uniform(2, 64 - left), rng.uniform(2, 48 - top)]

    for seed in range(20):
        assert load_coco(write(tmp_path / str(seed), anywhere)).findings == ()


def test_area_and_iscrowd_may_be_missing_or_odd(tmp_path: Path) -> None:
    def without(content: dict[str, Any]) -> None:
        for annotation in content["annotations"]:
            del annotation["area"], annotation["iscrowd"]

    for i, change in enumerate((without, each("annotations", area=None, iscrowd=None))):
        data = load_coco(write(tmp_path / str(i), change))
        assert perfect(data.selection) == pytest.approx(1)
        assert not any(objects.crowd.any() for objects in data.train.objects)

    def crowds(content: dict[str, Any]) -> None:
        for annotation, value in zip(content["annotations"], (True, 1, "1", 1.0, False, "0", 0)):
            annotation["iscrowd"] = value

    data = load_coco(write(tmp_path / "crowds", crowds))
    assert [objects.crowd.sum() for objects in data.train.objects] == [2, 2, 0, 0]
    assert perfect(data.train) == pytest.approx(1)


def test_a_missing_bbox_is_drawn_around_the_segmentation(tmp_path: Path) -> None:
    runs = np.zeros((48, 64), np.uint8)
    runs[10:20, 5:30] = 1
    flat = runs.ravel(order="F")
    ends = np.flatnonzero(np.diff(flat, prepend=0, append=1))
    drawn: list[Any] = [
        [[5, 10, 30, 10, 30, 20], [5, 20, 6, 20, 6, 19]], [5, 10, 30, 20],
        {"size": [48, 64], "counts": np.diff(ends, prepend=0).tolist()}, None, [], [[1]], "x", {},
    ]  # fmt: skip

    def segmented(content: dict[str, Any]) -> None:
        for annotation, segmentation in zip(content["annotations"], drawn, strict=True):
            del annotation["bbox"]
            annotation["segmentation"] = segmentation

    data = load_coco(write(tmp_path / "a", segmented, "train"))
    boxes = np.concatenate([objects.boxes for objects in data.train.objects])
    assert boxes.tolist() == [[5, 10, 30, 20]] * 3
    assert finding(data, "around their segmentation").count == 3
    assert finding(data, "missing or not finite").count == 5


def test_an_object_that_is_listed_twice_counts_once(tmp_path: Path) -> None:
    def twice(content: dict[str, Any]) -> None:
        content["annotations"].append({**content["annotations"][0], "id": 99})

    data = load_coco(write(tmp_path / "a", twice, "val"))
    assert counts(data.selection) == [2] * 4
    assert finding(data, "has twice").count == 1


# --- sizes


@pytest.mark.parametrize(
    "size",
    [{"width": None}, {"height": 0}, {"width": "", "height": "?"}, {"width": -1}, {"height": []}],
)
def test_a_picture_of_unknown_size_is_measured(size: dict[str, Any], tmp_path: Path) -> None:
    data = load_coco(write(tmp_path / "a", each("images", **size), "train"))
    assert data.train.sizes == (HW,) * 4
    assert finding(data, "without a usable width and height").count == 4


def test_sizes_may_be_texts_or_exchanged(tmp_path: Path) -> None:
    texts = write(tmp_path / "a", each("images", width="64", height=48.0))
    assert load_coco(texts).findings == ()
    exchanged = load_coco(write(tmp_path / "b", each("images", width=48, height=64), "val"))
    assert exchanged.selection.sizes == (HW,) * 4
    assert finding(exchanged, "were exchanged").count == 4
    assert exchanged.selection.read(0).shape[:2] == HW
    assert perfect(exchanged.selection) == pytest.approx(1)


def test_a_picture_of_another_size_is_said_at_the_start_and_not_read(tmp_path: Path) -> None:
    data = load_coco(write(tmp_path / "a", each("images", width=640, height=480), "val"))
    assert finding(data, "another size").wrong
    with pytest.raises(SourceError, match=r"0.jpg is 64x48, but .*val.json says 640x480"):
        data.selection.read(0)


def test_a_picture_that_was_turned_after_it_was_annotated_is_not_read(tmp_path: Path) -> None:
    """Its boxes fit only the size that the annotations say."""

    def upright(content: dict[str, Any]) -> None:
        each("images", width=48, height=64)(content)
        each("annotations", bbox=[5, 40, 20, 23])(content)

    data = load_coco(write(tmp_path / "a", upright, "val"))
    assert finding(data, "another size").wrong
    with pytest.raises(SourceError, match=r"0.jpg is 64x48, but"):
        data.selection.read(0)


# --- EXIF


def turned(folder: Path, *orientations: int) -> None:
    """Give the pictures of val these EXIF orientations."""
    for i, orientation in enumerate(orientations):
        (folder / f"val/{i}.jpg").write_bytes(picture(HW, ".jpg", orientation))


def test_annotations_may_be_for_the_pixels_as_they_are_stored(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    turned(folder, 6, 8, 3, 1)
    data = load_coco(folder)
    assert data.selection.stored
    for i in range(4):
        assert data.selection.read(i).shape[:2] == HW
    assert finding(data, "pixels as stored, which are used").count == 3


def test_annotations_may_be_for_the_upright_picture(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", each("images", width=48, height=64), "val")
    turned(folder, 6, 8, 5, 7)
    data = load_coco(folder)
    assert not data.selection.stored
    assert not any("EXIF" in one.what for one in data.findings)
    assert data.selection.read(0).shape[:2] == (64, 48)


def test_one_split_may_have_annotations_of_both_kinds(tmp_path: Path) -> None:
    def mixed(content: dict[str, Any]) -> None:
        content["images"][0].update(width=48, height=64)

    folder = write(tmp_path / "a", mixed, "val")
    turned(folder, 6, 6, 3, 1)
    data = load_coco(folder)
    shapes = [data.selection.read(i).shape[:2] for i in range(4)]
    assert shapes == [(64, 48), HW, HW, HW]
    assert not finding(data, "each is read as its size tells").wrong


def test_pictures_whose_size_does_not_tell_how_they_were_annotated_are_noted(
    tmp_path: Path,
) -> None:
    folder = write(tmp_path / "a")
    turned(folder, 3, 2, 1, 1)
    data = load_coco(folder)
    assert not data.selection.stored
    assert finding(data, "is not known").count == 2


@pytest.mark.parametrize(("box", "hw"), [([40, 5, 23, 20], HW), ([5, 40, 20, 23], (64, 48))])
def test_boxes_tell_how_a_picture_was_annotated_if_no_size_does(
    box: list[int], hw: tuple[int, int], tmp_path: Path
) -> None:
    def without_sizes(content: dict[str, Any]) -> None:
        each("images", width=None, height=None)(content)
        each("annotations", bbox=box)(content)

    folder = write(tmp_path / "a", without_sizes, "val")
    turned(folder, 6, 6, 6, 6)
    data = load_coco(folder)
    assert data.selection.sizes == (hw,) * 4
    assert data.selection.read(0).shape[:2] == hw


def test_boxes_on_the_upright_picture_are_kept_where_the_size_is_that_of_the_stored_pixels(
    tmp_path: Path,
) -> None:
    """Label Studio writes such files."""
    folder = write(tmp_path / "a", each("annotations", bbox=[5, 40, 20, 23]), "val")
    turned(folder, 6, 6, 6, 6)
    data = load_coco(folder)
    assert data.selection.sizes == ((64, 48),) * 4
    assert data.selection.read(0).shape[:2] == (64, 48)
    assert data.selection.objects[0].boxes[0].tolist() == [5, 40, 25, 63]


# --- files


@pytest.mark.parametrize("style", sorted(NAMES))
def test_names_of_other_tools_and_machines_lead_to_the_files(style: str, tmp_path: Path) -> None:
    def renamed(content: dict[str, Any]) -> None:
        for image in content["images"]:
            image["file_name"] = NAMES[style]("train", f"é {image['file_name']}")

    folder = write(tmp_path / "a", renamed, "train")
    for i in range(4):
        (folder / f"train/{i}.jpg").rename(folder / f"train/é {i}.jpg")
    data = load_coco(folder)
    assert [path.name for path in data.train.images.paths] == [f"é {i}.jpg" for i in range(4)]
    assert counts(data.train) == [2] * 4
    if style == "plain":
        assert data.findings == ()
    else:
        assert finding(data, "not quite those of the files").count == 4


def test_no_file_outside_the_folder_is_read(tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(picture(HW, ".jpg", 1))
    for i, name in enumerate((f"{tmp_path}/secret.jpg", "../../secret.jpg", "..\\..\\secret.jpg")):

        def outside(content: dict[str, Any], name: str = name) -> None:
            content["images"][0]["file_name"] = name

        data = load_coco(write(tmp_path / str(i), outside, "train"))
        assert len(data.train) == 3
        missing = finding(data, "without a file")
        assert missing.wrong
        assert "secret.jpg" in missing.example


def test_missing_files_are_said_at_the_start(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    (folder / "val/1.jpg").unlink()
    data = load_coco(folder)
    assert counts(data.selection) == [2] * 3
    missing = finding(data, "without a file")
    assert (missing.count, missing.wrong) == (1, True)
    assert "'1.jpg', looked for in val/, images/val/, images/, the folder itself" in missing.example
    for path in (folder / "val").iterdir():
        path.unlink()
    error = refusal(folder)
    assert "none of the 4 pictures that" in error
    assert "the first is '0.jpg', looked for in val/" in error


def test_a_link_that_leads_nowhere_is_said(tmp_path: Path) -> None:
    write_sound(tmp_path)
    for path in (tmp_path / "train").iterdir():
        path.unlink()
    (tmp_path / "train").rmdir()
    (tmp_path / "train").symlink_to("../pictures")
    with pytest.raises(DataError, match=r"train/ \(a link to \.\./pictures, which is not there\)"):
        load_coco(tmp_path)


def test_pictures_may_lie_in_one_folder_for_all_splits(tmp_path: Path) -> None:
    for place in ("images", "."):
        folder = write(tmp_path / place.replace(".", "flat"))
        (folder / place).mkdir(exist_ok=True)
        for part in ("train", "val", "test"):
            content = json.loads(file(folder, part).read_text())
            for image in content["images"]:
                name = f"{part}-{image['file_name']}"
                (folder / part / image["file_name"]).rename(folder / place / name)
                image["file_name"] = name
            (folder / part).rmdir()
            file(folder, part).write_text(json.dumps(content))
        assert counts(load_coco(folder).train) == [2] * 4


def test_folders_need_not_have_the_year_of_the_annotations(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    file(folder).rename(folder / "annotations/instances_train2017.json")
    data = load_coco(folder)
    assert data.findings == ()
    assert data.train.images.paths[0] == folder / "train/0.jpg"


def test_a_thumbnail_of_a_tool_is_not_the_picture(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    (folder / "train/.thumbnails").mkdir()
    (folder / "train/0.jpg").rename(folder / "train/.thumbnails/0.jpg")
    assert finding(load_coco(folder), "without a file").count == 1


def test_a_file_in_a_subfolder_that_its_name_does_not_mention_is_found(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    (folder / "train/Data").mkdir()
    (folder / "train/0.jpg").rename(folder / "train/Data/0.jpg")
    data = load_coco(folder)
    assert data.train.images.paths[0] == folder / "train/Data/0.jpg"
    assert "'0.jpg' is 'train/Data/0.jpg'" in finding(data, "not quite").example


def test_names_of_two_pictures_never_lead_to_one_file(tmp_path: Path) -> None:
    """Somebody has put the pictures of two cameras into one folder, where one replaced another."""

    def cameras(content: dict[str, Any]) -> None:
        content["images"][0]["file_name"] = "left/2.jpg"
        content["images"][1]["file_name"] = "right/2.jpg"

    data = load_coco(write(tmp_path / "a", cameras, "train"))
    assert [path.name for path in data.train.images.paths] == ["2.jpg", "3.jpg"]
    assert finding(data, "without a file").count == 2


def test_a_folder_that_is_a_link_to_that_of_training_must_not_judge(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    for path in (folder / "val").iterdir():
        path.unlink()
    (folder / "val").rmdir()
    (folder / "val").symlink_to("train")
    assert finding(load_coco(folder), "train.json lists too").count == 4


def test_a_picture_of_training_must_not_judge(tmp_path: Path) -> None:
    def of_train(content: dict[str, Any]) -> None:
        content["images"][0]["file_name"] = "train/0.jpg"

    data = load_coco(write(tmp_path / "a", of_train, "val"))
    found = finding(data, "pictures that annotations/instances_train.json lists too")
    assert (found.count, found.wrong) == (1, True)


# --- the file itself


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_files_as_editors_and_shells_of_windows_write_them_are_read(
    encoding: str, tmp_path: Path
) -> None:
    folder = write(tmp_path / "a")
    file(folder).write_bytes(file(folder).read_text().encode(encoding))
    assert counts(load_coco(folder).train) == [2] * 4


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda data: data + b"\n]", "something follows the end of its JSON at line 2, column 1"),
        (lambda data: data[:-20], "its JSON is cut off or broken"),
        (lambda data: b"", "it is empty"),
        (lambda data: b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (lambda data: data.replace(b'"cat"', b'"caf\xe9"'), "UTF-8"),
        (lambda data: data.replace(b'"images"', b'"pictures"'), "missing required field `images`"),
        (lambda data: b"[1, 2]", "Expected `object`, got `array`"),
        (lambda data: b"[" * 100_000, "is not a COCO annotation file"),
        (lambda data: b'{"images": ' + b"9" * 5000 + b"NaN", "is not a COCO annotation file"),
    ],
)
def test_a_damaged_file_is_refused_with_the_reason(
    spoil: Callable[[bytes], bytes], reason: str, tmp_path: Path
) -> None:
    folder = write(tmp_path / "a")
    file(folder).write_bytes(spoil(file(folder).read_bytes()))
    error = refusal(folder)
    assert str(file(folder)) in error
    assert reason in error


@pytest.mark.parametrize(
    "licences",
    [[{"name": None}], [{"id": 1, "url": ""}], None, [], [None], "MIT", {"name": "MIT"}, [[]], 0],
)
def test_odd_licences_are_no_reason_to_refuse(licences: Any, tmp_path: Path) -> None:
    def odd(content: dict[str, Any]) -> None:
        content.update(licenses=licences, info=licences)

    assert load_coco(write(tmp_path / "a", odd)).licence == "as that of the images"


def test_every_refusal_names_the_file_and_the_entry(tmp_path: Path) -> None:
    known = {"image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9]}
    cases: list[tuple[Change, str]] = [
        (lambda c: c["annotations"].append({**known, "image_id": None}), "belongs to image None"),
        (lambda c: c["annotations"].append({**known, "image_id": [3]}), "belongs to image [3]"),
        (lambda c: c["annotations"].append({**known, "category_id": "a\nb"}), r"category 'a\nb'"),
        (lambda c: c["annotations"].append({**known, "bbox": [1, 2, 3]}), "bbox [1, 2, 3]"),
        (lambda c: c["annotations"].append({**known, "bbox": {"x": 1}}), "bbox {'x': 1}"),
        (each("annotations", bbox=[[1, 1], [9, 9]]), "bbox [[1, 1], [9, 9]]"),
        (each("annotations", bbox="1234"), "bbox 1234, not four numbers"),
        (lambda c: c["annotations"].append({**known, "iscrowd": [1]}), "iscrowd [1]"),
        (lambda c: c["annotations"].append(None), "Expected `object`, got `null`"),
        (lambda c: c["images"].append({"id": 9, "file_name": None}), "file_name None"),
        (lambda c: c["images"].append({"id": None, "file_name": "a"}), "image 4 has the id None"),
        (lambda c: c["categories"].append({"id": 9, "name": ""}), "category 9 has the name ''"),
        (lambda c: c.update(annotations=None), "annotations"),
    ]
    for i, (change, words) in enumerate(cases):
        folder = write(tmp_path / str(i), change, "test")
        error = refusal(folder)
        assert str(file(folder, "test")) in error
        assert words in error
    assert "does not exist" in refusal(tmp_path / "nowhere")
    assert "is not a folder" in refusal(file(tmp_path / "0"))
