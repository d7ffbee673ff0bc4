"""Data sets and their splits, read from files that the tests write in the published formats."""

from __future__ import annotations

import gzip
import logging
import struct
from collections.abc import Iterable
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from sklearn.datasets import load_digits

from ramnas_edge.vision import preprocessing
from ramnas_host.cli import main
from ramnas_host.config import SplitSizes, load_recipe
from ramnas_host.data import images
from ramnas_host.data.about import About, describe
from ramnas_host.data.datasets import DEBIAN_FASHION, dataset_of, load_dataset, recipe_of
from ramnas_host.data.images import Dataset, Files, Split, write_image_folder
from ramnas_host.data.labelled_folder import load_folder
from ramnas_models.bundle import Preprocessing
from ramnas_models.errors import DataError
from ramnas_models.onnx_graph import Normalisation

PARTS = ("train", "calibration", "selection", "report")
FASHION = SplitSizes(train=0, selection=300, calibration=200)
FOLDER = SplitSizes(train=0, selection=10, calibration=8)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits", load_recipe("digits").images)


@pytest.fixture(scope="module")
def published() -> dict[str, np.ndarray]:
    """Digits of 28x28 in Fashion-MNIST's four files; an image's first two pixels are its number."""
    pixels, labels = load_digits(return_X_y=True)
    small = (pixels.reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8)
    large = np.stack([cv2.resize(image, (28, 28)) for image in small])
    large[:, 0, 0], large[:, 0, 1] = np.divmod(np.arange(len(large)), 256)
    labels = labels.astype(np.uint8)
    return {
        "train-images-idx3-ubyte": large[:1500],
        "train-labels-idx1-ubyte": labels[:1500],
        "t10k-images-idx3-ubyte": large[1500:],
        "t10k-labels-idx1-ubyte": labels[1500:],
    }


def idx(array: np.ndarray) -> bytes:
    head = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return head + array.tobytes()


def write_fashion(folder: Path, files: dict[str, np.ndarray], suffix: str = "") -> Path:
    for name, array in files.items():
        content = gzip.compress(idx(array), 1) if suffix else idx(array)
        (folder / f"{name}{suffix}").write_bytes(content)
    return folder


def numbers(split: Split) -> list[int]:
    """The numbers of the images of a split, as `published` wrote them."""
    images = [split.images[i] for i in range(len(split))]
    return [int(image[0, 0, 0]) * 256 + int(image[0, 1, 0]) for image in images]


def write_images(folder: Path, counts: dict[str, int]) -> None:
    """Write `folder/<class>/<number>.jpg`, in several sizes."""
    rng = np.random.default_rng(len(counts))
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            height, width = rng.integers(40, 90, 2)
            image = cv2.resize(rng.integers(0, 256, (6, 6, 3), np.uint8), (width, height))
            assert cv2.imwrite(str(folder / name / f"{i:03d}.jpg"), image)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder like ImageNet with three classes, not made in the order of their names."""
    write_images(tmp_path / "train", {"cat": 12, "ant": 14, "bee": 13})
    write_images(tmp_path / "val", {"bee": 4, "cat": 5, "ant": 3})
    return tmp_path


def paths(split: Split) -> list[Path]:
    assert isinstance(split.images, Files)
    return list(split.images.paths)


def same(one: Split, other: Split) -> bool:
    return torch.equal(one.labels, other.labels) and all(
        np.array_equal(one.images[i], other.images[i]) for i in range(len(one))
    )


def test_splits_hold_every_digit_once(digits: Dataset) -> None:
    parts = [digits.split(part) for part in PARTS]
    assert sum(map(len, parts)) == 1797
    assert (len(digits.selection), len(digits.calibration)) == (500, 100)
    assert len(digits.report) >= 200
    for part in parts:
        assert set(part.labels.tolist()) == set(range(10))
    images = {part.images[i].tobytes() for part in parts for i in range(len(part))}
    assert len(images) > 1790  # a few of the 1,797 images are equal


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(
        DataError, match="unknown data set 'x': known are digits, fashion, imagenet"
    ):
        load_dataset("x", FASHION)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_fashion_reads_back_what_was_written(
    published: dict[str, np.ndarray], tmp_path: Path, suffix: str
) -> None:
    found = load_dataset("fashion", FASHION, write_fashion(tmp_path, published, suffix))
    assert len(found.classes) == 10
    pixels = np.concatenate([a for name, a in published.items() if "images" in name])
    labels = np.concatenate([a for name, a in published.items() if "labels" in name])
    for part in PARTS:
        split = found.split(part)
        where = numbers(split)
        assert split.labels.dtype == torch.int64
        assert split.labels.tolist() == labels[where].tolist()
        for i, number in enumerate(where):
            np.testing.assert_array_equal(
                split.images[i], np.repeat(pixels[number][..., None], 3, 2)
            )
    assert numbers(found.report) == list(range(1500, 1797))
    train, selection = numbers(found.train), numbers(found.selection)
    assert sorted(train + selection) == list(range(1500))
    assert len(selection) == 300
    calibration = numbers(found.calibration)
    assert len(set(calibration)) == 200
    assert set(calibration) <= set(train)


def test_fewer_training_images_do_not_change_the_selection_split(
    published: dict[str, np.ndarray], tmp_path: Path
) -> None:
    write_fashion(tmp_path, published)
    every = load_dataset("fashion", FASHION, tmp_path)
    few = load_dataset("fashion", msgspec.structs.replace(FASHION, train=400), tmp_path)
    assert len(few.train) == 400
    assert set(numbers(few.train)) < set(numbers(every.train))
    assert same(few.selection, every.selection)
    assert set(numbers(few.calibration)) <= set(numbers(few.train))


def test_a_missing_fashion_file_names_debians_package(
    published: dict[str, np.ndarray], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"dataset-fashion-mnist.*--data") as raised:
        load_dataset("fashion", FASHION, tmp_path / "absent")
    assert f"{tmp_path}/absent has neither train-images-idx3-ubyte nor" in str(raised.value)
    write_fashion(tmp_path, published)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(
        DataError, match=r"has neither t10k-labels-idx1-ubyte nor .*dataset-fashion-mnist"
    ):
        load_dataset("fashion", FASHION, tmp_path)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_a_fashion_file_that_is_cut_off_is_named(
    published: dict[str, np.ndarray], tmp_path: Path, name: str, suffix: str
) -> None:
    write_fashion(tmp_path, published, suffix)
    path = tmp_path / f"{name}{suffix}"
    whole = path.read_bytes()
    for length in (0, 3, 6, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=name):
            load_dataset("fashion", FASHION, tmp_path)
    path.write_bytes(whole + b"x")
    with pytest.raises(DataError, match=name):
        load_dataset("fashion", FASHION, tmp_path)


@pytest.mark.parametrize(
    "head", [b"\x00\x00\x08\x01", b"\x00\x00\x0d\x03", b"\x01\x00\x08\x03", b"\x08\x03\x00\x00"]
)
def test_a_file_with_another_magic_number_is_named(
    published: dict[str, np.ndarray], tmp_path: Path, head: bytes
) -> None:
    path = write_fashion(tmp_path, published) / "train-images-idx3-ubyte"
    path.write_bytes(head + path.read_bytes()[4:])
    with pytest.raises(
        DataError, match=r"train-images-idx3-ubyte is not an IDX file .*3 dimensions"
    ):
        load_dataset("fashion", FASHION, tmp_path)


def test_images_and_labels_that_differ_in_number_are_refused(
    published: dict[str, np.ndarray], tmp_path: Path
) -> None:
    one_less = published | {"t10k-labels-idx1-ubyte": published["t10k-labels-idx1-ubyte"][:-1]}
    with pytest.raises(
        DataError, match=f"{tmp_path}: the t10k files hold 297 images but 296 labels"
    ):
        load_dataset("fashion", FASHION, write_fashion(tmp_path, one_less))


@pytest.mark.parametrize(("selection", "calibration"), [(1500, 1), (1400, 101), (9999, 1)])
def test_too_few_images_to_hold_some_out_are_refused(
    published: dict[str, np.ndarray], tmp_path: Path, selection: int, calibration: int
) -> None:
    write_fashion(tmp_path, published)
    with pytest.raises(DataError, match=r"has 1500 training images, too few for images\.") as e:
        load_dataset("fashion", SplitSizes(0, selection, calibration), tmp_path)
    assert str(tmp_path) in str(e.value)


def test_the_real_fashion_mnist_is_whole() -> None:
    if not DEBIAN_FASHION.exists():
        pytest.skip(f"needs Debian's package dataset-fashion-mnist in {DEBIAN_FASHION}")
    found = load_dataset("fashion", load_recipe("fashion").images)
    assert len(found.train) + len(found.selection) == 60_000
    assert len(found.report) == 10_000
    assert found.report.labels.bincount().tolist() == [1000] * 10
    assert found.report.images[0].shape == (28, 28, 3)


def test_a_folder_gives_classes_in_order_of_name_and_holds_selection_out(folder: Path) -> None:
    (folder / "train" / "ant" / "notes.txt").write_text("no image")
    found = load_dataset("imagenet", FOLDER, folder)
    assert found.classes == ("ant", "bee", "cat")
    for part in PARTS:
        split = found.split(part)
        assert [found.classes[i] for i in split.labels] == [p.parent.name for p in paths(split)]
    train, selection = set(paths(found.train)), set(paths(found.selection))
    assert (len(train), len(selection), len(found.calibration)) == (29, 10, 8)
    assert train | selection == set((folder / "train").glob("*/*.jpg"))
    assert set(paths(found.calibration)) <= train
    assert set(paths(found.report)) == set((folder / "val").glob("*/*.jpg"))


def test_val_may_have_fewer_classes_and_keeps_the_labels_of_train(folder: Path) -> None:
    (folder / "val" / "ant").rename(folder / "elsewhere")
    assert set(load_dataset("imagenet", FOLDER, folder).report.labels.tolist()) == {1, 2}


def test_a_folder_that_is_not_like_imagenet_is_refused(folder: Path) -> None:
    def refusal(images: SplitSizes = FOLDER, where: Path | None = folder) -> str:
        with pytest.raises(DataError) as raised:
            load_dataset("imagenet", images, where)
        return str(raised.value)

    assert "needs --data DIR" in refusal(where=None)
    assert f"{folder}/val/train is not a folder" in refusal(where=folder / "val")
    assert f"{folder}/absent does not exist" in refusal(where=folder / "absent")
    assert f"{folder} has 39 training images, too few" in refusal(SplitSizes(0, 32, 8))
    write_images(folder / "val", {"dog": 1})
    assert f"{folder}/val has classes that are missing from train, such as dog" in refusal()
    (folder / "val").rename(folder / "away")
    assert f"{folder}/val is not a folder" in refusal()
    (folder / "val").mkdir()
    assert f"{folder}/val has no subfolders" in refusal()
    (folder / "val" / "ant").mkdir()
    assert f"{folder}/val has no images (.png, .jpg" in refusal()


@pytest.fixture(params=["kept", "decoded each time"])
def memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param != "kept":
        monkeypatch.setattr(images, "_KEEP_BYTES", 0)


@pytest.mark.usefixtures("memory")
def test_a_broken_file_is_left_out_with_its_label_and_a_warning(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sound = load_dataset("imagenet", FOLDER, folder).report
    x = sound.at(32)
    for i in (2, 4, 5):  # one image of a batch, and both of another
        paths(sound)[i].write_bytes(b"no image")
    split = load_dataset("imagenet", FOLDER, folder).report
    with caplog.at_level(logging.WARNING):
        found = list(split.batches(32, size=2))
    kept = [i for i in range(12) if i not in (2, 4, 5)]
    assert torch.equal(torch.cat([images for images, _ in found]), x[kept])
    assert torch.cat([labels for _, labels in found]).equal(sound.labels[kept])
    assert all(len(images) == len(labels) > 0 for images, labels in found)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 3
    # several threads decode, so the order of the messages is random
    messages = sorted(record.getMessage() for record in caplog.records)
    for i, message in zip((2, 4, 5), messages, strict=True):
        assert f"left out: {paths(sound)[i]} cannot be read" in message


@pytest.mark.usefixtures("memory")
def test_a_split_with_only_broken_files_is_refused(folder: Path) -> None:
    for path in (folder / "val").glob("*/*"):
        path.write_bytes(b"no image")
    split = load_dataset("imagenet", FOLDER, folder).report
    with pytest.raises(
        DataError, match=f"none of the 12 files is an image, such as {folder}/val/ant/000.jpg"
    ):
        split.at(32)


def seen_by_runtime(
    images: Iterable[preprocessing.Image], how: Preprocessing, side: int
) -> np.ndarray:
    norm, found = how.normalisation, []
    for image in images:
        x = preprocessing.prepare(image, how, (side, side)).astype(np.float32) / 255
        x = x[..., ::-1] if norm.channels == "rgb" else x
        found.append(((x - norm.mean) / norm.std).transpose(2, 0, 1))
    return np.stack(found)


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize("name", ["digits", "imagenet"])
def test_training_sees_what_the_runtime_sees(name: str, folder: Path) -> None:
    """The tensors equal the edge's resizing followed by the graph's normalisation."""
    images = load_recipe("digits").images if name == "digits" else FOLDER
    where = None if name == "digits" else folder
    split = load_dataset(name, images, where).report.take(np.arange(12))
    if name == "imagenet":
        assert split.preprocessing == Preprocessing(Normalisation(), "bicubic", 256, 224)
    for side in (40, 48):
        x = split.at(side)
        assert x.is_contiguous(memory_format=torch.channels_last)
        expected = seen_by_runtime((split.images[i] for i in range(12)), split.preprocessing, side)
        np.testing.assert_allclose(x.numpy(), expected, atol=1e-5)


def test_an_image_folder_is_written_as_png_by_class(digits: Dataset, tmp_path: Path) -> None:
    assert write_image_folder(digits, "report", tmp_path / "out") == len(digits.report)
    files = sorted((tmp_path / "out").rglob("*.png"))
    assert len(files) == len(digits.report)
    for file in files:
        index = int(file.stem)
        assert file.parent.name == str(digits.report.labels[index].item())
        np.testing.assert_array_equal(
            preprocessing.read_image(str(file)), digits.report.images[index]
        )


def test_fashion_is_written_as_folders_and_its_labels_are_read_back(
    published: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """Its class `T-shirt/top` is no name for a folder."""
    source = tmp_path / "idx"
    source.mkdir()
    write_fashion(source, published)
    recipe = msgspec.structs.replace(load_recipe("fashion"), images=FASHION)
    file = tmp_path / "small.yaml"
    file.write_bytes(msgspec.yaml.encode(recipe))
    argv = ["data", "--recipe", file, "--data", source, "--out", tmp_path / "out"]
    assert main.main(list(map(str, argv))) == 0
    fashion = load_dataset("fashion", FASHION, source)
    found = load_folder(tmp_path / "out", fashion.classes, fashion.report.preprocessing, 10**6)
    assert len(found) == len(fashion.report) == 297
    places = [int(path.stem) for path in paths(found)]
    assert found.labels.tolist() == fashion.report.labels[places].tolist()


@pytest.mark.parametrize("name", ["digits", "fashion", "imagenet"])
def test_a_checkpoint_leads_back_to_the_splits_that_trained_it(
    name: str, folder: Path, published: dict[str, np.ndarray]
) -> None:
    write_fashion(folder, published)
    images = {"digits": SplitSizes(0, 400, 50), "fashion": FASHION, "imagenet": FOLDER}[name]
    recipe = msgspec.structs.replace(load_recipe(name), images=images)
    where = None if name == "digits" else folder
    trained = load_dataset(name, images, where)
    found = dataset_of(describe(trained, recipe), where)
    assert (found.name, found.classes) == (name, trained.classes)
    assert all(same(found.split(part), trained.split(part)) for part in PARTS)


def like_imagenet(root: Path, per_class: dict[str, int]) -> Path:
    """A folder of empty files in ImageNet's layout, enough for the recipe's calibration."""
    for part, count in per_class.items():
        for name in ("ant", "bee"):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                (root / part / name / f"{i:05}.jpg").touch()
    return root


def test_imported_weights_are_searched_and_reported_on_halves_of_val(tmp_path: Path) -> None:
    root = like_imagenet(tmp_path, {"train": 2100, "val": 7})
    about = About(("ant", "bee"), Preprocessing(Normalisation()), "", "")
    found = dataset_of(about, root)
    selection, report = set(paths(found.selection)), set(paths(found.report))
    assert not selection & report
    assert selection | report == set((root / "val").glob("*/*.jpg"))
    for split in (found.selection, found.report):  # both halves have as many of each class
        counts = split.labels.bincount()
        assert counts.max() - counts.min() <= 1
    again = dataset_of(about, root)
    assert paths(again.selection) == paths(found.selection)


def test_imported_weights_take_a_small_folder_and_calibrate_on_all_of_its_train(
    tmp_path: Path,
) -> None:
    root = like_imagenet(tmp_path, {"train": 3, "val": 2})
    found = dataset_of(About(("ant", "bee"), Preprocessing(Normalisation()), "", ""), root)
    assert set(paths(found.calibration)) == set((root / "train").glob("*/*.jpg"))


def test_weights_trained_here_are_reported_on_all_of_val(tmp_path: Path) -> None:
    root = like_imagenet(tmp_path, {"train": 50, "val": 3})
    sizes = SplitSizes(train=0, selection=40, calibration=20)
    recipe = msgspec.structs.replace(load_recipe("imagenet"), images=sizes)
    about = describe(load_dataset("imagenet", recipe.images, root), recipe)
    found = dataset_of(about, root)
    assert set(paths(found.report)) == set((root / "val").glob("*/*.jpg"))
    assert set(paths(found.selection)) <= set((root / "train").glob("*/*.jpg"))
    assert not set(paths(found.selection)) & set(paths(found.train))


def test_a_recipe_that_was_stored_with_the_older_names_is_still_read(folder: Path) -> None:
    recipe = msgspec.structs.replace(load_recipe("imagenet"), images=FOLDER)
    about = describe(load_dataset("imagenet", FOLDER, folder), recipe)
    older = msgspec.structs.replace(about, recipe=about.recipe.replace("selection", "validation"))
    assert older.recipe != about.recipe
    assert recipe_of(older) == recipe


def test_imported_weights_need_an_imagenet_with_as_many_classes(tmp_path: Path) -> None:
    like_imagenet(tmp_path, {"train": 2100, "val": 1})
    about = About(("ant", "bee"), Preprocessing(Normalisation()), "", "")
    three = msgspec.structs.replace(about, classes=("ant", "bee", "cat"))
    with pytest.raises(
        DataError, match=f"{tmp_path} has 2 classes, but the supernet was trained on 3"
    ):
        dataset_of(three, tmp_path)
