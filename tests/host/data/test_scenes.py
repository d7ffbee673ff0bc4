"""Scenes: their formats, what they are made of, their seed, and splits that share nothing."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from pycocotools.coco import COCO

from ramnas_host.annotations.cityscapes import load_cityscapes
from ramnas_host.annotations.coco import load_coco
from ramnas_host.config import load_recipe
from ramnas_host.data import scenes
from ramnas_host.data.datasets import load_dataset
from ramnas_host.data.images import Dataset
from ramnas_host.data.photographs import PHOTOGRAPHS, Photograph
from ramnas_host.data.scenes import Scene, compose, run_lengths, write_scenes
from ramnas_models.errors import DataError

COUNTS = {"train": 6, "val": 2, "test": 3}


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits", load_recipe("digits").images)


@pytest.fixture(scope="module")
def folder(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scenes") / "out"
    write_scenes(digits, out, COUNTS, seed=5)
    return out


@pytest.fixture(scope="module")
def composed(digits: Dataset) -> list[Scene]:
    backgrounds = [photograph.read() for photograph in PHOTOGRAPHS["test"]]
    return [compose(digits.report, backgrounds, np.random.default_rng((0, i))) for i in range(60)]


def digest(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_scenes_have_the_documented_numbers_sizes_and_overlaps(composed: list[Scene]) -> None:
    sides, counts, overlaps = [], [], [0.0]
    for scene in composed:
        assert scene.image.shape == (240, 320, 3)
        counts.append(len(scene.items))
        for item in scene.items:
            left, top, width, height = item.box
            assert left >= 0 and top >= 0 and left + width <= 320 and top + height <= 240
            sides.append(max(width, height))
        pairs = itertools.combinations([item.box for item in scene.items], 2)
        overlaps += [scenes.iou(*pair) for pair in pairs]
    assert (min(counts), max(counts)) == (3, 8)
    assert min(sides) >= 36 and max(sides) <= 144
    assert min(sides) < 45 and max(sides) > 130
    assert 0.2 < max(overlaps) <= 0.3
    assert {item.label for scene in composed for item in scene.items} == set(range(10))


def test_every_item_can_be_seen_and_has_a_tight_box(composed: list[Scene]) -> None:
    for scene in composed:
        for i, item in enumerate(scene.items):
            ink = item.ink >= 0.5
            assert ink[0].any() and ink[-1].any() and ink[:, 0].any() and ink[:, -1].any()
            seen = scene.owner == i
            assert seen.sum() > 0.3 * ink.sum()
            assert not seen[: item.box[1]].any() and not seen[:, : item.box[0]].any()


def test_items_stand_out_from_their_background(composed: list[Scene]) -> None:
    """The mean brightness of an item against that of the background in its box.

    Nine out of ten differ by more than 30.
    """
    differences = []
    for scene in composed:
        grey = scene.image.mean(2)
        for i, item in enumerate(scene.items):
            around = grey[item.window][scene.owner[item.window] == -1]
            if len(around):
                differences.append(abs(grey[scene.owner == i].mean() - around.mean()))
    assert np.quantile(differences, 0.1) > 30
    assert (
        np.quantile(differences, 0.9) - np.quantile(differences, 0.1) > 40
    )  # and not all by the same


# pycocotools 2.0.11 does not yet follow numpy 2
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_coco_and_cityscapes_say_the_same(folder: Path, digits: Dataset) -> None:
    """Masks that pycocotools reads equal the label images, and boxes contain the masks."""
    names = ("background", *digits.classes)
    for part, count in COUNTS.items():
        coco = COCO(str(folder / f"coco/annotations/instances_{part}.json"))
        assert len(coco.imgs) == count
        for image in coco.loadImgs(coco.getImgIds()):
            found = cv2.imread(str(folder / "coco" / part / image["file_name"]))
            assert found.shape == (image["height"], image["width"], 3)
            stem = image["file_name"].replace("_leftImg8bit.png", "_gtFine_labelIds.png")
            truth = cv2.imread(
                str(folder / "cityscapes/gtFine" / part / "scenes" / stem), cv2.IMREAD_UNCHANGED
            )
            rebuilt = np.zeros_like(truth)
            for a in coco.loadAnns(coco.getAnnIds(imgIds=image["id"])):
                mask = coco.annToMask(a).astype(bool)
                assert mask.sum() == a["area"]
                assert not rebuilt[mask].any()
                rebuilt[mask] = names.index(coco.cats[a["category_id"]]["name"])
                rows, columns = np.nonzero(mask)
                left, top, width, height = a["bbox"]
                assert left <= columns.min() and columns.max() < left + width
                assert top <= rows.min() and rows.max() < top + height
            np.testing.assert_array_equal(rebuilt, truth)


def test_our_own_loaders_read_the_scenes(folder: Path, digits: Dataset) -> None:
    detection, segmentation = load_coco(folder / "coco"), load_cityscapes(folder / "cityscapes")
    assert detection.classes == digits.classes
    assert segmentation.classes == ("background", *digits.classes)
    assert len(detection.train) == len(segmentation.train) == 6
    assert (len(detection.selection), len(detection.report)) == (2, 3)
    assert (len(segmentation.selection), len(segmentation.report)) == (2, 3)
    assert "CC-BY-4.0" in detection.licence and "CC0" in detection.licence
    assert segmentation.licence == detection.licence
    image, labels = segmentation.train.read(0)
    np.testing.assert_array_equal(image, detection.train.read(0))
    assert set(np.unique(labels)) <= set(range(11))


def test_the_seed_decides_the_scenes_and_is_on_record(
    folder: Path, digits: Dataset, tmp_path: Path
) -> None:
    np.random.seed(3)
    write_scenes(digits, tmp_path / "again", COUNTS, seed=5)
    assert digest(tmp_path / "again") == digest(folder)
    write_scenes(digits, tmp_path / "other", COUNTS, seed=6)
    same = digest(tmp_path / "other").items() & digest(folder).items()
    assert all(name.endswith("labels.json") for name, _ in same)
    assert json.loads((folder / "scenes.json").read_bytes())["seed"] == 5
    file = folder / "coco/annotations/instances_test.json"
    assert json.loads(file.read_bytes())["info"]["seed"] == 5


def test_more_scenes_do_not_change_the_first_ones(
    folder: Path, digits: Dataset, tmp_path: Path
) -> None:
    write_scenes(digits, tmp_path / "more", {"train": 8, "val": 1, "test": 3}, seed=5)
    kept = [name for name in digest(folder) if "leftImg8bit" in name and "/val/" not in name]
    assert all(digest(tmp_path / "more")[name] == digest(folder)[name] for name in kept)


def test_splits_share_neither_backgrounds_nor_items(digits: Dataset) -> None:
    for one, other in itertools.combinations(PHOTOGRAPHS.values(), 2):
        assert not set(one) & set(other)
    pixels = {
        part: {image.tobytes() for image in digits.split(part).images.pixels}  # type: ignore[union-attr]
        for part in ("train", "selection", "report")
    }
    assert not pixels["train"] & pixels["report"]
    assert not pixels["train"] & pixels["selection"]


def test_an_interrupted_run_leaves_nothing(digits: Dataset, tmp_path: Path) -> None:
    def stop(count: int) -> None:
        if count == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_scenes(digits, tmp_path / "out", COUNTS, seed=0, on_done=stop)
    assert not list(tmp_path.iterdir())


def test_every_photograph_of_ours_is_small_and_has_its_source_on_record() -> None:
    folder = Path(scenes.__file__).parent / "backgrounds"
    ours = [p for found in PHOTOGRAPHS.values() for p in found if p.package == "ramnas_host"]
    files = {path.name for path in folder.glob("*.jpg")}
    assert {Path(photograph.file).name for photograph in ours} == files
    sources = (folder / "SOURCES.txt").read_text()
    for photograph in ours:
        name = Path(photograph.file).name
        entry = sources.split(f"\n{name}", 1)[1].split(".jpg", 1)[0]
        assert photograph.by in entry
        assert photograph.licence in entry
        assert (folder / name).stat().st_size <= 60 * 1024


def test_a_missing_package_is_named() -> None:
    with pytest.raises(DataError, match=r"x.png ships with the Python package no_such_package"):
        Photograph("no_such_package", "x.png", "CC0", "nobody").read()


def test_run_lengths_start_with_zeros() -> None:
    assert run_lengths(np.array([[1, 0], [1, 1]], bool)) == [0, 2, 1, 1]
    assert run_lengths(np.zeros((2, 3), bool)) == [6]
    assert run_lengths(np.ones((2, 2), bool)) == [0, 4]


def test_where_there_are_no_links_the_images_are_there_twice(
    digits: Dataset, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(self: Path, target: str) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")  # as on FAT

    monkeypatch.setattr(Path, "symlink_to", none)
    write_scenes(digits, tmp_path / "out", COUNTS, seed=5)
    assert not (tmp_path / "out/coco/train").is_symlink()
    for part, count in COUNTS.items():
        images = digest(tmp_path / "out/coco" / part)
        assert images == digest((folder / "coco" / part).resolve())
        assert len(images) == count
