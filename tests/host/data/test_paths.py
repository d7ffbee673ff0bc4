"""Paths in one buffer: the same as a list of them, small, and listed from the disk only once."""

from __future__ import annotations

import os
import pickle
import string
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ramnas_edge.board.folders import cache_folder
from ramnas_host.data import paths
from ramnas_host.data.findings import Notes
from ramnas_host.data.images import Files
from ramnas_host.data.paths import PathList, labelled, list_classes
from ramnas_models.errors import DataError

NAMES = st.text(string.ascii_letters + "._- äß日", min_size=1, max_size=12).filter(
    lambda name: name.strip(".")
)
PATHS = st.lists(
    st.builds(lambda parts, root: Path(root, *parts), st.lists(NAMES, min_size=1, max_size=4),
              st.sampled_from(["", "/", "/data/train"])),
    max_size=20,
)  # fmt: skip
LONG_AGO = 1_000_000_000


@settings(max_examples=40)
@given(PATHS, st.data())
def test_it_is_the_list_of_the_same_paths(expected: list[Path], data: st.DataObject) -> None:
    found = PathList.of(expected)
    assert list(found) == expected
    assert len(found) == len(expected)
    start = data.draw(st.integers(-3, 20))
    assert list(found[start:]) == expected[start:]
    if expected:
        index = data.draw(st.lists(st.integers(0, len(expected) - 1), max_size=8))
        taken = found.take(np.array(index, np.int64))
        assert list(taken) == [expected[i] for i in index]
        assert taken._text is found._text
        assert found[-1] == expected[-1]
    again = pickle.loads(pickle.dumps(found))
    assert list(again) == expected


def test_a_million_paths_take_little_memory_and_are_never_copied() -> None:
    """The paths of ImageNet's training images: 1,280,000 in 1,000 folders.

    A worker that is forked shares the arrays; one that is spawned gets the pickle.
    """
    folders = [f"/data/imagenet/train/n{k:08d}".encode() for k in range(1000)]
    names = [b"".join(b"n%08d_%05d.JPEG\0" % (k, i) for i in range(1280)) for k in range(1000)]
    found = PathList.of_folders(folders, names)
    assert len(found) == 1_280_000
    assert found[1_279_999] == Path("/data/imagenet/train/n00000999/n00000999_01279.JPEG")
    assert len(pickle.dumps(found, pickle.HIGHEST_PROTOCOL)) < 48 * 2**20
    taken = found.take(np.random.default_rng(0).permutation(1_280_000)[:1_270_000])
    # both in one pickle, as both are in a data set: the names are in it once
    assert len(pickle.dumps((found, taken), pickle.HIGHEST_PROTOCOL)) < 60e6
    # the same as a list of Path objects: ten times as much, and copied by every worker
    assert bytes_of_a_list_of_paths() > 10 * len(pickle.dumps(found)) / len(found)
    # objects whose references Python counts would be copied: there is one for each folder
    assert objects(found) < 2000


def bytes_of_a_list_of_paths() -> float:
    """The memory of one of 10,000 Path objects whose text has been asked for, as reading needs."""
    tracemalloc.start()
    kept = [Path(f"/data/imagenet/train/n00000000/n00000000_{i:05d}.JPEG") for i in range(10_000)]
    assert all(str(path) for path in kept)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size / len(kept)


def objects(value: object) -> int:
    """How many Python objects `value` is made of."""
    if isinstance(value, PathList):
        return sum(map(objects, vars(value).values()))
    return 1 + (sum(map(objects, value)) if isinstance(value, (list, tuple)) else 0)


def test_files_keep_their_paths_in_that_form() -> None:
    files = Files([Path("a/1.jpg"), Path("a/2.jpg"), Path("b/1.jpg")])
    assert list(files.paths) == [Path("a/1.jpg"), Path("a/2.jpg"), Path("b/1.jpg")]
    assert files.name(2) == "b/1.jpg"
    assert isinstance(files.paths, PathList)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes, of which `c` is empty; the folders last changed long ago."""
    for name in ("a/2.JPEG", "a/1.png", "a/notes.txt", "b/x.jpg", "c/.keep"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for name in "abc":
        os.utime(tmp_path / name, (LONG_AGO, LONG_AGO))
    return tmp_path


def scan(folder: Path, classes: Sequence[str]) -> tuple[list[str], list[int]]:
    """The pictures of `classes`, each by its path in `folder`, and their labels."""
    found, labels = labelled(list_classes(folder, Notes("train")), classes)
    assert labels.dtype == np.int64
    return [str(path.relative_to(folder)) for path in found], labels.tolist()


def listed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the class folders that are read from now on."""
    seen: list[str] = []
    own = os.scandir

    def noting(at: Path) -> Iterator[os.DirEntry[str]]:
        if len(Path(at).name) == 1:
            seen.append(Path(at).name)
        return own(at)

    monkeypatch.setattr(paths.os, "scandir", noting)
    return seen


CLASSES = ("a", "absent", "b", "c")


def test_classes_come_in_order_with_their_images_in_the_order_of_their_names(folder: Path) -> None:
    assert list(list_classes(folder, Notes("train"))) == ["a", "b"]
    assert scan(folder, CLASSES) == (["a/1.png", "a/2.JPEG", "b/x.jpg"], [0, 0, 2])
    assert scan(folder, CLASSES[::-1]) == (["b/x.jpg", "a/1.png", "a/2.JPEG"], [1, 3, 3])


def test_a_class_is_listed_again_only_if_its_folder_has_changed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = listed(monkeypatch)
    first = scan(folder, CLASSES)
    assert seen == ["a", "b", "c"]
    assert scan(folder, CLASSES) == first
    assert len(seen) == 3
    (folder / "b/new.webp").touch()
    (folder / "a/1.png").unlink()
    os.utime(folder / "a", (LONG_AGO, LONG_AGO + 1))
    assert scan(folder, CLASSES) == (["a/2.JPEG", "b/new.webp", "b/x.jpg"], [0, 2, 2])
    assert sorted(seen[3:]) == ["a", "b"]


def test_a_listing_that_is_known_gives_the_same_findings(folder: Path) -> None:
    found = []
    for _ in range(2):
        notes = Notes("train")
        list_classes(folder, notes)
        found.append([str(finding) for finding in notes.findings()])
    assert found[0] == found[1]
    assert found[0] == [
        "train: class folders without a picture, which are not classes: 1, such as c",
        "train: files that are not read because of their suffix, .txt (1): 1, such as a/notes.txt",
    ]


def test_a_folder_that_has_just_changed_is_not_trusted(folder: Path) -> None:
    """A second file in the same tick of the file system's clock leaves the time as it is."""
    (folder / "b/1.jpg").touch()
    now_ns = (folder / "b").stat().st_mtime_ns
    scan(folder, CLASSES)
    (folder / "b/2.jpg").touch()
    os.utime(folder / "b", ns=(now_ns, now_ns))
    assert scan(folder, CLASSES)[0][2:] == ["b/1.jpg", "b/2.jpg", "b/x.jpg"]


def test_a_damaged_or_unwritable_cache_only_costs_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("own")))
    expected = scan(folder, CLASSES)
    (file,) = (cache_folder() / "images").iterdir()
    for content in (b"", b"no message", file.read_bytes()[:-5]):
        file.write_bytes(content)
        assert scan(folder, CLASSES) == expected
    blocked = tmp_path_factory.mktemp("blocked") / "file"
    blocked.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert scan(folder, CLASSES) == expected


def test_a_folder_that_cannot_be_listed_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = os.scandir

    def denied(at: Path) -> Iterator[os.DirEntry[str]]:
        if Path(at) == refused:
            raise PermissionError(13, "Permission denied")
        return own(at)

    monkeypatch.setattr(paths.os, "scandir", denied)
    for refused in (folder, folder / "a"):
        with pytest.raises(DataError, match=rf"cannot list .*{refused}: Permission denied"):
            scan(folder, CLASSES)
