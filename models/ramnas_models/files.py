"""Write a file or a folder so that it appears whole or not at all: write aside, fsync, rename."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

from ramnas_models.errors import FileError

_WAY_OUT = {
    errno.ENOSPC: "the disk is full; free some space or write elsewhere",
    errno.EDQUOT: "the disk quota is used up; free some space or write elsewhere",
    errno.EFBIG: "the file would exceed the size limit of this process; raise it with ulimit -f",
    errno.EROFS: "the file system is read-only; write elsewhere",
    errno.EACCES: "permission denied; write elsewhere or change the owner",
    errno.EPERM: "permission denied; write elsewhere or change the owner",
    errno.EEXIST: "a part of the path is a file, not a folder; write elsewhere",
    errno.ENOTDIR: "a part of the path is a file, not a folder; write elsewhere",
}


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
    """Write `data` to `path`. A reader sees the old content or the new one, never a part of it."""
    make_folder(path.parent)
    with writing(path):
        handle, aside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(aside, 0o644)  # mkstemp gives 0600
            os.replace(aside, path)
        except BaseException:
            os.unlink(aside)
            raise
        _sync(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path` to fill; at the end of the block it becomes `path`.

    It replaces a folder that was there before as a whole. After an error nothing has changed.
    """
    make_folder(path.parent)
    with writing(path):
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        with writing(path):
            yield aside
            os.chmod(aside, 0o755)  # mkdtemp gives 0700
            for entry in [*aside.rglob("*"), aside]:
                _sync(entry)
            old = None
            if path.exists():
                # a crash between the two renames leaves both folders whole, under hidden names
                old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
                os.replace(path, old)
            os.replace(aside, path)
            _sync(path.parent)
            if old is not None:
                shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
