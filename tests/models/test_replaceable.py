"""Nobody's files are deleted by a folder that is written over theirs."""

from __future__ import annotations

from pathlib import Path

import pytest

from ramnas_models.errors import FileError
from ramnas_models.replaceable import check_replaceable

OWN = ["about.json", "parts/*.bin"]


def filled(folder: Path, *files: str) -> Path:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    return folder


def test_a_new_folder_an_empty_one_and_an_earlier_one_may_be_replaced(tmp_path: Path) -> None:
    check_replaceable(tmp_path / "out", OWN)
    (tmp_path / "out/parts").mkdir(parents=True)
    check_replaceable(tmp_path / "out", OWN)
    filled(tmp_path / "out", "about.json", "parts/a.bin", "parts/deep/b.bin", ".DS_Store")
    check_replaceable(tmp_path / "out", OWN)
    (tmp_path / "link").symlink_to("out")
    check_replaceable(tmp_path / "link", OWN)


@pytest.mark.parametrize("foreign", ["notes.txt", "parts/a.txt", ".git/config", "parts/deep/x"])
def test_a_foreign_file_is_named_before_it_is_lost(foreign: str, tmp_path: Path) -> None:
    out = filled(tmp_path / "out", "about.json", "parts/a.bin", foreign)
    with pytest.raises(FileError, match=f"out holds {foreign}, which would be deleted") as refused:
        check_replaceable(out, OWN)
    assert "\n" not in str(refused.value)


def test_files_of_the_right_names_alone_do_not_make_a_folder_ours(tmp_path: Path) -> None:
    out = filled(tmp_path / "out", "parts/a.bin")
    with pytest.raises(FileError, match=r"out holds parts/a.bin, which would be deleted"):
        check_replaceable(out, OWN)


def test_a_link_to_another_folder_counts_as_a_file(tmp_path: Path) -> None:
    out = filled(tmp_path / "out", "about.json")
    (out / "pictures").symlink_to(tmp_path)
    with pytest.raises(FileError, match="out holds pictures, which would be deleted"):
        check_replaceable(out, OWN)


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="it is a file, not a folder"):
        check_replaceable(filled(tmp_path, "about.json") / "about.json", OWN)
