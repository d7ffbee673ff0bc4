"""Built engines on disk: a key that says what one was built from and for -> the engine, once."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
from pathlib import Path
from typing import Callable, Iterator, Optional, TypeVar

from ramnas_edge.board.folders import cache_folder
from ramnas_models.files import make_folder, write_file, writing

log = logging.getLogger(__name__)
T = TypeVar("T")

_DIGEST = hashlib.sha256().digest_size


def default_folder() -> Path:
    """The folder `engines` of the user's cache."""
    return cache_folder() / "engines"


def key(model: bytes, *facts: str) -> str:
    """Of a model and all that its engine depends on: versions, device, precision, flags."""
    parts = [hashlib.sha256(model).hexdigest(), *facts]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


class EngineCache:
    """Files of one folder, each behind its own SHA-256; a damaged file is as good as none.

    Nothing is ever removed: the folder may be deleted at any time, then engines are built anew.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def engine(
        self, key: str, build: Callable[[], bytes], load: Callable[[bytes], Optional[T]]
    ) -> Optional[T]:
        """`load` of the engine kept under `key`, built and kept first if need be.

        `load` answers None to bytes that it cannot use, as those of another version; they are
        built anew. None: not even the fresh ones could be used. Processes that want the same
        engine wait for the one that builds it. FileError if the folder cannot be written.
        """
        name = f"{key}.engine"
        found = self._load(name, load)  # without the lock: files appear whole
        if found is not None:
            return found
        with self._locked(name):
            found = self._load(name, load)  # built by another process while this one waited
            if found is not None:
                return found
            if (self.folder / name).exists():
                log.warning("%s cannot be used: it is built anew", self.folder / name)
            data = build()
            self.write(name, data)
            return load(data)

    def read(self, name: str) -> Optional[bytes]:
        """What was written under `name`; None if nothing was, or if the file is damaged."""
        try:
            data = (self.folder / name).read_bytes()
        except OSError:
            return None
        digest, content = data[:_DIGEST], data[_DIGEST:]
        return content if hashlib.sha256(content).digest() == digest else None

    def write(self, name: str, content: bytes) -> None:
        write_file(self.folder / name, hashlib.sha256(content).digest() + content)

    def _load(self, name: str, load: Callable[[bytes], Optional[T]]) -> Optional[T]:
        content = self.read(name)
        return None if content is None else load(content)

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """One holder among all processes and threads; the kernel frees it if its process dies."""
        path = make_folder(self.folder) / f".{name}.lock"
        with writing(path):
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.info("another process builds this engine: waiting for it")
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)
