"""Nobody's files are deleted by a folder that is written over theirs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ramnas_models.errors import FileError
from ramnas_models.whole_folder import check_replaceable, new_folder

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


def test_nobody_can_write_a_folder_over_foreign_files_without_asking(tmp_path: Path) -> None:
    out = filled(tmp_path / "out", "about.json", "thesis.tex")
    refused = pytest.raises(FileError, match=r"out holds thesis.tex, which would be deleted")
    with refused, new_folder(out, OWN):
        pytest.fail("the work has begun")
    assert (out / "thesis.tex").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_cannot_be_looked_into_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = filled(tmp_path / "out", "about.json", "parts/a.bin", "parts/of_root/thesis.tex")
    scandir = os.scandir

    def refused(path: Any) -> Any:
        if str(path).endswith("of_root"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(FileError, match="out: permission denied"):
        check_replaceable(out, OWN)


def test_a_path_through_a_file_and_a_link_to_itself_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(FileError, match="a part of the path is a file"):
        check_replaceable(tmp_path / "file/out", OWN)
    with pytest.raises(FileError, match="symbolic links"):
        check_replaceable(tmp_path / "loop", OWN)
