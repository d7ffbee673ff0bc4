"""Folders in the layout of COCO: all oddities of the published ones, and broken ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from ramnas_host.annotations.coco import load_coco
from ramnas_host.annotations.detection_data import Objects, clip, random_view
from ramnas_models.errors import DataError, SourceError

Change = Callable[[dict[str, Any]], None]


def write(folder: Path, change: Change = lambda coco: None) -> Path:
    """A folder like the published COCO: train2017 and val2017, ids with gaps and out of order.

    `change` may spoil the training annotations.
    """
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    for part in ("train2017", "val2017"):
        (folder / part).mkdir(exist_ok=True)
        images = []
        for i, (width, height) in enumerate(((64, 48), (40, 60), (32, 32))):
            name = f"{i:012d}.jpg"
            pixels = np.full((height, width, 3), 40 * i, np.uint8)
            cv2.imwrite(str(folder / part / name), pixels)
            images.append({"id": 90 - i, "file_name": name, "width": width, "height": height})
        content = {
            "images": images,
            "categories": [{"id": 7, "name": "cup"}, {"id": 3, "name": "cat"}],
            "licenses": [{"id": 1, "name": "CC-BY"}],
            "annotations": [
                annotation(90, 7, [10, 20, 30, 10]),
                annotation(90, 3, [-10, -10, 30, 30]),  # partly outside
                annotation(90, 3, [100, 10, 5, 5]),  # wholly outside
                annotation(89, 3, [0, 0, 40, 60], iscrowd=1),
            ],  # the third image has no objects
        }
        if part == "train2017":
            change(content)
        (folder / f"annotations/instances_{part}.json").write_text(json.dumps(content))
    return folder


def annotation(image: int, category: int, bbox: list[float], iscrowd: int = 0) -> dict[str, Any]:
    return {
        "image_id": image, "category_id": category, "bbox": bbox, "iscrowd": iscrowd,
        "segmentation": [[0, 0, 1, 1, 0, 1]], "area": bbox[2] * bbox[3],
    }  # fmt: skip


def test_classes_follow_category_ids_and_boxes_are_clipped_to_their_image(tmp_path: Path) -> None:
    data = load_coco(write(tmp_path))
    assert data.classes == ("cat", "cup")
    assert [path.name for path in data.selection.images.paths] == [
        "000000000000.jpg", "000000000002.jpg",
    ]  # fmt: skip
    assert [path.name for path in data.report.images.paths] == ["000000000001.jpg"]
    assert data.licence == "CC-BY"
    first, crowded, empty = data.train.objects
    assert first.boxes.tolist() == [[10, 20, 40, 30], [0, 0, 20, 20]]
    assert first.classes.tolist() == [1, 0]
    assert crowded.crowd.tolist() == [True]
    assert empty.boxes.shape == (0, 4)
    assert data.train.sizes == ((48, 64), (60, 40), (32, 32))
    assert (
        "annotations/instances_train2017.json: boxes outside their picture, left out: 1, such as "
        f"[100, 10, 5, 5] in {tmp_path}/train2017/000000000000.jpg"
    ) in map(str, data.findings)


def test_the_images_may_be_in_a_folder_named_images(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "train2017").rename(tmp_path / "images/train2017")
    assert load_coco(tmp_path).train.read(0).shape == (48, 64, 3)


def refusal(folder: Path) -> str:
    with pytest.raises(DataError) as raised:
        load_coco(folder)
    return str(raised.value)


def test_an_error_names_the_file_and_what_is_wrong_in_it(tmp_path: Path) -> None:
    assert "has no annotations/instances_train*.json" in refusal(tmp_path)
    write(tmp_path, lambda coco: coco["annotations"].append(annotation(5, 7, [0, 0, 1, 1])))
    assert "json: annotation 4 belongs to image 5, which is not listed" in refusal(tmp_path)
    write(tmp_path, lambda coco: coco["annotations"].append(annotation(90, 4, [0, 0, 1, 1])))
    assert "json: annotation 4 has category 4, which is not listed" in refusal(tmp_path)
    write(tmp_path, lambda coco: coco["annotations"].append({"image_id": 90}))
    assert "instances_train2017.json is not a COCO annotation file" in refusal(tmp_path)
    write(tmp_path, lambda coco: coco["images"].clear())
    assert "instances_train2017.json lists no images" in refusal(tmp_path)
    file = write(tmp_path) / "annotations/instances_train2017.json"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert "instances_train2017.json is not a COCO annotation file" in refusal(tmp_path)
    file.write_bytes(whole)
    (tmp_path / "annotations/instances_train2014.json").write_bytes(whole)
    assert "keep one of them" in refusal(tmp_path)
    (tmp_path / "annotations/instances_train2014.json").unlink()
    (tmp_path / "train2017").rename(tmp_path / "away")
    error = refusal(tmp_path)
    assert "none of the 3 pictures that" in error
    assert "looked for in train2017/, images/train2017/, train/, images/train/, images/" in error


def test_a_broken_image_or_one_of_another_size_is_named(tmp_path: Path) -> None:
    data = load_coco(write(tmp_path))
    (tmp_path / "train2017/000000000000.jpg").write_bytes(b"no image")
    cv2.imwrite(str(tmp_path / "train2017/000000000001.jpg"), np.zeros((8, 9, 3), np.uint8))
    with pytest.raises(SourceError, match=r"000000000000.jpg cannot be read"):
        data.train.read(0)
    with pytest.raises(SourceError, match=r"000000000001.jpg is 9x8, but .*json says 40x60"):
        data.train.read(1)


def marked(boxes: list[list[int]]) -> tuple[np.ndarray, Objects]:
    """An image whose pixels tell which box they are in, counted from 1, and the boxes."""
    image = np.zeros((120, 160, 3), np.uint8)
    for i, (left, top, right, bottom) in enumerate(boxes):
        image[top:bottom, left:right] = i + 1
    found = np.array(boxes, np.float32).reshape(-1, 4)
    return image, Objects(found, np.arange(len(boxes)), np.zeros(len(boxes), bool))


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_crop_and_flip_keep_each_box_on_its_object(flip: float) -> None:
    image, objects = marked([[5, 10, 35, 40], [60, 50, 100, 110], [120, 5, 150, 30]])
    kept = []
    for seed in range(100):
        view, found = random_view(image, objects, 0.3, flip, np.random.default_rng(seed))
        assert view.shape[0] * view.shape[1] >= 0.28 * 120 * 160
        assert len(found.boxes) > 0
        kept.append(len(found.boxes))
        for box, number in zip(found.boxes.astype(int), found.classes, strict=True):
            rows, columns = np.nonzero(view[..., 0] == number + 1)
            tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert box.tolist() == tight
    assert min(kept) == 1 and max(kept) == 3


def test_a_flip_mirrors_image_and_boxes_and_no_flip_changes_nothing() -> None:
    image, objects = marked([[5, 10, 35, 40]])
    view, found = random_view(image, objects, 1.0, 0.0, np.random.default_rng(0))
    np.testing.assert_array_equal(view, image)
    view, found = random_view(image, objects, 1.0, 1.0, np.random.default_rng(0))
    np.testing.assert_array_equal(view, image[:, ::-1])
    assert found.boxes.tolist() == [[125, 10, 155, 40]]
    assert objects.boxes.tolist() == [[5, 10, 35, 40]]


def test_images_without_objects_or_with_only_crowds_are_cropped_too() -> None:
    image, none = marked([])
    view, found = random_view(image, none, 0.3, 0.0, np.random.default_rng(1))
    assert view.shape != image.shape and len(found.boxes) == 0
    crowd = Objects(np.array([[0, 0, 160, 120]], np.float32), np.array([0]), np.array([True]))
    view, found = random_view(image, crowd, 0.3, 0.0, np.random.default_rng(1))
    height, width = view.shape[:2]
    assert found.boxes.tolist() == [[0, 0, width, height]]
    assert found.crowd.all()


def test_clip_drops_boxes_of_less_than_a_pixel() -> None:
    boxes = np.array([[-5, -5, 0.5, 9], [1, 1, 3, 3], [9, 0, 20, 4]], np.float32)
    found = clip(Objects(boxes, np.arange(3), np.zeros(3, bool)), (10, 10))
    assert found.boxes.tolist() == [[1, 1, 3, 3], [9, 0, 10, 4]]
    assert found.classes.tolist() == [1, 2]
