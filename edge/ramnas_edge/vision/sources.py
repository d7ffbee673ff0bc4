"""Where frames come from: an image, a folder of images, a video file or a camera."""

from __future__ import annotations

import glob
import logging
import os
import re
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Iterator, List, Optional, Sequence, Tuple, Union

import cv2
import numpy as np

from ramnas_edge.vision.formats import counts_frames, unplayable
from ramnas_edge.vision.picture_files import (
    counted_suffixes,
    files_below,
    has_picture_suffix,
    is_picture,
)
from ramnas_edge.vision.preprocessing import IMAGE_SUFFIXES, read_image
from ramnas_models.errors import SourceError

if TYPE_CHECKING:
    from ramnas_edge.vision.preprocessing import Image

    Frames = Iterator[Tuple[str, Image]]  # the name of each frame, and the frame as BGR [h, w, 3]

log = logging.getLogger(__name__)
PATIENCE = 30  # reads in a row that may fail before a camera counts as gone
VIDEO_PATIENCE = 300  # the same for a video, which may have a long damaged stretch
USUAL_RATE = 30.0  # frames per second of pictures, and where a rate is unknown
_RATES = (0.01, 240.0)  # what is not between them is no rate: 0, NaN, the 90,000 of a time base
KINDS = (
    "a source is `camera`, a camera's index, /dev/videoN, a video file, an image, a folder of "
    "images, or a pattern such as 'images/*.jpg'"
)


class Source:
    """Frames in order, each with a name; `broken` counts those that could not be read.

    `source` is an image, a folder (every image below it, ordered by path), a pattern of images such
    as `images/*.jpg`, a video file, or a camera: its index, its path (`/dev/video0`), or `camera`
    for the first one. A file or folder whose name is a number comes before a camera's index; a
    folder named `camera` is `./camera`. Several images, folders or patterns may be given as a list.
    Files are played `repeat` times. `ahead` is how many images are decoded before the first of them
    is returned. `name` is what was given, for messages.

    `rate` is the number of frames per second, known from the first frame on. `still` says whether
    the frames are pictures, and not those of a video or camera.
    SourceError if the source cannot be opened, or if none of its frames can be read.
    """

    def __init__(
        self, source: Union[str, Sequence[str]], repeat: int = 1, ahead: int = 256
    ) -> None:
        self.broken, self.rate, self.still = 0, USUAL_RATE, False
        self.name = source if isinstance(source, str) else ", ".join(source)
        if not isinstance(source, str):
            paths = [path for one in source for path in list_images(one)]
            self.still = True
            self._frames = self._images(self.name, paths, repeat, ahead)
            return
        mode = None if source == "camera" else _mode(source)
        index = "0" if source == "camera" else source
        is_index = index.isascii() and index.isdigit()
        if source == "camera" and os.path.exists(source):
            log.warning("'camera' is the first camera; the file or folder is ./camera")
        elif mode is not None and is_index:
            log.warning(
                "%s is read as a path; camera %s is /dev/video%s", source, index, int(index)
            )
        if mode is None and is_index:
            self._frames = self._camera(source, int(index))
        elif mode is not None and stat.S_ISCHR(mode):
            self._frames = self._camera(source, source)
        elif mode is not None and stat.S_ISREG(mode) and not has_picture_suffix(source):
            self._frames = self._video(source, repeat)
        else:
            self.still = True
            self._frames = self._images(source, list_images(source), repeat, ahead)

    def __iter__(self) -> Frames:
        return self._frames

    def _images(
        self, source: str, paths: List[Path], repeat: int, ahead: int, max_bytes: int = 64 * 2**20
    ) -> Frames:
        """Read up to `ahead` frames, or `max_bytes`, at a time.

        Decoding a file between two calls of a small network would make the next calls slower and
        show up in their timing. A file that is not an image is logged and left out.
        """
        batch: List[Tuple[str, Image]] = []
        held = 0
        unsaid: List[str] = []  # nothing is logged until an image was read: none may be readable
        for number, path in enumerate(path for _ in range(repeat) for path in paths):
            try:
                batch.append((_printable(path), read_image(str(path))))
            except SourceError as error:
                self.broken += 1
                unsaid.append(str(error))
                if self.broken == number + 1:
                    if self.broken == len(paths):
                        raise _none_readable(source, unsaid) from error
                    continue
            else:
                held += batch[-1][1].nbytes
            for reason in unsaid:
                log.warning("left out: %s", reason)
            unsaid.clear()
            if len(batch) == ahead or held >= max_bytes:
                yield from batch
                batch, held = [], 0
        yield from batch

    def _video(self, path: str, repeat: int) -> Frames:
        for _ in range(repeat):
            yield from self._play(path)

    def _play(self, path: str) -> Frames:
        """Play a video once. A frame that cannot be decoded is left out, and the next ones follow.

        The container says how many frames to expect, but some only know a length in seconds.
        """
        capture, name = _opened(path, path), _printable(path)
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)  # phones store turned frames and the angle
        expected = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        rate = capture.get(cv2.CAP_PROP_FPS)
        self.rate = _plausible(rate)
        good = damaged = missed = 0
        end_s = 0.0  # where the latest frame begins
        try:
            while missed < VIDEO_PATIENCE:
                frame = _read(capture)
                if frame is None:
                    missed += 1
                    continue
                for number in range(good + damaged, good + damaged + missed):
                    log.warning("left out: %s#%d cannot be decoded", name, number)
                damaged, missed = damaged + missed, 0
                end_s = capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
                yield f"{name}#{good + damaged}", frame
                good += 1
        finally:
            capture.release()
        if not good:
            raise SourceError(f"no frame of {name} can be read; convert it to another codec")
        absent = expected - good - damaged
        if absent > 0 and not counts_frames(path):
            # The length may be that of the sound. Frames are missing if the last is well before it.
            gap = expected - end_s * rate - 1
            absent = absent if damaged or gap > 2 + 0.05 * expected else 0
        if absent > 0:
            log.warning(
                "%s ended after %d of %d frames: the others are cut off, damaged or hidden",
                name, good + damaged, expected,
            )  # fmt: skip
        self.broken += damaged + max(0, absent)

    def _camera(self, name: str, device: object) -> Frames:
        capture = _opened(name, device)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # so that each read gives the newest frame
        self.rate = _plausible(capture.get(cv2.CAP_PROP_FPS))
        count = missed = 0
        try:
            while missed < PATIENCE:
                frame = _read(capture)
                if frame is not None:
                    yield f"camera {name}#{count}", frame
                    missed = 0
                else:
                    if not missed:
                        log.warning("camera %s gave no frame; trying again", name)
                    self.broken, missed = self.broken + 1, missed + 1
                count += 1
        finally:
            capture.release()
        raise SourceError(f"camera {name} gave no frame {PATIENCE} times in a row; check its cable")


def list_images(source: str) -> List[Path]:
    """List the image at `source`, or every image below that folder, ordered by path.

    `source` may also be a pattern such as `images/*.jpg`. Hidden files and folders are left out.
    SourceError, with the reason, if `source` does not exist or has no images.
    """
    mode = _mode(source)
    if mode is None:
        found = sorted(Path(path) for path in glob.glob(source, recursive=True))
        files = [path for path in found if path.is_file()]
        images = [path for path in files if is_picture(path.name)]
        if not images:
            raise SourceError(_absent(source, len(found)))
        _say_left_out(source, [p for p in files if not is_picture(p.name)])
        return images
    if stat.S_ISDIR(mode):
        folder = Path(source)
        images, others = files_below(folder)
        if not images:
            suffixes = counted_suffixes(path.name for path in others)
            instead = f", but has files with other suffixes: {suffixes}" if others else ""
            raise SourceError(f"{folder} holds no images ({', '.join(IMAGE_SUFFIXES)}){instead}")
        _say_left_out(source, others)
        return images
    if not stat.S_ISREG(mode):
        raise SourceError(f"{source} is a pipe, a socket or a disk; {KINDS}")
    return [Path(source)]


def _say_left_out(source: str, others: List[Path]) -> None:
    if others:
        log.warning(
            "left out of %s: %d files that are not read because of their suffix, %s, such as %s",
            _printable(source), len(others), counted_suffixes(path.name for path in others),
            _printable(others[0]),
        )  # fmt: skip


def _plausible(rate: float) -> float:
    return rate if _RATES[0] <= rate <= _RATES[1] else USUAL_RATE


def _mode(source: str) -> Optional[int]:
    """What the path `source` is, as in `os.stat`; None if there is nothing of that name."""
    if not source:
        raise SourceError(f"the name of the source is empty; {KINDS}")
    try:
        return os.stat(source).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise SourceError(f"{_printable(source)} cannot be opened: {reason}") from error


def _absent(source: str, others: int) -> str:
    """Say why `source`, which is not a path, gives no images; as a pattern it found `others`."""
    scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", source)
    if scheme and scheme[0].lower() == "file://":
        return f"{source}: write the path without file://"
    if scheme or " ! " in source:
        what = f"streams such as {scheme[0]}" if scheme else "pipelines of GStreamer"
        return f"{source}: {what} are not supported as a source yet; {KINDS}"
    if source == "-":
        return f"standard input is not supported as a source; {KINDS}"
    if glob.has_magic(source):
        found = (
            f"{others} files, but no images ({', '.join(IMAGE_SUFFIXES)})" if others else "no file"
        )
        return f"the pattern {source} matches {found}"
    if os.path.islink(source):
        return f"{source} is a link to {os.readlink(source)}, which does not exist"
    return f"{source} does not exist"


def _none_readable(source: str, reasons: List[str]) -> SourceError:
    if len(reasons) == 1:
        return SourceError(reasons[0])
    return SourceError(f"none of the {len(reasons)} images of {source} can be read: {reasons[0]}")


def _printable(path: object) -> str:
    """The path as text; bytes in it that are not UTF-8 become \\xNN."""
    return os.fsencode(str(path)).decode("utf-8", "backslashreplace")


def _read(capture: cv2.VideoCapture) -> Optional[Image]:
    """The next frame; None if it cannot be decoded, or if there is none."""
    try:
        there, frame = capture.read()
    except cv2.error as error:  # some readers raise it on damaged data
        log.debug("%s", error)
        return None
    return np.asarray(frame, np.uint8) if there else None


def _opened(name: str, device: object) -> cv2.VideoCapture:
    try:
        capture: cv2.VideoCapture = cv2.VideoCapture(device)  # type: ignore[call-overload]
        if capture.isOpened():
            return capture
    except (cv2.error, OverflowError) as error:  # such as an index that is too large for OpenCV
        log.debug("%s", error)
    raise SourceError(f"{_printable(name)} cannot be opened as a video or camera: {_why(device)}")


def _why(device: object) -> str:
    """Why OpenCV cannot open a camera's index, a camera's path or a file, as far as that shows."""
    path = f"/dev/video{device}" if isinstance(device, int) else str(device)
    try:
        if stat.S_ISREG(os.stat(path).st_mode):
            return unplayable(path)
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
    except PermissionError:
        return (
            f"{path}: permission denied; a camera needs the group video, a file its owner's leave"
        )
    except OSError as error:
        if sys.platform.startswith("linux"):
            there = ", ".join(sorted(glob.glob("/dev/video*"))) or "no camera (/dev/video*)"
            return f"{path}: {error.strerror}; this machine has {there}"
    return f"OpenCV {cv2.__version__} cannot read its frames, or another program uses it"
