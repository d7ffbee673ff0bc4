from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ramnas_models.errors import FileError
from ramnas_models.files import make_folder, write_file
from ramnas_models.whole_folder import new_folder


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep/file"
    write_file(path, b"one")
    write_file(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for text in ("one", "two"):
        with new_folder(tmp_path / "out", ["*"]) as folder:
            (folder / text).write_text(text)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["two"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_error_while_filling_leaves_only_the_old_folder(tmp_path: Path) -> None:
    with new_folder(tmp_path / "out", ["*"]) as folder:
        (folder / "a").write_text("a")

    def fail() -> None:
        with new_folder(tmp_path / "out", ["*"]) as folder:
            (folder / "b").write_text("b")
            raise KeyError("stop")

    with pytest.raises(KeyError):
        fail()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_file_where_a_folder_is_needed_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file/x", tmp_path / "file/x/y"):
        with pytest.raises(FileError, match="file") as raised:
            write_file(path, b"")
        assert "cannot write" in str(raised.value)
    with pytest.raises(FileError):
        make_folder(tmp_path / "file/x")


def test_a_write_that_fails_half_way_leaves_only_the_old_file(tmp_path: Path) -> None:
    """A limit on the file size stands in for a full disk."""
    path = tmp_path / "file"
    write_file(path, b"old")
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from ramnas_models.files import write_file\n"
        "write_file(Path(sys.argv[1]), bytes(100_000))\n"
    )

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    ran = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        preexec_fn=limit, capture_output=True, text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert "FileError: cannot write" in ran.stderr
    assert "size limit" in ran.stderr
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_and_a_read_only_folder_are_named(small_disk: Path, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="disk is full; free some space"):
        write_file(small_disk / "big", bytes(1 << 20))
    assert not list(small_disk.iterdir())
    write_file(small_disk / "small", b"fits")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(FileError, match="read-only; write elsewhere"):
        write_file(small_disk / "other", b"")


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o755])
def test_a_file_keeps_its_mode_when_it_is_written_again(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    path.chmod(mode)
    write_file(path, b"new")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", mode)


def test_where_modes_cannot_be_set_the_umask_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", refused)
    for text in (b"old", b"new"):
        write_file(tmp_path / "a", text)
    assert (tmp_path / "a").read_text() == "new"
