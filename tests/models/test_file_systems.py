"""What file systems cannot do never costs finished work, and what fails on them is always said."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, Dict, Optional

import pytest

from ramnas_models import files
from ramnas_models.errors import FileError
from ramnas_models.files import write_file
from ramnas_models.whole_folder import new_folder

CANNOT_FLUSH = ("EINVAL", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EBADF", "EACCES", "EPERM", "EISDIR")
CANNOT_RENAME = ("EBUSY", "EXDEV", "EPERM", "EACCES", "EINVAL", "ENOSYS", "ENOTSUP", "ETXTBSY")
FAULTS = {
    "EIO": "input/output error",
    "ENOSPC": "the disk is full; free some space",
    "EDQUOT": "the disk quota is used up",
    "ESTALE": "stale file handle",
}


def failing(name: str, when: Callable[..., bool] = lambda *_: True) -> Any:
    """A call that raises the error called `name` where `when` holds of its arguments."""

    def fails(real: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            if when(*args):
                number = getattr(errno, name)
                raise OSError(number, os.strerror(number))
            return real(*args, **options)

        return call

    return fails


def is_folder(handle: int) -> bool:
    return stat.S_ISDIR(os.fstat(handle).st_mode)


class FileKind:
    """A way to write, and what is there afterwards: a file or a folder."""

    def __init__(self, *, folder: bool) -> None:
        self._folder = folder

    def write(self, path: Path, text: str) -> None:
        if not self._folder:
            write_file(path, text.encode())
            return
        with new_folder(path, ["*"]) as folder:
            (folder / "deep").mkdir()
            (folder / "deep/a").write_text(text)
            (folder / "b").symlink_to("deep/a")

    def read(self, path: Path) -> Optional[str]:
        if not path.exists():
            return None
        if not self._folder:
            return path.read_text()
        assert sorted(p.name for p in path.iterdir()) == ["b", "deep"]
        assert (path / "b").is_symlink()
        return (path / "b").read_text()


KINDS: Dict[str, FileKind] = {"file": FileKind(folder=False), "folder": FileKind(folder=True)}


@pytest.fixture(params=KINDS)
def kind(request: Any) -> FileKind:
    return KINDS[request.param]


@pytest.fixture(params=["new", "replaced"])
def path(request: Any, kind: FileKind, tmp_path: Path) -> Path:
    """Where to write: nothing is there yet, or what the same call wrote before."""
    path = tmp_path / "room" / "out"
    path.parent.mkdir()
    if request.param == "replaced":
        kind.write(path, "old")
    return path


def left_alone(path: Path) -> bool:
    return {p.name for p in path.parent.iterdir()} <= {"out"}


@pytest.mark.parametrize("name", CANNOT_FLUSH)
@pytest.mark.parametrize("what", ["folders", "files too"])
def test_what_cannot_be_flushed_is_written_all_the_same(
    name: str, what: str, kind: FileKind, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    when = is_folder if what == "folders" else lambda handle: True
    monkeypatch.setattr(os, "fsync", failing(name, when)(os.fsync))
    kind.write(path, "new")
    assert kind.read(path) == "new"
    assert left_alone(path)


@pytest.mark.parametrize("name", ["EACCES", "EISDIR", "EPERM", "EINVAL"])
def test_a_folder_that_cannot_be_opened_is_not_flushed(
    name: str, kind: FileKind, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a folder may be searched and written but not listed."""
    fails = failing(name, lambda target, flags, *_: flags == os.O_RDONLY and os.path.isdir(target))
    monkeypatch.setattr(os, "open", fails(os.open))
    kind.write(path, "new")
    monkeypatch.undo()
    assert kind.read(path) == "new"


@pytest.mark.parametrize("name", CANNOT_RENAME)
def test_what_cannot_be_replaced_is_filled_in_place(
    name: str, kind: FileKind, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a file or folder that is mounted into a container."""
    fails = failing(name, lambda source, target: path in (Path(source), Path(target)))
    if kind is KINDS["folder"] and not path.exists():
        return  # what does not exist is no mount point
    monkeypatch.setattr(os, "replace", fails(os.replace))
    kind.write(path, "new")
    assert kind.read(path) == "new"
    assert left_alone(path)


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_fault_of_the_disk_is_an_error_that_leaves_the_old_content(
    name: str, call: str, kind: FileKind, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = kind.read(path)
    when = (lambda handle: not is_folder(handle)) if call == "fsync" else (lambda *_: True)
    monkeypatch.setattr(os, call, failing(name, when)(getattr(os, call)))
    with pytest.raises(FileError, match=rf"cannot write {path}: {FAULTS[name]}"):
        kind.write(path, "new")
    monkeypatch.undo()
    assert kind.read(path) == before
    assert left_alone(path)


def test_a_fault_while_a_file_is_filled_in_place_gives_the_old_content_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, flushed = tmp_path / "out", []
    path.write_text("old and long")
    monkeypatch.setattr(os, "replace", failing("EBUSY")(os.replace))
    real = os.fsync

    def fails_the_second_time(handle: int) -> None:
        flushed.append(handle)
        if len(flushed) == 2:
            raise OSError(errno.ENOSPC, "")
        real(handle)

    monkeypatch.setattr(os, "fsync", fails_the_second_time)
    with pytest.raises(FileError, match="the disk is full"):
        write_file(path, b"new")
    assert path.read_text() == "old and long"
    assert left_alone(path)


@pytest.mark.parametrize("move", range(4))  # two entries go out, two come in
def test_a_fault_while_entries_are_exchanged_gives_the_old_ones_back(
    move: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, path, moves = KINDS["folder"], tmp_path / "out", []
    kind.write(path, "old")
    monkeypatch.setattr(os.path, "ismount", lambda other: True)
    real = shutil.move

    def fails_once(source: str, target: str) -> str:
        moves.append(source)
        if len(moves) == move + 1:
            raise OSError(errno.EIO, "")
        return str(real(source, target))

    monkeypatch.setattr(shutil, "move", fails_once)
    with pytest.raises(FileError, match="input/output error"):
        kind.write(path, "new")
    assert kind.read(path) == "old"
    kind.write(path, "new")
    assert kind.read(path) == "new"
    assert left_alone(path)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_when_the_folder_is_flushed_is_said_and_leaves_the_new_content_whole(
    name: str, kind: FileKind, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", failing(name, is_folder)(os.fsync))
    with pytest.raises(FileError, match=FAULTS[name]):
        kind.write(path, "new")
    monkeypatch.undo()
    assert kind.read(path) in (None, "old", "new")


@pytest.fixture
def mounted(small_disk: Path, tmp_path: Path) -> Iterator[Path]:
    """A folder and a file in it, both mounted from elsewhere, as `docker -v` does."""
    inside = tmp_path / "container"
    (inside / "folder").mkdir(parents=True)
    (inside / "file").touch()
    (small_disk / "folder").mkdir()
    (small_disk / "folder/old").touch()
    (small_disk / "folder/lost+found").mkdir()
    (small_disk / "file").write_text("old")
    for name in ("folder", "file"):
        bind = ["mount", "--bind", str(small_disk / name), str(inside / name)]
        subprocess.run(bind, check=True)
    try:
        yield inside
    finally:
        for name in ("folder", "file"):
            subprocess.run(["umount", "--lazy", str(inside / name)], check=True)


def test_a_mounted_folder_or_file_stays_mounted_and_gets_the_new_content(
    mounted: Path, small_disk: Path
) -> None:
    write_file(mounted / "file", b"new")
    assert (small_disk / "file").read_bytes() == b"new"
    with new_folder(mounted / "folder", ["*"]) as folder:
        (folder / "new").touch()
    assert {p.name for p in (small_disk / "folder").iterdir()} == {"new", "lost+found"}
    assert {p.name for p in mounted.iterdir()} == {"folder", "file"}
    with pytest.raises(FileError, match="the disk is full"):
        write_file(mounted / "file", bytes(1 << 20))
    assert (small_disk / "file").read_bytes() == b"new"


def test_a_folder_of_somebody_else_may_hold_ones_own() -> None:
    """As /out in a container: it belongs to the user, and the folder above it to root."""
    if os.getuid() != 0:
        pytest.skip("becoming another user needs root")
    user = 54321
    with tempfile.TemporaryDirectory() as name:  # tmp_path lies in a folder that is closed
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "own").mkdir()
        (folder / "file").touch()
        for owned in ("own", "file"):
            os.chown(folder / owned, user, user)

        def write() -> None:
            os.setuid(user)
            with new_folder(folder / "own", ["*"]) as inside:
                (inside / "a").write_text("new")
            write_file(folder / "file", b"new")
            with pytest.raises(FileError, match="permission denied"):
                write_file(folder / "missing", b"new")

        child = multiprocessing.get_context("fork").Process(target=write)
        child.start()
        child.join()
        assert child.exitcode == 0
        assert [p.name for p in (folder / "own").iterdir()] == ["a"]
        assert (folder / "file").read_text() == "new"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_users_umask_decides_who_may_read(umask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write_file(tmp_path / "a", b"")
        with new_folder(tmp_path / "b", ["*"]) as folder:
            (folder / "c").touch()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode
    assert stat.S_IMODE((tmp_path / "b/c").stat().st_mode) == mode
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o777 & ~umask


def test_no_permission_is_ever_set_after_a_file_is_made(
    kind: FileKind, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CIFS, FAT and FUSE refuse that."""
    for name in ("chmod", "fchmod", "chown", "fchown"):
        monkeypatch.setattr(os, name, failing("EPERM")(getattr(os, name)))
    kind.write(path, "new")
    assert kind.read(path) == "new"


def test_a_name_of_255_bytes_is_not_too_long_and_a_longer_one_is_named(
    kind: FileKind, tmp_path: Path
) -> None:
    for name in ("x" * 255, "\u732b" * 85):
        kind.write(tmp_path / name, "new")
        assert kind.read(tmp_path / name) == "new"
    with pytest.raises(FileError, match="name is too long"):
        kind.write(tmp_path / ("x" * 256), "new")


def test_a_link_to_a_file_stays_and_what_it_names_is_written(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk/file")
    for text in ("one", "two"):
        write_file(tmp_path / "link", text.encode())
        assert (tmp_path / "disk/file").read_text() == text
    assert (tmp_path / "link").is_symlink()


def test_a_pipe_is_written_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    handle = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    try:
        write_file(pipe, b"new")
        assert os.read(handle, 9) == b"new"
    finally:
        os.close(handle)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="there is a folder of this name"):
        write_file(tmp_path, b"")


def test_only_one_process_has_a_lock_where_there_are_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "lock").open("w") as one, (tmp_path / "lock").open("w") as other:
        assert files.lock(one.fileno(), wait=False)
        assert not files.lock(other.fileno(), wait=False)
        for name in ("ENOLCK", "EOPNOTSUPP", "ENOSYS"):
            with monkeypatch.context() as patch:
                patch.setattr(fcntl, "flock", failing(name)(fcntl.flock))
                assert files.lock(other.fileno(), wait=False)
        with monkeypatch.context() as patch:
            patch.setattr(fcntl, "flock", failing("EIO")(fcntl.flock))
            with pytest.raises(OSError, match=os.strerror(errno.EIO)):
                files.lock(other.fileno(), wait=False)


@pytest.fixture
def overlay(small_disk: Path, tmp_path: Path) -> Iterator[Path]:
    """A file system as a container has it: the folder `out` belongs to its image."""
    (tmp_path / "image/out/sub").mkdir(parents=True)
    (tmp_path / "image/out/sub/old").touch()
    inside = tmp_path / "inside"
    for folder in (small_disk / "upper", small_disk / "work", inside):
        folder.mkdir()
    layers = f"lowerdir={tmp_path}/image,upperdir={small_disk}/upper,workdir={small_disk}/work"
    mount = ["mount", "-t", "overlay", "overlay", "-o", layers, str(inside)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("this machine cannot mount an overlay")
    try:
        yield inside
    finally:
        subprocess.run(["umount", "--lazy", str(inside)], check=True)


def test_a_folder_of_the_image_of_a_container_can_be_replaced(overlay: Path) -> None:
    for text in ("one", "two"):
        with new_folder(overlay / "out", ["*"]) as folder:
            (folder / "sub").mkdir()
            (folder / "sub/new").write_text(text)
        assert [str(p.relative_to(overlay)) for p in sorted(overlay.rglob("*"))] == [
            "out", "out/sub", "out/sub/new",
        ]  # fmt: skip
        assert (overlay / "out/sub/new").read_text() == text
