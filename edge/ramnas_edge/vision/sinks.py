"""Where annotated frames go: a window, a folder of images or a video file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Optional

import cv2

from ramnas_models.errors import FileError, SourceError
from ramnas_models.files import make_folder, write_file, writing

if TYPE_CHECKING:
    from ramnas_edge.vision.preprocessing import Image

VIDEO_CODECS = {".mp4": "mp4v", ".avi": "MJPG", ".mkv": "MJPG"}
VIDEO_RATE = 30.0  # frames per second of a saved video


class Window:
    """Shows frames until somebody presses q or Escape."""

    def __init__(self, title: str) -> None:
        self._title, self._shown = title, False

    def put(self, name: str, frame: Image) -> bool:
        """Show `frame`; return False if the user wants to stop."""
        try:
            cv2.imshow(self._title, frame)
            self._shown = True
            return cv2.waitKey(1) & 0xFF not in (ord("q"), 27)
        except cv2.error as error:
            raise SourceError(
                "a window needs a display and an OpenCV with a GUI (not opencv-python-headless); "
                "use --save"
            ) from error

    def close(self) -> None:
        if self._shown:
            cv2.destroyWindow(self._title)


class ImageFolder:
    """Writes every frame as <number>_<name>.jpg into a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = make_folder(folder), 0

    def put(self, name: str, frame: Image) -> bool:
        _, data = cv2.imencode(".jpg", frame)
        stem = Path(name).stem if "#" not in name else "frame"
        write_file(self._folder / f"{self._count:06d}_{stem}.jpg", data.tobytes())
        self._count += 1
        return True

    def close(self) -> None:
        pass


class Video:
    """Writes frames of one size into a video file.

    The file gets its name when it is closed. Until then it is a hidden file in the same folder.
    """

    def __init__(self, path: Path) -> None:
        make_folder(path.parent)
        self._path, self._aside = path, path.with_name(f".partial.{os.getpid()}.{path.name}")
        self._writer: Optional[cv2.VideoWriter] = None
        self._hw = (0, 0)

    def put(self, name: str, frame: Image) -> bool:
        hw = (frame.shape[0], frame.shape[1])
        if self._writer is None:
            codec = cv2.VideoWriter.fourcc(*VIDEO_CODECS[self._path.suffix.lower()])
            self._writer = cv2.VideoWriter(str(self._aside), codec, VIDEO_RATE, hw[::-1])
            self._hw = hw
            if not self._writer.isOpened():
                raise FileError(f"cannot write {self._path}: this OpenCV cannot encode it; "
                                "save into a folder instead")  # fmt: skip
        if hw != self._hw:
            raise SourceError(
                f"{name} is {hw[1]}x{hw[0]}, but the video is {self._hw[1]}x{self._hw[0]}; "
                "save into a folder instead"
            )
        self._writer.write(frame)
        return True

    def close(self) -> None:
        if self._writer is not None:
            self._writer.release()
            with writing(self._path):
                os.replace(self._aside, self._path)
