"""The cache of evaluation pictures: as the runtime prepares them, shared, bounded, and mended."""

from __future__ import annotations

import logging
import multiprocessing
import os
import types
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from ramnas_edge.board.folders import cache_folder
from ramnas_edge.vision import preprocessing
from ramnas_host.data import images as images_module
from ramnas_host.data import picture_cache
from ramnas_host.data.images import Arrays, Files, Split
from ramnas_models.bundle import Preprocessing
from ramnas_models.errors import DataError
from ramnas_models.onnx_graph import Normalisation

HOW = Preprocessing(Normalisation(), "bicubic", resize_short=40, crop=36)
PLAIN = Preprocessing(Normalisation())
MARGIN = Preprocessing(Normalisation(), "bicubic", margin=8)


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(picture_cache, "_CHUNK", 4)


def split(folder: Path, count: int = 11, how: Preprocessing = HOW) -> Split:
    """Photographs of noise, of several sizes, most of them larger than the crop."""
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{i:02}.png" for i in range(count)]
    for path in paths:
        height, width = rng.integers(20, 90, 2)
        if not path.exists():
            cv2.imwrite(str(path), rng.integers(0, 256, (height, width, 3), np.uint8))
    return Split(Files(paths), torch.arange(count), how)


def cache_files() -> list[Path]:
    return sorted((cache_folder() / "pictures").glob("*"))


def pixels(found: Split, side: int, batch: int = 5) -> np.ndarray:
    """The uint8 images that a network gets, before they are normalised."""
    parts = found._prepared(side, batch)
    return np.concatenate([part.numpy() for part, _ in parts])


def counting(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are decoded from now on."""
    decoded: list[str] = []
    read = preprocessing.read_image

    def counted(path: str) -> np.ndarray:
        decoded.append(path)
        return read(path)

    monkeypatch.setattr(preprocessing, "read_image", counted)
    return decoded


@pytest.mark.parametrize("batch", [1, 5, 64])
def test_every_resolution_gets_exactly_the_pixels_of_the_runtime(
    tmp_path: Path, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for resize, crop, interpolation in ((40, 36, "bicubic"), (36, 36, "bilinear")):
        how = Preprocessing(Normalisation(), interpolation, resize, crop)
        made, again = (split(tmp_path / "images", how=how) for _ in range(2))
        decoded = counting(monkeypatch)
        for side in (24, 36, 48):
            expected = [
                preprocessing.prepare(made.images[i], how, (side, side)) for i in range(len(made))
            ]
            for one in (made, again):
                np.testing.assert_array_equal(pixels(one, side, batch), np.stack(expected))
        assert len(decoded) == len(made) * (1 + 3)  # once for the cache, three times to compare
    assert len(cache_files()) == 2  # one for each preprocessing


def test_a_picture_that_changed_is_decoded_again(tmp_path: Path) -> None:
    first = split(tmp_path / "images")
    before = pixels(first, 24)
    path = first.images.paths[3]
    cv2.imwrite(str(path), np.zeros((50, 50, 3), np.uint8))
    after = pixels(split(tmp_path / "images"), 24)
    assert [i for i in range(11) if (before[i] != after[i]).any()] == [3]
    assert not after[3].any()


@pytest.mark.parametrize("place", ["pixels", "checksum", "length"])
def test_what_is_damaged_is_made_again(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = pixels(split(tmp_path / "images"), 24)
    (file,) = cache_files()
    data = bytearray(file.read_bytes())
    if place == "length":
        data = data[: len(data) // 2]
    else:
        data[6 * 36 * 36 * 3 if place == "pixels" else -16] ^= 1  # of the second chunk of four
    file.write_bytes(data)
    decoded = counting(monkeypatch)
    np.testing.assert_array_equal(pixels(split(tmp_path / "images"), 24), before)
    names = sorted(Path(path).name for path in decoded)
    if place != "length":
        assert names == ["04.png", "05.png", "06.png", "07.png"]
    assert len(names) < 12


def test_a_broken_picture_is_left_out_and_named_also_when_it_comes_from_the_cache(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "05.png").write_bytes(b"no image")
    for how_often in range(2):
        caplog.clear()
        found = split(tmp_path / "images")
        labels = torch.cat([labels for _, labels in found.batches(24, 4)])
        assert labels.tolist() == [i for i in range(11) if i != 5]
        (record,) = [r for r in caplog.records if r.levelno == logging.WARNING]
        assert "left out: " in record.getMessage(), how_often
        assert "05.png" in record.getMessage()


def test_a_split_larger_than_the_bound_is_decoded_each_time_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = pixels(split(tmp_path / "images"), 24)
    monkeypatch.setattr(images_module, "CACHE_BYTES", 10_000)
    monkeypatch.setattr(images_module, "_KEEP_BYTES", 0)
    found = split(tmp_path / "images")
    decoded = counting(monkeypatch)
    for _ in range(2):
        np.testing.assert_array_equal(pixels(found, 24), expected)
    assert len(decoded) == 2 * len(found)
    messages = [record.getMessage() for record in caplog.records if "cache" in record.getMessage()]
    assert sum("decoded again for every network" in message for message in messages) == 1


def test_all_files_together_stay_within_the_bound_and_the_oldest_go_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    for name in ("a", "b"):
        pixels(split(tmp_path / name), 24)
        (new,) = set(cache_files()) - set(made)
        made.append(new)
        os.utime(new, (len(made), len(made)))
    size = made[0].stat().st_size
    monkeypatch.setattr(picture_cache, "CACHE_BYTES", 2 * size)
    pixels(split(tmp_path / "a"), 24)  # so b is the one that was used longest ago
    in_use = split(tmp_path / "b")
    pixels(in_use, 24)
    os.utime(made[1], (1, 1))
    pixels(split(tmp_path / "c"), 24)
    left = cache_files()
    assert made[0] in left
    assert made[1] not in left
    assert sum(file.stat().st_size for file in left) <= 2 * size
    assert len(pixels(in_use, 30)) == 11  # whoever uses a removed file goes on with it


def test_a_full_disk_costs_only_time(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    expected = pixels(split(tmp_path / "images", 80), 24)
    monkeypatch.setenv("XDG_CACHE_HOME", str(small_disk))
    for free in ("known", "unknown"):
        caplog.clear()
        if free == "unknown":  # the disk fills while the file is written
            monkeypatch.setattr(
                picture_cache.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=2**40)
            )
        found = split(tmp_path / "images", 80)
        np.testing.assert_array_equal(pixels(found, 24), expected)
        assert "the disk is full; free some space" in caplog.text
        assert cache_files() == []


def test_processes_share_the_decoding_and_a_killed_one_loses_only_its_chunk(tmp_path: Path) -> None:
    made = split(tmp_path / "images", 24)
    expected = [preprocessing.prepare(made.images[i], HOW, (24, 24)) for i in range(24)]
    log, read = tmp_path / "decoded", preprocessing.read_image

    def work(most: int) -> None:
        """Decode all that nobody else decodes; die after `most` pictures."""
        own = 0

        def noted(path: str) -> np.ndarray:
            nonlocal own
            own += 1
            if own > most:
                os._exit(9)
            with log.open("a") as file:
                file.write(f"{Path(path).name}\n")
            return read(path)

        preprocessing.read_image = noted
        found = pixels(split(tmp_path / "images", 24), 24)
        os._exit(0 if np.array_equal(found, expected) else 1)

    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=work, args=(most,)) for most in (2, 24, 24)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    # a process that found no chunk left to decode did not die
    assert [worker.exitcode for worker in workers] in ([9, 0, 0], [0, 0, 0])
    decoded = log.read_text().split()
    assert set(decoded) == {f"{i:02}.png" for i in range(24)}
    assert len(decoded) <= 24 + 2


def test_a_split_without_images_is_refused(tmp_path: Path) -> None:
    for empty in (split(tmp_path / "images", 0), split(tmp_path / "images", 0, PLAIN)):
        with pytest.raises(DataError, match="a split without images"):
            empty.at(24)


@pytest.mark.parametrize("side", [24, 32, 41, 80])
def test_with_a_margin_the_crop_follows_the_resolution(
    tmp_path: Path, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The short side becomes the resolution plus the margin, also if the picture is smaller."""
    made, again = (split(tmp_path / "images", how=MARGIN) for _ in range(2))
    in_memory = [
        Split(Arrays(made.images[i][None]), torch.zeros(1), MARGIN) for i in range(len(made))
    ]
    expected = []
    for i in range(len(made)):
        picture = made.images[i]
        scale = (side + 8) / min(picture.shape[:2])
        height, width = (round(n * scale) for n in picture.shape[:2])
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        whole = cv2.resize(picture, (width, height), interpolation=how)
        top, left = (height - side) // 2, (width - side) // 2
        expected.append(whole[top : top + side, left : left + side])
    decoded = counting(monkeypatch)
    for one in (made, again):
        np.testing.assert_array_equal(pixels(one, side), np.stack(expected))
    assert len(decoded) == len(made)
    found = np.concatenate([pixels(one, side) for one in in_memory])
    np.testing.assert_array_equal(found, np.stack(expected))


def test_with_a_margin_each_resolution_has_a_cache_and_is_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = split(tmp_path / "images", how=MARGIN)
    decoded = counting(monkeypatch)
    for side in (24, 32, 24, 32):
        assert pixels(made, side).shape == (11, side, side, 3)
    assert len(decoded) == 2 * len(made)
    assert len(cache_files()) == 2


def test_two_interpolations_of_the_same_crop_have_caches_of_their_own(tmp_path: Path) -> None:
    """A picture that is enlarged differs by them."""
    both = [Preprocessing(Normalisation(), how, 80, 72) for how in ("bilinear", "bicubic")]
    found = [pixels(split(tmp_path / "images", how=how), 72) for how in both]
    assert (found[0] != found[1]).any()
    made = split(tmp_path / "images")
    for how, one in zip(both, found, strict=True):
        for i in range(len(made)):
            np.testing.assert_array_equal(
                one[i], preprocessing.prepare(made.images[i], how, (72, 72))
            )
