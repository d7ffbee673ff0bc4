"""Where annotated frames go: a window, a folder of images or a video file."""

from __future__ import annotations

import errno
import fnmatch
import glob
import logging
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Optional, Tuple, Union

import cv2

from ramnas_edge.vision.picture_files import is_by_product
from ramnas_edge.vision.preprocessing import IMAGE_SUFFIXES
from ramnas_models.errors import FileError, SourceError
from ramnas_models.files import flush, make_folder, write_file, writing

if TYPE_CHECKING:
    from ramnas_edge.vision.preprocessing import Image

log = logging.getLogger(__name__)
VIDEO_CODECS = {".mp4": "mp4v", ".avi": "MJPG", ".mkv": "MJPG"}
# suffixes that are written by other tools; a folder of such a name is hardly what was meant
_NOT_WRITTEN = (
    ".mov", ".webm", ".m4v", ".wmv", ".flv", ".mpg", ".mpeg", ".ts", ".ogv", ".3gp", ".gif",
    *IMAGE_SUFFIXES,
)  # fmt: skip
_NO_KEY = 0xFF  # the lowest byte of -1
NAME_BYTES = 100  # of a frame's own name in the name of its file; file systems take 255 in all
_SPARE_BYTES, _INDEX_BYTES = 2**17, 100  # kept free for a video's end, and for each of its frames
_TRY_A_WINDOW = (
    "import cv2, numpy; cv2.imshow('ramnas', numpy.zeros((2, 2, 3), 'uint8')); cv2.waitKey(1)"
)
_WINDOW_S = 30.0  # a display at the other end of a network may not answer at all


def check_window() -> None:
    """Open and close a small window in another process; SourceError if that fails.

    Without a display the toolkit behind OpenCV ends the process, and raises no error.
    """
    argv = [sys.executable, "-c", _TRY_A_WINDOW]
    try:
        tried = subprocess.run(argv, capture_output=True, timeout=_WINDOW_S)
        if tried.returncode == 0:
            return
        said = tried.stderr.decode(errors="replace")
    except subprocess.TimeoutExpired:
        said = f"the display did not answer within {_WINDOW_S:g} s"
    except OSError as error:
        said = str(error)
    raise _no_window(said)


def _no_window(said: str) -> SourceError:
    """The error for a window that cannot be shown, from what the toolkit has said."""
    if "not implemented" in said:
        reason = "this OpenCV has none; install opencv-python in place of opencv-python-headless"
    elif sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        reason = "neither DISPLAY nor WAYLAND_DISPLAY is set"
    else:
        lines = [line for line in said.splitlines() if line.strip()] or ["no reason was given"]
        reason = lines[-1 if lines[0].startswith("Traceback") else 0]
    return SourceError(f"a window needs a display and an OpenCV with a GUI: {reason}; use --save")


def check_apart(source: str, out: Path) -> None:
    """FileError if `out` is the source itself, or if pictures saved there would be read as source.

    A later run on the same source would then run the models on what this one has drawn.
    """
    if source == "camera":
        return
    if not os.path.exists(source):
        if glob.has_magic(source) and _matches(_parts(out / "000000_frame.jpg"), _parts(source)):
            raise FileError(f"{out} is where {source} looks for images; save elsewhere")
        return
    if os.path.exists(out) and os.path.samefile(source, out):
        raise FileError(f"{out} is the source itself; save elsewhere")
    is_video = out.suffix.lower() in VIDEO_CODECS
    if (is_video and not out.is_dir()) or not os.path.isdir(source):
        return
    folder = Path(os.path.realpath(out))
    while not is_by_product(folder.name) and folder != folder.parent:
        folder = folder.parent
        if folder.exists() and folder.samefile(source):
            raise FileError(f"{out} lies in the source {source}, whose images are all read; "
                            "save elsewhere")  # fmt: skip


def _parts(path: object) -> Tuple[str, ...]:
    return Path(os.path.abspath(str(path))).parts


def _matches(path: Tuple[str, ...], pattern: Tuple[str, ...]) -> bool:
    """Whether `glob` would find a path for a pattern; ** stands for any number of folders."""
    if pattern[:1] == ("**",) and _matches(path, pattern[1:]):
        return True
    if not pattern or not path:
        return not pattern and not path
    if path[0].startswith(".") and not pattern[0].startswith("."):  # hidden
        return False
    rest = pattern if pattern[0] == "**" else pattern[1:]
    return fnmatch.fnmatch(path[0], pattern[0]) and _matches(path[1:], rest)


def saving(path: Path, rate: float) -> Union[Video, ImageFolder]:
    """A video of `rate` frames per second if the suffix is in VIDEO_CODECS, else a folder.

    FileError if the suffix is one of videos or images that are not written.
    """
    suffix = path.suffix.lower()
    if suffix in VIDEO_CODECS:
        return Video(path, rate)
    if suffix in _NOT_WRITTEN and not path.is_dir():
        raise FileError(
            f"cannot write {path}: frames are saved into a video ({', '.join(VIDEO_CODECS)}) or "
            f"into a folder, and {suffix} is neither"
        )
    return ImageFolder(path)


class Window:
    """Shows frames until somebody presses q or Escape, or closes the window."""

    def __init__(self, title: str) -> None:
        self._title, self._shown, self._seen = title, False, False

    def put(self, name: str, frame: Image) -> bool:
        """Show `frame`; return False if the user wants to stop."""
        try:
            cv2.imshow(self._title, frame)
        except cv2.error as error:
            raise _no_window(str(error)) from error
        self._shown = True
        return self._key(1) not in (ord("q"), 27) and not self._gone()

    def hold(self) -> None:
        """Keep showing the last frame until somebody presses a key or closes the window."""
        if self._shown and not self._gone():
            log.info("the last picture stays until a key is pressed in its window")
            while self._key(50) == _NO_KEY and not self._gone():
                pass

    def close(self) -> None:
        if self._shown:
            with suppress(cv2.error):  # somebody may have closed it
                cv2.destroyWindow(self._title)

    @staticmethod
    def _key(wait_ms: int) -> int:
        """The key that was pressed within `wait_ms`; the window also does its work meanwhile."""
        try:
            return int(cv2.waitKey(wait_ms)) & 0xFF
        except cv2.error as error:
            raise _no_window(str(error)) from error

    def _gone(self) -> bool:
        """Whether the window was visible once and is not any more.

        Some builds of OpenCV never know, and say -1 of every window.
        """
        try:
            visible = cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) >= 1
        except cv2.error:  # some builds do not know a window that is closed
            visible = False
        self._seen = self._seen or visible
        return self._seen and not visible


class ImageFolder:
    """Writes every frame as <number>_<name>.jpg into a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = make_folder(folder), 0

    def put(self, name: str, frame: Image) -> bool:
        stem = Path(name).stem if "#" not in name else "frame"
        short = stem.encode()[:NAME_BYTES].decode(errors="ignore")
        path = self._folder / f"{self._count:06d}_{short}.jpg"
        try:
            done, data = cv2.imencode(".jpg", frame)
        except cv2.error:
            done = False
        if not done:
            size = f"{frame.shape[1]}x{frame.shape[0]}"
            raise FileError(
                f"cannot write {path}: this OpenCV cannot encode a frame of {size} pixels as JPEG, "
                "which has room for 65,500 in each direction"
            )
        write_file(path, data.tobytes())
        self._count += 1
        return True

    def close(self) -> None:
        pass


class Video:
    """Writes frames of one size into a video file of `rate` frames per second.

    The file gets its name when it is closed, and only if all its frames can be read back. Until
    then it is a hidden file in the same folder. OpenCV does not say whether it could write a frame.
    So `put` looks for room on the disk, and `close` counts the frames. If `put` raises an error,
    because the disk is full or a frame has another size, the frames before it are kept as
    <name>.partial.<suffix>.
    """

    def __init__(self, path: Path, rate: float) -> None:
        make_folder(path.parent)
        self._path, self._rate = path, rate
        self._aside = path.with_name(f".partial.{os.getpid()}.{path.stem[:32]}{path.suffix}")
        self._writer: Optional[cv2.VideoWriter] = None
        self._hw, self._count, self._stopped = (0, 0), 0, False
        with writing(path):
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            self._aside.touch()  # OpenCV would not say why it cannot

    def put(self, name: str, frame: Image) -> bool:
        hw = (frame.shape[0], frame.shape[1])
        if self._writer is None:
            codec = cv2.VideoWriter.fourcc(*VIDEO_CODECS[self._path.suffix.lower()])
            self._writer = cv2.VideoWriter(str(self._aside), codec, self._rate, hw[::-1])
            self._hw = hw
            if not self._writer.isOpened():
                raise FileError(f"cannot write {self._path}: this OpenCV cannot encode it; "
                                "save into a folder instead")  # fmt: skip
        if hw != self._hw:
            self._stopped = True
            raise SourceError(
                f"{name} is {hw[1]}x{hw[0]}, but the video is {self._hw[1]}x{self._hw[0]}; "
                "save into a folder instead"
            )
        with writing(self._path):
            self._check_room(frame.nbytes)
        self._writer.write(frame)
        self._count += 1
        return True

    def close(self) -> None:
        """Give the file its name; FileError, and no file, if not all its frames are in it."""
        if self._writer is None or not self._count:
            self._aside.unlink(missing_ok=True)
            return
        self._writer.release()
        try:
            with writing(self._path):
                handle = os.open(self._aside, os.O_RDWR | os.O_APPEND)
                try:
                    flush(handle)  # a network file system may only now say that it is full
                    self._check_frames(handle)
                finally:
                    os.close(handle)
                if self._stopped:
                    part = self._path.with_suffix(f".partial{self._path.suffix}")
                    log.warning("the first %d frames are kept in %s", self._count, part)
                    self._path = part
                os.replace(self._aside, self._path)
        except BaseException:
            self._aside.unlink(missing_ok=True)
            raise

    def _check_room(self, frame_bytes: int) -> None:
        disk = shutil.disk_usage(self._path.parent)
        # some file systems of a network do not know their size and say 0
        needed = _SPARE_BYTES + _INDEX_BYTES * self._count + frame_bytes // 2
        if disk.total and disk.free < needed:
            self._stopped = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _check_frames(self, handle: int) -> None:
        kept = _frames_in(self._aside, self._count)
        if kept < self._count:
            os.write(handle, bytes(2**16))  # raises the reason, if it still holds
            flush(handle)
            raise FileError(
                f"cannot write {self._path}: only {kept} of its {self._count} frames can be read "
                "back; look at the disk, or save into a folder"
            )


def _frames_in(path: Path, expected: int) -> int:
    """How many frames a video has: by its index and its last frame, else by reading all of them."""
    capture = cv2.VideoCapture(str(path))
    try:
        if int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) >= expected:
            capture.set(cv2.CAP_PROP_POS_FRAMES, expected - 1)
            if capture.grab():
                return expected
            capture.set(cv2.CAP_PROP_POS_FRAMES, 0)
        count = 0
        while capture.grab():
            count += 1
        return count
    finally:
        capture.release()
