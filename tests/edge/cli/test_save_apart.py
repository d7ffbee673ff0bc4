"""What is saved never becomes what a later run on the same source reads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ramnas_edge.__main__ import main
from ramnas_edge.vision.sinks import check_apart
from ramnas_models.errors import FileError
from tests.edge.vision.test_sources import an_image


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of pictures, in which the process works."""
    for name in ("1.png", "deep/2.png", "3.jpg", "deep/04.jpg"):
        an_image(tmp_path / "in" / name)
    (tmp_path / "link").symlink_to(tmp_path / "in")
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    return tmp_path / "in"


@pytest.mark.parametrize(
    ("source", "out"),
    [
        (".", "."), (".", "./"), (".", "../in"), (".", "../link"), ("../link", "."),
        (".", "out"), (".", "deep"), (".", "new/out"), ("../link", "out"), (".", "../link/out"),
        ("*.png", "*.png"), ("*.jpg", "."), ("./*", "."), ("**/*.jpg", "out"), ("**/*", "."),
        ("*/*.jpg", "new"), ("**/0*.jpg", "deep/new/out"), ("../in/*.jp*", "../in"),
        ("1.png", "1.png"),
    ],
)  # fmt: skip
def test_saving_into_the_source_is_refused(
    inside: Path, source: str, out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if out == "*.png":  # a folder of that very name
        source = out = "[a]"
        (inside / "[a]").mkdir()
        an_image(inside / "[a]/1.png")
    before = sorted(os.listdir(inside))
    assert main(["run", "--source", source, "--save", out]) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error")]
    assert line.endswith("; save elsewhere")
    assert sorted(os.listdir(inside)) == before


@pytest.mark.parametrize(
    ("source", "out"),
    [
        (".", "../out"), (".", "../away"), (".", "../in2"), ("deep", "."), ("deep", "out"),
        ("1.png", "."), ("1.png", "out"), (".", ".out"), (".", "o.avi"), (".", "@eaDir/out"),
        ("*.png", "."), ("*.jpg", "out"), ("*/*.jpg", "a/b"), ("*/*.jpg", ".out"), ("0", "0"),
        ("**/*.jpg", ".out"), ("camera", "deep"), ("absent", "absent"),
    ],
)  # fmt: skip
def test_saving_beside_the_source_is_allowed(inside: Path, source: str, out: str) -> None:
    check_apart(source, Path(out))


def test_a_video_in_a_folder_that_looks_like_one_is_a_folder(inside: Path) -> None:
    (inside / "o.avi").mkdir()
    with pytest.raises(FileError, match=r"o\.avi lies in the source \., whose images are all read"):
        check_apart(".", Path("o.avi"))
