"""Folders in the layout of Cityscapes: all oddities of the published ones, and broken ones."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from ramnas_host.annotations.cityscapes import load_cityscapes
from ramnas_host.annotations.segmentation_data import IGNORED, random_view, resize_labels
from ramnas_models.errors import DataError, SourceError

# label id -> train id, from the table that Cityscapes publishes (cityscapesscripts, labels.py)
TRAIN_IDS = dict(
    zip((7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33), range(19))
)


def write(folder: Path, labels: np.ndarray, parts: tuple[str, ...] = ("train", "val")) -> Path:
    for part in parts:
        for city in ("aachen", "bochum"):
            name = f"{city}_000000_000019"
            image = folder / "leftImg8bit" / part / city / f"{name}_leftImg8bit.png"
            truth = folder / "gtFine" / part / city / f"{name}_gtFine_labelIds.png"
            for path in (image, truth):
                path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(image), np.zeros((*labels.shape, 3), np.uint8))
            cv2.imwrite(str(truth), labels)
    return folder


@pytest.fixture
def every_id() -> np.ndarray:
    """All label ids from 0 to 33, and 255, which is -1 in 8 bits."""
    return np.array([*range(34), 255], np.uint8).reshape(5, 7)


def test_label_ids_become_the_nineteen_train_ids(tmp_path: Path, every_id: np.ndarray) -> None:
    data = load_cityscapes(write(tmp_path, every_id, ("train", "val", "test")))
    assert len(data.classes) == 19
    assert (data.classes[0], data.classes[11], data.classes[18]) == ("road", "person", "bicycle")
    image, labels = data.train.read(1)
    assert image.shape == (5, 7, 3)
    expected = [TRAIN_IDS.get(i, IGNORED) for i in every_id.flatten().tolist()]
    assert labels.flatten().tolist() == expected
    assert len(data.train) == 2
    # the labels of its test split are not published, so each half of val has one of two images
    splits = (data.selection, data.report)
    assert [split.labels[0].parent.parent.name for split in splits] == ["val", "val"]
    assert [split.labels[0].parent.name for split in splits] == ["aachen", "bochum"]
    assert [len(split) for split in splits] == [1, 1]


def test_labels_json_names_other_classes(tmp_path: Path, every_id: np.ndarray) -> None:
    folder = write(tmp_path, every_id, ("train", "val", "test"))
    names = [("tree", 9, 1), ("void", 1, 255), ("plate", -1, -1), ("sky", 3, 0)]
    labels = [{"name": n, "id": i, "trainId": t, "color": [0, 0, 0]} for n, i, t in names]
    (folder / "labels.json").write_text(json.dumps(labels))
    data = load_cityscapes(folder)
    assert data.classes == ("sky", "tree")
    _, found = data.train.read(0)
    assert (found == 0).sum() == (found == 1).sum() == 1
    assert found.flatten()[[3, 9]].tolist() == [0, 1]
    assert [len(split) for split in (data.selection, data.report)] == [2, 2]
    assert {path.parent.parent.name for path in data.report.labels} == {"test"}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([{"name": "a", "id": 0, "trainId": 1}], "trainIds must be 0, 1, 2 and so on, but are 1"),
        (
            [{"name": "a", "id": 0, "trainId": 0}] * 2,
            "trainIds must be 0, 1, 2 and so on, but are 0, 0",
        ),
        ([{"name": "a", "id": 70000, "trainId": 0}], "id 70000 of a is not between 0 and 65535"),
        ([{"name": "a", "id": -3, "trainId": 0}], "id -3 of a is not between 0 and 65535"),
        ([{"name": None, "id": 7, "trainId": 0}], "the label with id 7 has no name"),
        ([{"id": 7, "trainId": 0}], "the label with id 7 has no name"),
        (
            [{"name": "a", "id": 7, "trainId": 0}, {"name": "a", "id": 8, "trainId": 1}],
            "a is the name of the ids 7 and 8",
        ),
        (
            [{"name": "a", "id": 7, "trainId": 0}, {"name": "b", "id": 7, "trainId": 1}],
            "id 7 is that of a and of b",
        ),
        (
            [{"name": "a", "id": 7, "trainId": 0}, {"name": "b", "id": 7, "trainId": -1}],
            "id 7 is that of b and of a",
        ),
        ([{"name": "a", "id": 7, "trainId": 0}, {"name": "b", "id": 8, "trainId": 2}], "are 0, 2"),
        ({"0": "a"}, "is not a list of labels: Expected `array`, got `object`"),
        ([{"name": "a", "id": 0}], "is not a list of labels"),
        (
            [{"name": str(i), "id": i, "trainId": i} for i in range(300)],
            r"but are \.\.\., 253, 254, 256, 257, 258 \(255 and negative ones mean ignored\)",
        ),
        ([], "trainIds must be 0, 1, 2 and so on, but are missing"),
    ],
)
def test_a_wrong_labels_json_is_refused(
    tmp_path: Path, every_id: np.ndarray, labels: list[object], message: str
) -> None:
    (write(tmp_path, every_id) / "labels.json").write_text(json.dumps(labels))
    with pytest.raises(DataError, match=message) as raised:
        load_cityscapes(tmp_path)
    assert "labels.json" in str(raised.value)


def test_the_missing_file_or_folder_is_named(tmp_path: Path, every_id: np.ndarray) -> None:
    with pytest.raises(DataError, match="has no leftImg8bit/train/"):
        load_cityscapes(tmp_path)
    write(tmp_path, every_id, ("train",))
    with pytest.raises(DataError, match="has no leftImg8bit/val/"):
        load_cityscapes(tmp_path)
    write(tmp_path, every_id)
    (tmp_path / "gtFine/val/bochum/bochum_000000_000019_gtFine_labelIds.png").unlink()
    with pytest.raises(DataError, match=r"bochum_000000_000019_gtFine_labelIds.png is missing"):
        load_cityscapes(tmp_path)


def test_broken_label_images_are_named(tmp_path: Path, every_id: np.ndarray) -> None:
    data = load_cityscapes(write(tmp_path, every_id))
    path = data.train.labels[0]
    for content, message in (
        (b"", "it is empty"),
        (b"no image", "cannot be read as a label image"),
        (
            cv2.imencode(".png", np.zeros((4, 7), np.uint8))[1].tobytes(),
            "is 7x4, but its image .* is 7x5",
        ),
    ):
        path.write_bytes(content)
        with pytest.raises(SourceError, match=message) as raised:
            data.train.read(0)
        assert path.name in str(raised.value)
    path.unlink()
    with pytest.raises(SourceError, match=f"{path.name} cannot be read"):
        data.train.read(0)


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_crop_and_flip_keep_each_label_on_its_pixel(flip: float) -> None:
    labels = np.random.default_rng(0).integers(0, 255, (60, 90), np.uint8)
    image = np.repeat(labels[..., None], 3, 2)
    shapes = set()
    for seed in range(30):
        view, found = random_view(image, labels, 0.3, flip, np.random.default_rng(seed))
        np.testing.assert_array_equal(view[..., 1], found)
        shapes.add(found.shape)
    assert len(shapes) > 10
    view, found = random_view(image, labels, 1.0, flip, np.random.default_rng(0))
    np.testing.assert_array_equal(found, labels[:, ::-1] if flip else labels)


def test_resizing_invents_no_labels() -> None:
    labels = np.array([[3, 200], [255, 7]], np.uint8).repeat(4, 0).repeat(4, 1)
    assert resize_labels(labels, (2, 2)).tolist() == [[3, 200], [255, 7]]
    odd = resize_labels(labels[:, ::-1], (5, 3))
    assert odd.shape == (5, 3)
    assert set(odd.flatten().tolist()) <= {3, 7, 200, 255}
