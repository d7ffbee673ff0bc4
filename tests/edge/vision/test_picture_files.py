"""Which files of a folder are pictures, with all that systems and tools put beside them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ramnas_edge.vision.picture_files import is_by_product, is_picture, pictures_below
from ramnas_edge.vision.sources import list_images
from ramnas_models.errors import SourceError


@pytest.mark.parametrize(
    "name",
    [
        "1.png", "1.JPG", "1.JpEg", "1.WEBP", "1.jfif", "1.JPE", "1.pgm",
        "1.ppm", "1.pnm", "1.tar.png", "_1.bmp", "Katze.tiff", "猫.png",
    ],
)  # fmt: skip
def test_pictures_are_known_by_their_suffix_in_any_case(name: str) -> None:
    assert is_picture(name)


@pytest.mark.parametrize(
    "name", ["._1.jpg", ".jpg", ".hidden.png", "1.gif", "1.heic", "1.npy", "png", "1", "1.jpg.part"]
)
def test_hidden_files_and_other_suffixes_are_no_pictures(name: str) -> None:
    assert not is_picture(name)


@pytest.mark.parametrize(
    "name",
    [
        ".git", ".ipynb_checkpoints", ".DS_Store", "__MACOSX", "@eaDir", "$RECYCLE.BIN",
        "System Volume Information", "lost+found", "__pycache__", "Thumbs.db", ".Trash-1000",
    ],
)  # fmt: skip
def test_what_systems_and_tools_leave_behind_is_known(name: str, tmp_path: Path) -> None:
    assert is_by_product(name)
    for folder in (tmp_path / "cat", tmp_path / name, tmp_path / "cat" / name):
        folder.mkdir()
        (folder / "1.jpg").touch()
    assert list_images(str(tmp_path)) == [tmp_path / "cat/1.jpg"]


def test_linked_folders_are_followed_and_those_that_lead_back_up_end(tmp_path: Path) -> None:
    (tmp_path / "away").mkdir()
    (tmp_path / "away/1.jpg").touch()
    data = tmp_path / "data"
    (data / "cat").mkdir(parents=True)
    (data / "cat/2.jpg").touch()
    (data / "dog").symlink_to(tmp_path / "away")
    (data / "again").symlink_to(data / "cat")
    (data / "cat/up").symlink_to(data)
    (tmp_path / "away/other").symlink_to(data / "cat")
    found = [str(path.relative_to(data)) for path in pictures_below(data)]
    assert found[0] == "again/2.jpg"
    assert {"cat/2.jpg", "dog/1.jpg", "dog/other/2.jpg"} <= set(found)
    assert len(found) < 20


def test_a_folder_with_the_name_of_a_picture_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").mkdir()
    (tmp_path / "cat.jpg/1.png").touch()
    assert pictures_below(tmp_path) == [tmp_path / "cat.jpg/1.png"]


def test_a_folder_that_cannot_be_listed_is_named_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"cannot list the images in .*/absent: No such file"):
        pictures_below(tmp_path / "absent")


def test_a_folder_of_other_files_is_refused_with_their_suffixes(tmp_path: Path) -> None:
    for name in ("a/1.gif", "a/2.GIF", "b/1.heic", "README"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(SourceError, match=r"\.pnm\), but has files with other suffixes: ") as e:
        list_images(str(tmp_path))
    assert all(part in str(e.value) for part in (": .gif (2), ", ".heic (1)", "no suffix (1)"))


@pytest.mark.parametrize("pattern", ["", "/**/*"])
def test_files_that_are_left_out_because_of_their_suffix_are_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, pattern: str
) -> None:
    for name in ("a/1.jpg", "a/1.heic", "a/2.HEIC", "3.gif", "4.avif", "README", ".DS_Store"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list_images(f"{tmp_path}{pattern}") == [tmp_path / "a/1.jpg"]
    (said,) = (record.getMessage() for record in caplog.records)
    assert f"left out of {tmp_path}{pattern}: 5 files that are not read because of their" in said
    assert all(part in said for part in (".heic (2)", ".gif (1)", ".avif (1)", "no suffix (1)"))
    assert f"such as {tmp_path}/3.gif" in said


def test_nothing_is_said_of_a_folder_of_pictures(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("1.jpg", "2.jfif", "Thumbs.db", "._1.jpg"):
        (tmp_path / name).touch()
    assert len(list_images(str(tmp_path))) == 2
    assert caplog.text == ""
