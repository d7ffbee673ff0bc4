"""Images named one after another at the end of `ramnas-edge run`."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from ramnas_edge.cli.main import main
from tests.models.bundles import classifiers, written


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "folder").mkdir()
    for name in ("b.png", "a.png", "folder/c.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((20, 30, 3), np.uint8))
    return str(written(tmp_path / "bundle", classifiers()).path)


def test_each_is_run_in_the_order_in_which_they_are_named(
    bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(tmp_path / name) for name in ("b.png", "a.png", "folder")]
    argv = ["run", "--bundle", bundle, "--engine", "onnxruntime-cpu"]
    assert main([*argv, "--latency-budget-ms", "10000", *paths]) == 0
    lines = capsys.readouterr().out.splitlines()
    named = [line.split(": ")[0] for line in lines[:3]]
    assert named == [*paths[:2], str(tmp_path / "folder/c.png")]
    assert lines[3].startswith("3 frames")
    assert main([*argv, paths[0]]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("1 frames")


def test_they_and_a_source_are_refused_together_and_so_is_an_absent_one(
    bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["run", "--bundle", bundle]
    picture, absent = str(tmp_path / "a.png"), str(tmp_path / "absent.png")
    assert main([*argv, "--source", picture, picture]) == 2
    assert "name only one of them" in capsys.readouterr().err
    assert main([*argv, picture, absent]) == 2
    assert f"{absent} does not exist" in capsys.readouterr().err
    assert main([*argv, "--save", str(tmp_path / "folder"), picture, str(tmp_path / "folder")]) == 2
    assert "is the source itself" in capsys.readouterr().err
