"""Which class a picture has, by its folder or by ImageNet's number in its name."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from ramnas_host.data.labelled_folder import load_folder
from ramnas_models import imagenet
from ramnas_models.bundle import Preprocessing
from ramnas_models.onnx_graph import Normalisation

HOW = Preprocessing(Normalisation())


def labels(folder: Path, *names: str, classes: tuple[str, ...] = ()) -> dict[str, int]:
    """The class of each picture in a new folder."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = load_folder(folder, classes or imagenet.names(), HOW, 100)
    paths = [str(path.relative_to(folder)) for path in found.images.paths]
    return dict(zip(paths, found.labels.tolist(), strict=True))


def test_imagenets_number_is_read_from_a_folder_or_the_start_of_a_name(tmp_path: Path) -> None:
    assert labels(
        tmp_path,
        "n01443537_goldfish.JPEG", "n01440764.webp", "some/n01443537_9.png", "val/n01440764/x.png",
        "deep/er/tench/x.png", "n01440764-tench/n01443537_1.jpg", "other.png", "n01440764x.png",
        "n99999999_1.png",
    ) == {
        "n01443537_goldfish.JPEG": 1, "n01440764.webp": 0, "some/n01443537_9.png": 1,
        "val/n01440764/x.png": 0, "deep/er/tench/x.png": 0, "n01440764-tench/n01443537_1.jpg": 0,
        "other.png": -1, "n01440764x.png": -1, "n99999999_1.png": -1,
    }  # fmt: skip


def test_every_class_is_found_by_its_number_and_by_its_name(tmp_path: Path) -> None:
    for place in (0, 134, 639, 999):
        synset, name = imagenet.synsets()[place], imagenet.names()[place]
        folder = tmp_path / str(place)
        assert {*labels(folder, f"{synset}/1.png", f"{name}/2.png").values()} == {place}


def test_other_classes_than_imagenets_have_no_such_numbers(tmp_path: Path) -> None:
    found = labels(tmp_path, "n01440764_1.png", "cat/1.png", classes=("dog", "cat"))
    assert found == {"n01440764_1.png": -1, "cat/1.png": 1}
