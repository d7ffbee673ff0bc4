"""Write a file so that it appears whole or not at all: write aside, fsync, rename. Lock a file.

File systems differ in what they can do: some cannot flush a folder, rename over a mount point, or
lock a file. Where one of these steps is impossible, the next best way is taken. An error of the
disk itself, such as a full one, is always a FileError, and the old content stays.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterator

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
CANNOT_RENAME = {
    errno.EBUSY, errno.EXDEV, errno.ETXTBSY, errno.EACCES, errno.EPERM, errno.EROFS, errno.EINVAL,
    errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS,
}  # fmt: skip
CANNOT_LOCK = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
CANNOT_LINK = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
# how the small file begins that Git leaves in place of one that Git LFS has not fetched
GIT_LFS = b"version https://git-lfs"


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
    replaced, such as one that is mounted into a container, is written in place. Who may read and
    write a file stays as it was; for a new one the umask decides.
    """
    with writing(path):
        if path.exists() and not path.is_file() and not path.is_dir():
            path.write_bytes(data)  # a pipe or a device such as /dev/null, which must stay
            return
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "")
        aside = aside_of(target)
        try:
            _fill(aside, data, "xb")
            with suppress(OSError):  # there is no old file, or the file system has no permissions
                os.chmod(aside, stat.S_IMODE(os.stat(target).st_mode))
            os.replace(aside, target)
        except OSError as error:
            if error.errno not in CANNOT_RENAME:
                raise
            _fill_in_place(target, data)
        finally:
            with suppress(OSError):  # after the rename it is not there any more
                os.unlink(aside)
        sync(target.parent)


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


def aside_of(path: Path) -> Path:
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


def sync(path: Path) -> None:
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
