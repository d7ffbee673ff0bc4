"""Built engines on disk: a key of all that an engine depends on -> the engine, built once."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from pathlib import Path
from typing import Callable, Iterator, Optional, TypeVar

from ramnas_edge.board.folders import cache_folder
from ramnas_models.errors import FileError
from ramnas_models.files import lock, make_folder, write_file, writing

log = logging.getLogger(__name__)
T = TypeVar("T")

_DIGEST = hashlib.sha256().digest_size


def default_folder() -> Path:
    """The folder `engines` in the user's cache."""
    return cache_folder() / "engines"


def key(model: bytes, *facts: str) -> str:
    """The key of `model` and all else its engine depends on: versions, device, precision."""
    parts = [hashlib.sha256(model).hexdigest(), *facts]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


class EngineCache:
    """The files of one folder, each with its SHA-256 in front; a damaged file counts as missing.

    Nothing is ever removed. The folder may be deleted at any time; engines are then built again.
    If it cannot be written, `trouble` says why, and engines are built at every start.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.trouble = folder, ""

    def engine(
        self, key: str, build: Callable[[], bytes], load: Callable[[bytes], Optional[T]]
    ) -> Optional[T]:
        """Load the engine stored under `key`, after building and storing it if it is not there.

        If `load` returns None for stored bytes, such as those of another version, the engine is
        built again. The result is None if `load` cannot use the new bytes either. Processes that
        want the same engine wait for the one that builds it.
        """
        name = f"{key}.engine"
        found = self._load(name, load)  # this needs no lock, because files appear whole
        if found is not None:
            return found
        with self._locked(name):
            found = self._load(name, load)  # another process may have built it meanwhile
            if found is not None:
                return found
            if (self.folder / name).exists():
                log.warning("%s cannot be used; building the engine again", self.folder / name)
            data = build()
            self.write(name, data)
            return load(data)

    def read(self, name: str) -> Optional[bytes]:
        """What was written under `name`; None if the file is missing or damaged."""
        try:
            data = (self.folder / name).read_bytes()
        except OSError:
            return None
        digest, content = data[:_DIGEST], data[_DIGEST:]
        return content if hashlib.sha256(content).digest() == digest else None

    def write(self, name: str, content: bytes) -> None:
        """Keep `content` under `name`. An engine that took minutes is not lost if that fails."""
        with self._noting_trouble():
            write_file(self.folder / name, hashlib.sha256(content).digest() + content)

    def _load(self, name: str, load: Callable[[bytes], Optional[T]]) -> Optional[T]:
        content = self.read(name)
        return None if content is None else load(content)

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Lets in one process or thread at a time; if it dies, the kernel frees the lock."""
        path = self.folder / f".{name}.lock"
        with contextlib.ExitStack() as stack:
            with self._noting_trouble(), writing(path):
                make_folder(self.folder)
                handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
                stack.callback(os.close, handle)
                if not lock(handle, wait=False):
                    log.info("another process is building this engine; waiting for it")
                    lock(handle, wait=True)
            yield

    @contextlib.contextmanager
    def _noting_trouble(self) -> Iterator[None]:
        try:
            yield
        except FileError as error:
            if not self.trouble:
                log.warning("engines are built again at every start: %s", error)
            self.trouble = str(error)
