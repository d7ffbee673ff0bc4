"""What people write as a source: names of all kinds, patterns, and what is not supported."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import List

import pytest

from ramnas_edge.vision import sources
from ramnas_edge.vision.sources import Source, list_images
from ramnas_models.errors import SourceError
from tests.edge.vision.test_sources import a_video, an_image


def names(source: str) -> List[str]:
    return [Path(name).name for name, _ in Source(source)]


@pytest.mark.parametrize(
    "name", ["00", "0", "7", "2024", "-", "-1", "*", "[a]", "a b", "相机", "x" * 255]
)
def test_a_folder_is_read_whatever_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A folder `00` was opened as camera 0."""
    an_image(tmp_path / name / "1.png")
    monkeypatch.chdir(tmp_path)
    assert names(name) == ["1.png"]
    assert names(str(tmp_path / name)) == ["1.png"]


def test_a_file_whose_name_is_a_number_comes_before_a_camera(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    a_video(tmp_path / "v.avi")
    (tmp_path / "v.avi").rename(tmp_path / "0")
    monkeypatch.chdir(tmp_path)
    assert len(names("0")) == 5
    assert "0 is read as a path; camera 0 is /dev/video0" in caplog.text


def test_the_word_camera_means_a_camera_and_a_folder_of_that_name_has_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    an_image(tmp_path / "camera/1.png")
    monkeypatch.chdir(tmp_path)
    opened: List[object] = []
    monkeypatch.setattr(sources, "_opened", lambda name, device: opened.append(device))
    with pytest.raises(AttributeError):
        names("camera")
    assert opened == [0]
    assert "'camera' is the first camera; the file or folder is ./camera" in caplog.text
    assert names("./camera") == ["1.png"]


def test_a_pattern_gives_the_images_that_match_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("b/2.png", "b/10.png", "a/3.PNG", "a/deep/4.png"):
        an_image(tmp_path / name)
    (tmp_path / "a/notes.txt").write_text("no image")
    (tmp_path / "a/folder.png").mkdir()
    monkeypatch.chdir(tmp_path)
    assert [str(p) for p in list_images("*/*")] == ["a/3.PNG", "b/10.png", "b/2.png"]
    assert [str(p) for p in list_images("b/?.png")] == ["b/2.png"]
    assert len(list_images("**/*.png")) == 3
    assert names(f"{tmp_path}/[ab]/*") == ["3.PNG", "10.png", "2.png"]
    with pytest.raises(SourceError, match=r"the pattern \*/\*\.jpg matches no file"):
        list_images("*/*.jpg")
    with pytest.raises(
        SourceError, match=r"the pattern \*/\*\.txt matches 1 files?, but no images"
    ):
        list_images("*/*.txt")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("rtsp://admin@10.0.0.2:554/live", "streams such as rtsp:// are not supported as a source"),
        ("http://10.0.0.2/video.mjpg", "streams such as http:// are not supported as a source"),
        ("https://x/y.mp4", "streams such as https:// are not supported as a source"),
        ("v4l2src ! videoconvert ! appsink", "pipelines of GStreamer are not supported"),
        ("file:///tmp/x.mp4", "write the path without file://"),
        ("-", "standard input is not supported as a source"),
        ("", "the name of the source is empty"),
        ("absent.mp4", "absent.mp4 does not exist"),
        ("no/such/folder", "no/such/folder does not exist"),
        ("file.txt/x", "file.txt/x does not exist"),
        ("file.txt/", "file.txt/ does not exist"),
        ("²", "² does not exist"),
        ("link", "link is a link to gone.mp4, which does not exist"),
        ("pipe", "pipe is a pipe, a socket or a disk; a source is `camera`"),
        ("x" * 300, "cannot be opened: File name too long"),
        ("a\0b", "cannot be opened: embedded null byte"),
        ("9" * 30, "cannot be opened as a video or camera: /dev/video999"),
    ],
)
def test_a_source_that_is_none_is_refused_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file.txt").touch()
    Path("link").symlink_to("gone.mp4")
    os.mkfifo("pipe")
    with pytest.raises(SourceError) as error:
        next(iter(Source(source)))
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_a_camera_that_is_missing_is_told_from_one_that_is_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sys.platform.startswith("linux"):
        with pytest.raises(SourceError, match=r"/dev/video97: No such file.*; this machine has "):
            next(iter(Source("97")))
    with pytest.raises(SourceError, match="another program uses it"):
        next(iter(Source("/dev/null")))


def test_a_folder_of_broken_pictures_is_one_error_with_the_first_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("1.jpg", "2.jpg", "3.png"):
        (tmp_path / name).touch()
    with pytest.raises(SourceError) as error:
        names(str(tmp_path))
    first = f"{tmp_path}/1.jpg cannot be read as an image: it is empty"
    assert str(error.value) == f"none of the 3 images of {tmp_path} can be read: {first}"
    assert caplog.text == ""


def test_broken_pictures_before_the_first_sound_one_are_said_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("1.jpg", "2.jpg", "4.png"):
        (tmp_path / name).touch()
    an_image(tmp_path / "3.png")
    source = Source(str(tmp_path), repeat=2)
    assert len(list(source)) == 2
    assert source.broken == 6
    assert [record.getMessage().count("it is empty") for record in caplog.records] == [1] * 6


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_not_utf8_can_be_printed(tmp_path: Path) -> None:
    an_image(tmp_path / "1.png")
    os.rename(os.fsencode(tmp_path / "1.png"), os.fsencode(tmp_path) + b"/caf\xe9.png")
    ((name, _),) = Source(str(tmp_path))
    assert name == f"{tmp_path}/caf\\xe9.png"


@pytest.mark.skipif(sys.platform != "linux" or os.getuid() != 0, reason="needs another user")
def test_a_source_that_may_not_be_read_is_refused_with_the_reason() -> None:
    """As another user, since root may read everything."""
    code = (
        "import os, sys\n"
        "from ramnas_edge.vision.sources import Source\n"
        "from ramnas_models.errors import SourceError\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "for path in sys.argv[1:]:\n"
        "    try: next(iter(Source(path)))\n"
        "    except SourceError as error: print(error)\n"
    )
    with tempfile.TemporaryDirectory() as made:  # pytest closes its own folders to other users
        folder = Path(made)
        an_image(folder / "in/1.png")
        a_video(folder / "v.avi")
        (folder / "closed").mkdir(0o700)
        for path, mode in ((folder, 0o755), (folder / "in/1.png", 0), (folder / "v.avi", 0)):
            os.chmod(path, mode)
        paths = [str(folder / name) for name in ("in", "closed", "closed/x.mp4", "v.avi")]
        ran = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True)
    said = ran.stdout.splitlines()
    assert len(said) == 4, ran
    assert all("ermission denied" in line for line in said), said


def test_a_source_may_be_repeated_without_end(tmp_path: Path) -> None:
    for name in ("1.png", "2.png"):
        an_image(tmp_path / name)
    frames = iter(Source(str(tmp_path), repeat=10**30, ahead=1))
    assert [Path(next(frames)[0]).name for _ in range(5)] == ["1.png", "2.png"] * 2 + ["1.png"]


def test_broken_pictures_are_not_tried_again_without_end(tmp_path: Path) -> None:
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / name).touch()
    with pytest.raises(SourceError, match=r"none of the 2 images of .* can be read"):
        next(iter(Source(str(tmp_path), repeat=10**30)))
