"""Saved videos and folders of images are whole, or the reason is said; windows are tried first."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ramnas_edge.vision import sinks
from ramnas_edge.vision.sinks import ImageFolder, Video, Window, check_window, saving
from ramnas_edge.vision.sources import Source
from ramnas_models.errors import FileError, SourceError

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (8, 240, 320, 3), np.uint8)  # takes much room in any codec
SUFFIXES = sorted(sinks.VIDEO_CODECS)

# argv: number of frames, paths -> for each path the reason, or "written", on stdout
WRITER = """
import sys
import numpy as np
from pathlib import Path
from ramnas_edge.vision.sinks import saving
from ramnas_models.errors import FileError
noise = np.random.default_rng(0).integers(0, 256, (8, 240, 320, 3), np.uint8)
for path in sys.argv[2:]:
    try:
        sink = saving(Path(path), 30.0)
        try:
            for i in range(int(sys.argv[1])):
                sink.put(f"frame{i}", noise[i % 8])
        finally:
            sink.close()
        print("written")
    except FileError as error:
        print(error)
"""


def frames_of(path: Path) -> int:
    return sum(1 for _ in Source(str(path)))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("count", [1, 2, 31])
def test_a_saved_video_has_all_its_frames(tmp_path: Path, suffix: str, count: int) -> None:
    video = Video(tmp_path / f"new/o{suffix}", 30.0)
    for i in range(count):
        assert video.put(f"frame{i}", NOISE[i % 8])
        assert not (tmp_path / f"new/o{suffix}").exists()
    video.close()
    assert frames_of(tmp_path / f"new/o{suffix}") == count
    assert len(os.listdir(tmp_path / "new")) == 1


def test_a_video_over_the_limit_of_a_file_is_an_error_and_no_file(tmp_path: Path) -> None:
    """OpenCV drops the frames that it cannot write and reports nothing."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2**19, 2**19))\n"
    paths = [f"{tmp_path}/o{suffix}" for suffix in SUFFIXES]
    argv = [sys.executable, "-c", limit + WRITER, "60", *paths]
    said = subprocess.run(argv, capture_output=True, text=True).stdout.splitlines()
    assert len(said) == len(paths)
    for line, path in zip(said, paths):
        assert line.startswith(f"cannot write {path}: the file would exceed the size limit")
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_an_error_and_what_is_kept_is_called_a_part(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    script = f"mount -t tmpfs -o size=1m tmpfs {disk} || exit 99\n"
    for name in ("o.avi", "o.mp4", "o.mkv", "folder"):
        script += f'{sys.executable} -c "$0" 120 {disk}/{name}; ls -A {disk}; rm -r {disk}/*\n'
    argv = ["unshare", "-rm", "sh", "-c", script, WRITER]
    try:
        ran = subprocess.run(argv, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no unshare")
    if ran.returncode == 99 or not ran.stdout:
        pytest.skip("no disk can be mounted here")
    refused = [line for line in ran.stdout.splitlines() if " " in line]
    assert len(refused) == 4, ran.stdout
    assert all("the disk is full; free some space or write elsewhere" in line for line in refused)
    kept = set(ran.stdout.splitlines()) - set(refused)
    assert kept <= {"o.partial.avi", "o.partial.mp4", "o.partial.mkv", "folder"}


def test_a_disk_that_is_nearly_full_ends_a_video_whose_frames_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    free = iter([10**9] * 5 + [1000])
    usage = lambda folder: type("Usage", (), {"total": 10**9, "free": next(free)})  # noqa: E731
    monkeypatch.setattr(sinks.shutil, "disk_usage", usage)
    video = Video(tmp_path / "o.avi", 30.0)
    for i in range(5):
        video.put(f"frame{i}", NOISE[i])
    with pytest.raises(FileError, match=r"o\.avi: the disk is full"):
        video.put("frame5", NOISE[5])
    video.close()
    assert os.listdir(tmp_path) == ["o.partial.avi"]
    assert frames_of(tmp_path / "o.partial.avi") == 5
    assert f"the first 5 frames are kept in {tmp_path}/o.partial.avi" in caplog.text


def test_frames_that_cannot_be_read_back_are_an_error_though_the_disk_has_room_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = Video(tmp_path / "o.avi", 30.0)
    video.put("frame0", NOISE[0])
    monkeypatch.setattr(video, "_writer", type("Broken", (), {
        "write": lambda self, frame: None, "release": video._writer.release,
    })())  # fmt: skip
    video.put("frame1", NOISE[1])
    with pytest.raises(FileError, match="only 1 of its 2 frames can be read back"):
        video.close()
    assert os.listdir(tmp_path) == []


def test_a_video_without_frames_leaves_no_file(tmp_path: Path) -> None:
    Video(tmp_path / "o.avi", 30.0).close()
    assert os.listdir(tmp_path) == []


def test_an_output_that_cannot_be_written_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "folder.avi").mkdir()
    (tmp_path / "file").touch()
    for name, reason in (
        ("folder.avi", "there is a folder of this name"),
        ("file/o.avi", "a part of the path is a file"),
        ("file", "a part of the path is a file"),
        ("o.mov", r"saved into a video \(.mp4, .avi, .mkv\) or into a folder, and .mov is neither"),
        ("o.JPG", "and .jpg is neither"),
        ("x" * 300 + ".avi", "name is too long|too long"),
    ):
        with pytest.raises(FileError, match=f"cannot write .*{reason}"):
            saving(tmp_path / name, 30.0)
    (tmp_path / "old.mov").mkdir()
    assert isinstance(saving(tmp_path / "old.mov", 30.0), ImageFolder)
    assert isinstance(saving(tmp_path / ("x" * 240 + ".avi"), 30.0), Video)


def test_a_codec_that_is_missing_is_an_error(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sinks.VIDEO_CODECS, ".avi", "!!!!")
    video = Video(tmp_path / "o.avi", 30.0)
    with pytest.raises(FileError, match="this OpenCV cannot encode it; save into a folder"):
        video.put("frame0", NOISE[0])
    video.close()
    assert os.listdir(tmp_path) == []


def test_a_frame_of_another_size_is_an_error_and_those_before_it_are_kept(tmp_path: Path) -> None:
    video = Video(tmp_path / "o.avi", 30.0)
    video.put("a", NOISE[0])
    with pytest.raises(SourceError, match="b is 160x120, but the video is 320x240"):
        video.put("b", np.ascontiguousarray(NOISE[1, ::2, ::2]))
    video.close()
    assert os.listdir(tmp_path) == ["o.partial.avi"]
    assert frames_of(tmp_path / "o.partial.avi") == 1


@pytest.mark.parametrize("name", ["x" * 251, "猫" * 83, "a b", "caf\\xe9", "a#b"])
def test_names_of_frames_become_names_of_files(tmp_path: Path, name: str) -> None:
    ImageFolder(tmp_path).put(f"/in/{name}.jpg", NOISE[0])
    (path,) = tmp_path.iterdir()
    assert path.name.startswith("000000_")
    assert cv2.imread(str(path)) is not None


def test_an_image_that_is_too_large_for_jpeg_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot encode a frame of 66000x2 pixels as JPEG"):
        ImageFolder(tmp_path).put("a", np.zeros((2, 66_000, 3), np.uint8))


def display(monkeypatch: pytest.MonkeyPatch, code: str, display: str = ":77") -> None:
    """OpenCV's window becomes `code`, run in the process that tries it."""
    monkeypatch.setattr(sinks, "_TRY_A_WINDOW", code)
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other displays")
def test_a_window_without_a_display_is_refused_and_ends_no_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Qt calls abort() where it finds no display."""
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    for value, reason in (("", "neither DISPLAY nor WAYLAND"), (":77", "a GUI: .*; use --save")):
        monkeypatch.setenv("DISPLAY", value)
        with pytest.raises(SourceError, match=reason):
            check_window()


def test_the_reason_of_the_toolkit_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    line = "qt.qpa.xcb: could not connect to display :77"
    abort = f"import os, sys; print({line!r}, file=sys.stderr, flush=True); os.abort()"
    headless = "raise Exception('The function is not implemented. Rebuild the library')"
    for code, reason in (
        (abort, line),
        (
            "raise OSError('Can\\'t initialize GTK backend')",
            "OSError: Can't initialize GTK backend",
        ),
        (headless, "install opencv-python in place of opencv-python-headless"),
        ("import time; time.sleep(9)", "the display did not answer within 0.5 s"),
        ("raise SystemExit(1)", "no reason was given"),
    ):
        monkeypatch.setattr(sinks, "_WINDOW_S", 0.5 if "sleep" in code else 60)
        display(monkeypatch, code)
        with pytest.raises(SourceError, match=reason):
            check_window()
    display(monkeypatch, "pass")
    monkeypatch.setattr(sinks, "_WINDOW_S", 60)
    check_window()


def test_a_window_that_somebody_closed_can_be_closed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(title: str) -> None:
        raise cv2.error("NULL window")

    monkeypatch.setattr(cv2, "imshow", lambda *arguments: None)
    monkeypatch.setattr(cv2, "waitKey", lambda ms: ord("q"))
    monkeypatch.setattr(cv2, "destroyWindow", gone)
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *arguments: 1.0)
    window = Window("ramnas")
    assert not window.put("a", NOISE[0])
    window.close()


def test_the_reason_of_a_file_system_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quota is often only known when the data are flushed."""

    def over_quota(handle: int) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    video = Video(tmp_path / "o.avi", 30.0)
    video.put("a", NOISE[0])
    monkeypatch.setattr(sinks, "flush", over_quota)
    with pytest.raises(FileError, match="the disk quota is used up"):
        video.close()
    assert os.listdir(tmp_path) == []
