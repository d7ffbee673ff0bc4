"""Where frames come from: an image, a folder of images, a video file or a camera."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Iterator, List, Tuple

import cv2
import numpy as np

from ramnas_edge.vision.picture_files import counted_suffixes, pictures_below
from ramnas_edge.vision.preprocessing import IMAGE_SUFFIXES, read_image
from ramnas_models.errors import SourceError

if TYPE_CHECKING:
    from ramnas_edge.vision.preprocessing import Image

    Frames = Iterator[Tuple[str, Image]]  # the name of each frame, and the frame as BGR [h, w, 3]

log = logging.getLogger(__name__)
PATIENCE = 30  # reads in a row that may fail before a camera counts as gone


class Source:
    """Frames in order, each with a name; `broken` counts those that could not be read.

    `source` is an image, a folder (every image below it, ordered by path), a video file, or a
    camera: its index, its path (`/dev/video0`), or `camera` for the first one. Files are played
    `repeat` times. `ahead` is how many images are decoded before the first of them is returned.
    SourceError if the source cannot be opened, or if none of its frames can be read.
    """

    def __init__(self, source: str, repeat: int = 1, ahead: int = 256) -> None:
        self.broken = 0
        path = Path(source)
        camera = "0" if source == "camera" else source
        if camera.isdigit() or path.is_char_device():
            self._frames = self._camera(source, int(camera) if camera.isdigit() else source)
        elif path.is_file() and path.suffix.lower() not in IMAGE_SUFFIXES:
            self._frames = self._video(source, repeat)
        else:
            self._frames = self._images(list_images(source) * repeat, ahead)

    def __iter__(self) -> Frames:
        return self._frames

    def _images(self, paths: List[Path], ahead: int, max_bytes: int = 64 * 2**20) -> Frames:
        """Read up to `ahead` frames, or `max_bytes`, at a time.

        Decoding a file between two calls of a small network would make the next calls slower and
        show up in their timing. A file that is not an image is logged and left out.
        """
        batch: List[Tuple[str, Image]] = []
        held = 0
        for path in paths:
            try:
                batch.append((str(path), read_image(str(path))))
            except SourceError as error:
                self.broken += 1
                if self.broken == len(paths):
                    raise
                log.warning("left out: %s", error)
                continue
            held += batch[-1][1].nbytes
            if len(batch) == ahead or held >= max_bytes:
                yield from batch
                batch, held = [], 0
        yield from batch

    def _video(self, path: str, repeat: int) -> Frames:
        for _ in range(repeat):
            capture = _opened(path, path)
            expected = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
            count = 0
            try:
                while True:
                    there, frame = capture.read()
                    if not there:
                        break
                    yield f"{path}#{count}", np.asarray(frame, np.uint8)
                    count += 1
            finally:
                capture.release()
            if not count:
                raise SourceError(f"no frame of {path} can be read; convert it to another codec")
            if count < expected:  # the container says how many, and some only estimate it
                self.broken += expected - count
                log.warning("%s ended after %d of %d frames", path, count, expected)

    def _camera(self, name: str, device: object) -> Frames:
        capture = _opened(name, device)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # so that each read gives the newest frame
        count = missed = 0
        try:
            while missed < PATIENCE:
                there, frame = capture.read()
                if there:
                    yield f"camera {name}#{count}", np.asarray(frame, np.uint8)
                    missed = 0
                else:
                    self.broken, missed = self.broken + 1, missed + 1
                count += 1
        finally:
            capture.release()
        raise SourceError(f"camera {name} gave no frame {PATIENCE} times in a row; check its cable")


def list_images(source: str) -> List[Path]:
    """List the image at `source`, or every image below that folder, ordered by path.

    SourceError if `source` does not exist, or if the folder has no images.
    """
    path = Path(source)
    if path.is_dir():
        images = pictures_below(path)
        if not images:
            others = counted_suffixes(p.name for p in path.rglob("*") if p.is_file())
            instead = f", but has files with other suffixes: {others}" if others else ""
            raise SourceError(f"{path} holds no images ({', '.join(IMAGE_SUFFIXES)}){instead}")
        return images
    if not path.is_file():
        raise SourceError(f"{path} does not exist")
    return [path]


def _opened(name: str, device: object) -> cv2.VideoCapture:
    capture: cv2.VideoCapture = cv2.VideoCapture(device)  # type: ignore[call-overload]
    if not capture.isOpened():
        raise SourceError(
            f"{name} cannot be opened as a video or camera by this OpenCV ({cv2.__version__}); "
            "check the path, the permission (group video), and that no other program uses it"
        )
    return capture
