"""Training batches are the same after a restart, in workers, and over several processes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from ramnas_host.config import Recipe, load_recipe
from ramnas_host.data.datasets import load_dataset
from ramnas_host.data.images import Arrays, Files, Split
from ramnas_host.data.loader import Batch, batches, steps_per_epoch
from ramnas_models.errors import DataError

IMAGES = 50  # with batches of 8: 6 steps an epoch, 2 images left out


def recipe(*, crop: float = 0.5, size: int = 12, batch_size: int = 8, seed: int = 0) -> Recipe:
    digits = load_recipe("digits")
    augment = msgspec.structs.replace(digits.augment, crop=crop, size=size)
    return msgspec.structs.replace(digits, augment=augment, batch_size=batch_size, seed=seed)


@pytest.fixture(scope="module")
def split() -> Split:
    """Digits, each of them labelled with its index."""
    train = load_dataset("digits", load_recipe("digits").images).train.take(np.arange(IMAGES))
    return Split(train.images, torch.arange(IMAGES), train.preprocessing)


@pytest.fixture
def files(split: Split, tmp_path: Path) -> Split:
    """The same in files. Those of 3 and 7 are broken: one is empty, the other is cut off."""
    paths = [tmp_path / f"{i}.jpg" for i in range(IMAGES)]
    for i, path in enumerate(paths):
        lossless = cv2.imencode(".png", split.images[i])[
            1
        ].tobytes()  # the content decides how it is read
        path.write_bytes({3: b"", 7: lossless[:60]}.get(i, lossless))
    return Split(Files(paths), split.labels, split.preprocessing)


def assert_equal(found: Iterable[Batch], expected: Iterable[Batch]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.pixels, other.pixels)
        assert torch.equal(one.labels, other.labels)
        assert one.broken == other.broken


def crops(found: Iterable[Batch]) -> set[tuple[int, bytes]]:
    return {
        (label, pixels.numpy().tobytes())
        for batch in found
        for label, pixels in zip(batch.labels.tolist(), batch.pixels, strict=True)
    }


def test_an_epoch_visits_every_image_once_and_drops_the_last_short_batch(split: Split) -> None:
    steps = steps_per_epoch(split, recipe())
    assert steps == 6
    epochs = []
    for epoch in range(3):
        found = list(batches(split, recipe(), epoch * steps, (epoch + 1) * steps))
        assert [len(batch.labels) for batch in found] == [8] * 6
        assert all(batch.pixels.shape == (8, 12, 12, 3) for batch in found)
        assert all(batch.pixels.dtype == torch.uint8 for batch in found)
        assert not any(batch.broken for batch in found)
        epochs.append(torch.cat([batch.labels for batch in found]).tolist())
        assert len(set(epochs[-1])) == 48
    assert epochs[0] != epochs[1] != epochs[2]
    assert set().union(*epochs) == set(range(IMAGES))  # each time other images are left out


def test_labels_stay_with_their_images(split: Split) -> None:
    for batch in batches(split, recipe(crop=1.0, size=8), 0, 6):
        for label, pixels in zip(batch.labels.tolist(), batch.pixels, strict=True):
            np.testing.assert_array_equal(pixels.numpy(), split.images[label])


def test_an_image_is_cropped_differently_in_every_epoch(split: Split) -> None:
    first, second = (crops(batches(split, recipe(), start, start + 6)) for start in (0, 6))
    assert len(first & second) < 5


def test_only_the_seed_decides_the_batches(split: Split) -> None:
    first = list(batches(split, recipe(), 0, 7))
    torch.manual_seed(5)
    np.random.seed(5)
    assert_equal(batches(split, recipe(), 0, 7), first)
    assert len(crops(first) & crops(batches(split, recipe(seed=1), 0, 7))) < 5


@pytest.mark.parametrize("first", [1, 5, 6, 7, 13, 15])
def test_a_restart_goes_on_with_the_same_batches(split: Split, first: int) -> None:
    whole = list(batches(split, recipe(), 0, 15))
    assert_equal(batches(split, recipe(), first, 15), whole[first:])


def test_workers_do_not_change_what_is_drawn(files: Split) -> None:
    alone = list(batches(files, recipe(), 2, 9))
    assert any(batch.broken for batch in alone)
    assert_equal(batches(files, recipe(), 2, 9, workers=2), alone)


@pytest.mark.parametrize("world", [2, 4])
def test_the_shares_of_all_ranks_are_the_batch_of_one(split: Split, world: int) -> None:
    whole = batches(split, recipe(), 0, 8)
    shares = [batches(split, recipe(), 0, 8, rank=rank, world=world) for rank in range(world)]
    for one, *parts in zip(whole, *shares, strict=True):
        assert [len(part.labels) for part in parts] == [8 // world] * world
        assert crops(parts) == crops([one])


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("first", [0, 5])
def test_the_parts_of_a_step_are_the_shares_of_as_many_ranks(
    split: Split, parts: int, first: int
) -> None:
    how = msgspec.structs.replace(recipe(), accumulate=parts)
    in_parts = list(batches(split, how, first, 8))
    assert len(in_parts) == parts * (8 - first)
    for part in range(parts):
        share = batches(split, recipe(), first, 8, rank=part, world=parts)
        assert_equal(in_parts[part::parts], share)
    two = [list(batches(split, how, 0, 8, rank=rank, world=2)) for rank in (0, 1)]
    for step, one in enumerate(batches(split, recipe(), 0, 8)):
        of_step = [batch for rank in two for batch in rank[parts * step : parts * (step + 1)]]
        assert crops(of_step) == crops([one])


def test_a_batch_that_the_ranks_cannot_share_evenly_is_refused(split: Split) -> None:
    with pytest.raises(DataError, match="batch_size 8 cannot be shared evenly by 3 processes"):
        next(batches(split, recipe(), 0, 1, rank=0, world=3))
    how = msgspec.structs.replace(recipe(), accumulate=4)
    with pytest.raises(DataError, match="by 4 processes in 4 parts each: choose a multiple of 16"):
        next(batches(split, how, 0, 1, rank=0, world=4))


def test_fewer_images_than_a_batch_are_refused(split: Split) -> None:
    assert steps_per_epoch(split, recipe(batch_size=IMAGES)) == 1
    with pytest.raises(DataError, match="batch_size 51 is more than the 50 training images"):
        steps_per_epoch(split, recipe(batch_size=IMAGES + 1))


def test_another_image_replaces_a_broken_one_which_is_named(files: Split) -> None:
    assert isinstance(files.images, Files)
    names = {str(files.images.paths[i]) for i in (3, 7)}
    how = recipe(crop=1.0, size=8)
    whole = list(batches(files, how, 0, 12))
    assert {name for batch in whole for name in batch.broken} == names
    for batch in whole:
        assert len(batch.labels) == len(batch.pixels) == 8
        assert not {3, 7} & set(batch.labels.tolist())
        for label, pixels in zip(batch.labels.tolist(), batch.pixels, strict=True):
            np.testing.assert_array_equal(pixels.numpy(), files.images[label])
    assert_equal(batches(files, how, 5, 12), whole[5:])


def test_broken_files_do_not_change_the_other_examples(files: Split, split: Split) -> None:
    for one, other in zip(
        batches(files, recipe(), 0, 6), batches(split, recipe(), 0, 6), strict=True
    ):
        sound = ~torch.isin(other.labels, torch.tensor([3, 7]))
        assert torch.equal(one.labels[sound], other.labels[sound])
        assert torch.equal(one.pixels[sound], other.pixels[sound])
        assert len(one.broken) >= int((~sound).sum())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_hundred_broken_images_in_a_row_are_refused(
    split: Split, tmp_path: Path, workers: int
) -> None:
    path = tmp_path / "broken.jpg"
    path.write_bytes(b"\xff\xd8\xff\xe0 no more than the start of a JPEG")
    broken = Split(Files([path] * IMAGES), split.labels, split.preprocessing)
    with pytest.raises(
        DataError, match=f"100 images in a row could not be read, the last one {path}"
    ):
        next(batches(broken, recipe(), 0, 1, workers=workers))


def test_images_in_memory_may_be_grey_or_in_colour(split: Split) -> None:
    assert isinstance(split.images, Arrays)
    assert split.images.pixels.ndim == 3
    colour = Arrays(np.repeat(split.images.pixels[..., None], 3, axis=3))
    assert_equal(
        batches(Split(colour, split.labels, split.preprocessing), recipe(), 0, 6),
        batches(split, recipe(), 0, 6),
    )
