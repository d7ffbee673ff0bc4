"""Write a file or a folder so that it appears whole or not at all: write aside, fsync, rename.

File systems differ in what they can do: some cannot flush a folder, rename over a mount point, or
lock a file. Where one of these steps is impossible, the next best way is taken. An error of the
disk itself, such as a full one, is always a FileError, and the old content stays.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterator, List, Optional

from ramnas_models.errors import FileError

log = logging.getLogger(__name__)

_WAY_OUT = {
    errno.ENOSPC: "the disk is full; free some space or write elsewhere",
    errno.EDQUOT: "the disk quota is used up; free some space or write elsewhere",
    errno.EFBIG: "the file would exceed the size limit of this process; raise it with ulimit -f",
    errno.EROFS: "the file system is read-only; write elsewhere",
    errno.EACCES: "permission denied; write elsewhere or change the owner",
    errno.EPERM: "permission denied; write elsewhere or change the owner",
    errno.EEXIST: "a part of the path is a file, not a folder; write elsewhere",
    errno.ENOTDIR: "a part of the path is a file, not a folder; write elsewhere",
    errno.EISDIR: "there is a folder of this name; give the name of a file",
    errno.ENAMETOOLONG: "the name is too long for the file system; choose a shorter one",
    errno.EIO: "input/output error; check the disk or the connection to it, or write elsewhere",
    errno.ESTALE: "stale file handle of a network file system; mount it again or write elsewhere",
    errno.ENOTEMPTY: "another process has just written it too; write elsewhere, or try again",
}
_CANNOT_FLUSH = {
    errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY, errno.EBADF,
    errno.EACCES, errno.EPERM, errno.EISDIR,
}  # fmt: skip
# What stands in the way of a rename, such as a mount point, a folder of somebody else or, for a
# folder of an image, the overlay file system of a container; what is there may still be writable.
_CANNOT_RENAME = {
    errno.EBUSY, errno.EXDEV, errno.ETXTBSY, errno.EACCES, errno.EPERM, errno.EROFS, errno.EINVAL,
    errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS,
}  # fmt: skip
CANNOT_LOCK = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_KEPT = "lost+found"  # belongs to the file system and lies in the folder where it is mounted


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError while writing `path` into a FileError that says why, and the way out."""
    try:
        yield
    except OSError as error:
        reason = _WAY_OUT.get(error.errno or 0, error.strerror or str(error))
        raise FileError(f"cannot write {path}: {reason}") from error


def make_folder(path: Path) -> Path:
    """Create `path` with its parents and return it; FileError if that fails."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def write_file(path: Path, data: bytes) -> None:
    """Write `data` to `path`. A reader sees the old content or the new one, never a part of it.

    A symbolic link stays, and the file that it names is written. Only a file that cannot be
    replaced, such as one that is mounted into a container, is written in place.
    """
    with writing(path):
        if path.exists() and not path.is_file() and not path.is_dir():
            path.write_bytes(data)  # a pipe or a device such as /dev/null, which must stay
            return
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "")
        aside = _aside(target)
        try:
            _fill(aside, data, "xb")
            os.replace(aside, target)
        except OSError as error:
            if error.errno not in _CANNOT_RENAME:
                raise
            _fill_in_place(target, data)
        finally:
            with suppress(OSError):  # after the rename it is not there any more
                os.unlink(aside)
        _sync(target.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path` to fill; at the end of the block it becomes `path`.

    It replaces a folder that was there before as a whole. After an error nothing has changed. If
    `path` cannot be renamed, as a mount point cannot, the new folder lies inside it, and at the end
    its entries take the places of those in `path`.
    """
    with writing(path):
        target = Path(os.path.realpath(path))  # a link to a folder goes on leading to it
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and not target.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "")
        aside = _folder_aside(target)
    try:
        with writing(path):
            yield aside
            for entry in [*aside.rglob("*"), aside]:
                if not entry.is_symlink():
                    _sync(entry)
            _put(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def flush(handle: int) -> None:
    """Have an open file or folder written to the disk, if its file system can do that at all."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _CANNOT_FLUSH:
            raise


def lock(handle: int, *, wait: bool) -> bool:
    """Lock an open file for this process, whose end frees it; False if another process has it.

    A file system without locks, as some network file systems are, lets every process in.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        if error.errno not in CANNOT_LOCK:
            raise
        log.debug("a file system without locks lets every process in: %s", error)
    return True


def _aside(path: Path) -> Path:
    """A hidden path beside `path` that is not taken; its name is short also if `path`'s is not."""
    return path.with_name(f".{path.name[:32]}.{os.urandom(6).hex()}")


def _fill(path: Path, data: bytes, mode: str) -> None:
    with open(path, mode) as file:
        file.write(data)
        file.truncate()
        file.flush()
        flush(file.fileno())


def _fill_in_place(path: Path, data: bytes) -> None:
    """Write into the file itself; after an error it gets its old content back."""
    old = path.read_bytes() if path.exists() else None
    try:
        _fill(path, data, "wb" if old is None else "r+b")
    except BaseException:
        with suppress(OSError):
            if old is None:
                path.unlink()
            else:
                _fill(path, old, "r+b")
        raise


def _folder_aside(target: Path) -> Path:
    """Make an empty folder beside `target`, or inside it if it cannot be replaced by another."""
    if not os.path.ismount(target):
        beside = _aside(target)
        try:
            os.mkdir(beside)
        except OSError as error:
            if error.errno not in _CANNOT_RENAME or not target.is_dir():
                raise
        else:
            return beside
    inside = _aside(target / target.name)
    os.mkdir(inside)
    return inside


def _put(aside: Path, target: Path) -> None:
    """Make the folder `aside` the folder `target`, or its content that of `target`."""
    if aside.parent == target:
        _exchange(aside, target)
        return
    old: Optional[Path] = None
    if target.exists():
        # a crash between the two renames leaves both folders whole, under hidden names
        old = _aside(target)
        try:
            os.replace(target, old)
        except OSError as error:
            if error.errno not in _CANNOT_RENAME:
                raise
            _exchange(aside, target)
            return
    try:
        os.replace(aside, target)
    except BaseException:
        if old is not None:
            os.replace(old, target)
        raise
    _sync(target.parent)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def _exchange(aside: Path, target: Path) -> None:
    """Move what `target` holds away and what `aside` holds into it; after an error, all back."""
    old = _aside(target / target.name)
    os.mkdir(old)
    done: List[List[Path]] = []  # from where to where
    try:
        for folder, other in ((target, old), (aside, target)):
            for entry in [*folder.iterdir()]:
                if entry not in (aside, old) and entry.name != _KEPT:
                    shutil.move(str(entry), str(other / entry.name))
                    done.append([entry, other / entry.name])
    except BaseException:
        for entry, moved in reversed(done):
            shutil.move(str(moved), str(entry))
        with suppress(OSError):  # it is empty, unless something could not be moved back
            os.rmdir(old)
        raise
    _sync(target)
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    """Flush a closed file or a folder; one that cannot be opened for that is left to the system."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError as error:
        if error.errno in _CANNOT_FLUSH:
            return
        raise
    try:
        flush(handle)
    finally:
        os.close(handle)
