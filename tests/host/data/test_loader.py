"""Training batches are the same after a restart, in workers, and over several processes."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor
from torch.utils import data

from ramnas_edge.board import cores
from ramnas_edge.vision.preprocessing import read_image
from ramnas_host.config import Recipe, load_recipe
from ramnas_host.data import worker_processes
from ramnas_host.data.datasets import load_dataset
from ramnas_host.data.images import Arrays, Files, Split
from ramnas_host.data.loader import (
    Batch,
    batches,
    drawn_batches,
    steps_per_epoch,
)
from ramnas_host.data.worker_processes import lack_of_means
from ramnas_models.errors import DataError, SourceError

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
    with pytest.raises(DataError) as raised:
        next(batches(broken, recipe(), 0, 1, workers=workers))
    message = str(raised.value)
    reason = f"{path} is cut off: its JPEG data has no end marker"
    assert message.startswith(f"100 images in a row could not be read, the last one {reason}; ")
    assert f"the first one: {reason}; " in message
    assert message.endswith("`ramnas data check DIR` lists what is wrong with a folder")
    assert "\n" not in message


def test_a_broken_file_keeps_the_reason_why(files: Split) -> None:
    assert isinstance(files.images, Files)
    empty, cut = (str(files.images.paths[i]) for i in (3, 7))
    expected = {}
    for name in (empty, cut):
        with pytest.raises(SourceError) as raised:
            read_image(name)
        expected[name] = str(raised.value)
        assert name in expected[name]
    for workers in (0, 1):
        found = {
            name: reason
            for batch in batches(files, recipe(), 0, 7, workers=workers)
            for name, reason in batch.broken.items()
        }
        assert found == expected


class Frames:
    """24 images of 100x100 pixels; making an example of the one numbered `bad` raises an error."""

    images = Arrays(np.zeros((24, 2, 2), np.uint8))

    def __init__(self, bad: int = -1, error: BaseException = Exception()) -> None:
        self._bad, self._error = bad, error

    def __len__(self) -> int:
        return len(self.images)

    def draw(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        if index == self._bad:
            raise self._error
        return np.full((100, 100, 3), index, np.uint8), np.array(index)

    def batches(self, workers: int) -> Iterator[Batch]:
        return drawn_batches(self, self.draw, recipe(), 0, 6, workers=workers)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (SourceError("label_5.png is cut off"), "label_5.png is cut off"),
        (OSError(errno.EIO, "Input/output error", "x.jpg"), "image 5: Input/output error"),
        (OSError(errno.ESTALE, "Stale file handle"), "image 5: Stale file handle"),
        (cv2.error("OpenCV(4.10.0) resize.cpp:42:\n error: (-215) !empty()\n"),
         "image 5: OpenCV(4.10.0) resize.cpp:42: error: (-215) !empty()"),
    ],
    ids=repr,
)  # fmt: skip
def test_whatever_a_file_causes_counts_as_broken_with_its_reason(
    error: Exception, reason: str, workers: int
) -> None:
    found = [batch.broken for batch in Frames(5, error).batches(workers)]
    assert {name: why for part in found for name, why in part.items()} == {"image 5": reason}


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_does_not_fit_into_memory_is_named(workers: int) -> None:
    with pytest.raises(DataError, match=r"^there is not enough memory to read image 5: make the"):
        list(Frames(5, MemoryError()).batches(workers))


def test_a_lack_of_memory_for_a_batch_names_the_way_out() -> None:
    of_gpu = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0"
    for error, reason in [
        (torch.OutOfMemoryError(of_gpu), "CUDA out of memory"), (MemoryError(), "MemoryError"),
    ]:  # fmt: skip
        expected = rf"for a batch \({reason}\): give a smaller --batch-size"
        with pytest.raises(DataError, match=expected), lack_of_means():
            raise error
    with pytest.raises(RuntimeError, match=r"^shapes differ$"), lack_of_means():
        raise RuntimeError("shapes differ")


@pytest.mark.parametrize(
    ("signal_of_death", "message"),
    [
        (signal.SIGKILL, "most likely the memory is used up: give fewer --workers"),
        (signal.SIGBUS, "/dev/shm is full: in a container give --shm-size 8g, or give --workers 0"),
        (signal.SIGSEGV, "--workers 0 decodes without other processes"),
    ],
)
def test_a_worker_that_dies_ends_the_training_with_one_line(
    signal_of_death: signal.Signals, message: str
) -> None:
    frames = Frames()

    def draw(index: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        if data.get_worker_info() is not None and index == 5:
            if signal_of_death != signal.SIGKILL:
                signal.signal(signal_of_death, signal.SIG_DFL)
            os.kill(os.getpid(), signal_of_death)
        return frames.draw(index, rng)

    with pytest.raises(DataError) as raised:
        list(drawn_batches(frames, draw, recipe(), 0, 6, workers=1))
    text = str(raised.value)
    assert (
        text
        == f"a worker process that decodes images was killed by {signal_of_death.name}; {message}"
    )
    assert "\n" not in text


def test_a_worker_that_dies_in_the_middle_of_a_message_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_processes, "_SHM", "/nowhere")
    others = multiprocessing.active_children()
    found = Frames().batches(1)
    next(found)
    (worker,) = set(multiprocessing.active_children()) - set(others)
    # 240 kB do not fit into a pipe, so the worker is still writing the next batch
    assert worker.pid
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(DataError, match="killed by SIGKILL"):
        list(found)


def test_the_handlers_of_signals_are_those_of_before() -> None:
    def handler(number: int, frame: object) -> None: ...

    usual = signal.signal(signal.SIGCHLD, handler)
    try:
        assert len(list(Frames().batches(1))) == 6
        assert signal.getsignal(signal.SIGCHLD) is handler
    finally:
        signal.signal(signal.SIGCHLD, usual)


@pytest.mark.parametrize("lack", ["room", "folder", "files"])
def test_batches_travel_through_pipes_where_shared_memory_lacks(
    lack: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    alone = list(Frames().batches(0))
    if lack == "files":
        monkeypatch.setattr(worker_processes.resource, "getrlimit", lambda what: (10, 10))
    elif lack == "room":
        monkeypatch.setattr(worker_processes, "_shared_memory", lambda: 8 * 30_000 + 100)
    else:
        monkeypatch.setattr(worker_processes, "_SHM", "/nowhere")
    monkeypatch.setattr(Tensor, "share_memory_", None)
    assert_equal(Frames().batches(2), alone)
    assert caplog.text.count("the images travel through pipes") == 1
    wanted = "only 10 files may be open" if lack == "files" else "room for batches of 0.2 MB"
    assert wanted in caplog.text


def test_a_race_for_the_last_shared_memory_is_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensor: Tensor) -> Tensor:
        raise RuntimeError(
            "unable to allocate shared memory(shm) for file: No space left on device"
        )

    alone = list(Frames().batches(0))
    monkeypatch.setattr(Tensor, "share_memory_", full)
    assert_equal(Frames().batches(2), alone)


def test_shared_memory_is_used_where_it_has_room(caplog: pytest.LogCaptureFixture) -> None:
    if worker_processes._shared_memory() < 2**24:
        pytest.skip("this machine has little shared memory")
    assert all(batch.pixels.is_shared() for batch in Frames().batches(1))
    assert not caplog.text


@pytest.mark.parametrize(
    ("mount", "line"),
    [("size=1m", "room for batches of 1.4 MB"), ("ro", "can be started (Read-only file system)")],
)
def test_a_real_dev_shm_that_is_small_or_read_only_does_no_harm(mount: str, line: str) -> None:
    """pytorch/pytorch #5040: the training waited for ever."""
    code = f"""if 1:
        import logging, sys
        import numpy as np
        logging.basicConfig()
        sys.path[:0] = {sys.path!r}
        from tests.host.data.test_loader import Frames, drawn_batches, recipe
        frames = Frames()
        draw = lambda index, rng: (np.full((240, 240, 3), index, np.uint8), np.array(index))
        for batch in drawn_batches(frames, draw, recipe(), 0, 6, workers=2):
            assert (batch.pixels[:, 0, 0, 0] == batch.labels).all()
        print("all six")
    """
    shell = f"mount -t tmpfs -o {mount} none /dev/shm && exec {sys.executable} -"
    able = ["unshare", "-rm", "sh", "-c", f"mount -t tmpfs -o {mount} none /dev/shm"]
    if not shutil.which("unshare") or subprocess.run(able, capture_output=True).returncode:
        pytest.skip("this user may not mount a folder of its own")
    ran = subprocess.run(
        ["unshare", "-rm", "sh", "-c", shell], input=code, text=True, capture_output=True,
        timeout=300,
    )  # fmt: skip
    assert ran.stdout == "all six\n", ran.stderr
    assert line in ran.stderr
    assert "Traceback" not in ran.stderr


def test_more_workers_than_processors_get_one_line(caplog: pytest.LogCaptureFixture) -> None:
    workers = cores.usable() + 1
    assert len(list(Frames().batches(workers))) == 6
    assert f"{workers} workers are more than the {workers - 1} processors" in caplog.text


def test_images_in_memory_may_be_grey_or_in_colour(split: Split) -> None:
    assert isinstance(split.images, Arrays)
    assert split.images.pixels.ndim == 3
    colour = Arrays(np.repeat(split.images.pixels[..., None], 3, axis=3))
    assert_equal(
        batches(Split(colour, split.labels, split.preprocessing), recipe(), 0, 6),
        batches(split, recipe(), 0, 6),
    )


def test_without_processes_the_images_are_decoded_by_the_training_itself(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fork, calls = os.fork, []

    def limited() -> int:
        calls.append(0)
        if len(calls) > 1:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return fork()

    alone = list(Frames().batches(0))
    others = multiprocessing.active_children()
    monkeypatch.setattr(os, "fork", limited)
    assert_equal(Frames().batches(2), alone)
    assert "can be started (Resource temporarily unavailable)" in caplog.text
    assert len(calls) == 2
    assert multiprocessing.active_children() == others  # the first worker has been ended
