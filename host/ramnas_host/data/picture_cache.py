"""Pictures of one size, decoded once into a file that all processes of this machine map to memory.

The file holds the pixels of all pictures, a byte for each that says whether it could be read, and a
checksum for each chunk of pictures. A process makes the chunks that are missing or damaged and that
no other process is making. So several processes share the decoding without knowing of each other.
If one dies, the kernel frees the lock on its chunk, and another process makes that chunk.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from typing import TYPE_CHECKING

import numpy as np

from ramnas_edge.board.folders import cache_folder
from ramnas_models.errors import FileError
from ramnas_models.files import CANNOT_LOCK, make_folder, writing

if TYPE_CHECKING:
    from ramnas_edge.vision.preprocessing import Image

log = logging.getLogger(__name__)

CACHE_BYTES = 8 * 2**30  # all files together; those that were used longest ago are removed
_CHUNK = 64  # pictures that are made under one lock and have one checksum
_MADE = 1 << 32  # is added to the checksum of a chunk, so that the zeros of a new file are none


class PictureCache:
    """The file of `key`: `count` pictures of `side` x `side` pixels.

    `pixels` is uint8 [count, side, side, 3], with zeros where a picture could not be read, and
    `readable` uint8 [count], 0 or 1. Both are read from the file when they are used. `size` is the
    size of the file in bytes.
    """

    def __init__(self, key: str, count: int, side: int) -> None:
        self.pixels, self.readable = np.empty((0, side, side, 3), np.uint8), np.empty(0, np.uint8)
        self._path = cache_folder() / "pictures" / f"{key}.pictures"
        self._count, self._side = count, side
        self._flags_at = count * side * side * 3
        self._checks_at = -(-(self._flags_at + count) // 8) * 8  # aligned for uint64
        self.size = self._checks_at + 8 * -(-count // _CHUNK)

    def fill(self, make: Callable[[int], Image | None], pool: Executor) -> None:
        """Make the pictures that are missing or damaged, in the threads of `pool`.

        `make` gives picture i, or None if it cannot be read. FileError if the file cannot be made.
        """
        make_folder(self._path.parent)
        try:
            with writing(self._path):
                self._make_room()
                handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
                try:
                    self._map(handle)
                    self._fill(handle, make, pool)
                finally:
                    os.close(handle)
        except FileError:
            with contextlib.suppress(OSError):  # a part of it would only take room
                self._path.unlink()
            raise

    def _make_room(self) -> None:
        """Remove the files that were used longest ago, until this one fits below CACHE_BYTES.

        A process that is using one of them goes on with it.
        """
        others = []
        for path in self._path.parent.glob("*.pictures"):
            with contextlib.suppress(FileNotFoundError):  # another process may remove it now
                if path != self._path:
                    others.append((path.stat().st_mtime, path.stat().st_size, path))
        left = CACHE_BYTES - self.size
        for _, size, path in sorted(others, reverse=True):
            left -= size
            if left < 0:
                path.unlink(missing_ok=True)
        if not self._path.exists() and shutil.disk_usage(self._path.parent).free < self.size:
            raise OSError(errno.ENOSPC, "")

    def _map(self, handle: int) -> None:
        if os.fstat(handle).st_size != self.size:
            os.ftruncate(handle, self.size)
        os.utime(handle)  # it is used now
        with os.fdopen(os.dup(handle), "rb") as file:
            mapped = np.memmap(file, np.uint8, "r", shape=(self.size,))
        shape = (self._count, self._side, self._side, 3)
        self.pixels = mapped[: self._flags_at].reshape(shape)
        self.readable = mapped[self._flags_at : self._flags_at + self._count]
        self._checks = mapped[self._checks_at :].view(np.uint64)

    def _fill(self, handle: int, make: Callable[[int], Image | None], pool: Executor) -> None:
        sound = pool.map(self._sound, range(len(self._checks)))
        missing = [chunk for chunk, is_sound in enumerate(sound) if not is_sound]
        if missing:
            log.info("decoding up to %d images into %s", len(missing) * _CHUNK, self._path)
        others = []
        for chunk in missing:
            with _locked(handle, self._place(chunk), wait=False) as locked:
                if locked:
                    self._make_chunk(handle, chunk, make, pool)
                else:
                    others.append(chunk)
        for chunk in others:  # another process is making these, unless it dies
            with _locked(handle, self._place(chunk), wait=True):
                self._make_chunk(handle, chunk, make, pool)

    def _make_chunk(
        self, handle: int, chunk: int, make: Callable[[int], Image | None], pool: Executor
    ) -> None:
        if self._sound(chunk):
            return  # another process has made it meanwhile
        first, last = self._range(chunk)
        pixels = np.zeros((last - first, self._side, self._side, 3), np.uint8)
        readable = np.zeros(last - first, np.uint8)
        for i, image in enumerate(pool.map(make, range(first, last))):
            if image is not None:
                pixels[i], readable[i] = image, 1
        # written, not through the map: there a full disk would kill the process
        _write(handle, pixels.tobytes(), first * self._side * self._side * 3)
        _write(handle, readable.tobytes(), self._flags_at + first)
        _write(handle, _check(pixels, readable).tobytes(), self._place(chunk))

    def _sound(self, chunk: int) -> bool:
        if not self._checks[chunk]:
            return False
        part = slice(*self._range(chunk))
        return bool(self._checks[chunk] == _check(self.pixels[part], self.readable[part]))

    def _range(self, chunk: int) -> tuple[int, int]:
        return chunk * _CHUNK, min((chunk + 1) * _CHUNK, self._count)

    def _place(self, chunk: int) -> int:
        """Where the checksum of the chunk is in the file."""
        return self._checks_at + 8 * chunk


def _check(pixels: np.ndarray, readable: np.ndarray) -> np.uint64:
    return np.uint64(_MADE + zlib.crc32(readable.data, zlib.crc32(pixels.data)))


def _write(handle: int, data: bytes, place: int) -> None:
    """Write all of it; on a disk that is nearly full one call may write only a part."""
    while data:
        written = os.pwrite(handle, data, place)
        data, place = data[written:], place + written


@contextlib.contextmanager
def _locked(handle: int, place: int, *, wait: bool) -> Iterator[bool]:
    """Lock the checksum at `place` for this process. Yields whether it has the lock.

    A file system without locks lets every process in; each then makes all chunks.
    """
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 8, place)
    except OSError as error:
        if error.errno not in CANNOT_LOCK and (
            wait or error.errno not in (errno.EACCES, errno.EAGAIN)
        ):
            raise
        yield error.errno in CANNOT_LOCK
        return
    try:
        yield True
    finally:
        fcntl.lockf(handle, fcntl.LOCK_UN, 8, place)
