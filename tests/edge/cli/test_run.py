"""`ramnas-edge run` as a user starts it: folders and videos in, lines and annotated files out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import cv2
import msgspec
import numpy as np
import pytest

from ramnas_edge.__main__ import main
from ramnas_edge.cli import run as run_verb
from ramnas_edge.vision import sinks
from ramnas_edge.vision.sources import Source
from tests.edge.runtime.test_runtime import FRAME, P90_MS, a_bundle
from tests.edge.vision.test_damaged_videos import without
from tests.edge.vision.test_sources import a_video, an_image
from tests.models.bundles import heads, written

CPU = ("--engine", "onnxruntime-cpu")


@pytest.fixture(autouse=True)
def nothing_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def run(*argv: object, env: Optional[Dict[str, str]] = None) -> subprocess.CompletedProcess[str]:
    """The verb as a process of its own."""
    command = [sys.executable, "-m", "ramnas_edge", "run", *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, env=env)


def run_here(*argv: object) -> int:
    """The verb in this process, which is quicker; its output is in `capsys`."""
    return main(["run", *map(str, argv)])


def lines(stdout: str) -> Tuple[List[Any], Any]:
    """The lines of the frames, and the summary."""
    *frames, last = [json.loads(line) for line in stdout.splitlines()]
    return frames, last["summary"]


def images(folder: Path, *values: int) -> Path:
    folder.mkdir()
    for i, value in enumerate(values):
        cv2.imwrite(str(folder / f"{i}.png"), np.full((*FRAME, 3), value, np.uint8))
    return folder


def test_a_folder_gives_one_json_line_per_frame_and_a_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = a_bundle(tmp_path / "b")
    source = images(tmp_path / "images", 0, 80, 160)
    (source / "1.png").write_text("broken")
    argv = ("--bundle", tmp_path / "b", "--latency-budget-ms", 2, "--source", source, *CPU)
    ran = run(*argv, "--json")
    assert ran.returncode == 0, ran.stderr
    frames, summary = lines(ran.stdout)
    assert [Path(f["image"]).name for f in frames] == ["0.png", "2.png"]
    assert all(f["labels"]["name"] in "abc" and f["timing"]["engine_ms"] > 0 for f in frames)
    assert all(f["call_ms"] >= f["timing"]["engine_ms"] for f in frames)
    assert (summary["model"], summary["frames"], summary["broken"]) == (ids[1], 2, 1)
    assert summary["models"] == {ids[1]: 2}
    assert (summary["expected_p90_ms"], summary["calibrated"]) == (P90_MS[1], True)
    assert run_here(*argv) == 0
    last, explanation = capsys.readouterr().out.splitlines()[2:]
    assert last.startswith(f"2 frames (model {ids[1]} on 2): ")
    assert last.endswith("; broken frames left out: 1")
    short, device_class = explanation.split(" = ")
    assert device_class == summary["device_class"]
    assert f", {short})" in last


@pytest.mark.parametrize("policy", ["fixed", "adaptive"])
def test_a_video_is_saved_with_its_boxes(
    tmp_path: Path, policy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path / "b", heads("detection"))
    a_video(tmp_path / "v.avi")
    code = run_here(
        "--bundle", tmp_path / "b", "--task", "detection", "--latency-budget-ms", 1e5, "--policy",
        policy, "--source", tmp_path / "v.avi", "--score", 0.2, "--save", tmp_path / "out/o.avi",
        "--json", *CPU,
    )  # fmt: skip
    assert code == 0
    frames, summary = lines(capsys.readouterr().out)
    assert summary["frames"] == len(frames) == 5
    assert summary["within_budget"] > 0
    boxes = [box for frame in frames for box in frame["detections"]]
    assert boxes
    assert all(0 <= x <= 64 and 0 <= y <= 48 for b in boxes for x, y in [b["box"][:2]])
    before, after = (
        [frame for _, frame in Source(str(tmp_path / name))] for name in ("v.avi", "out/o.avi")
    )
    assert [frame.shape for frame in after] == [(48, 64, 3)] * 5
    assert np.abs(after[0].astype(int) - before[0]).max() > 50  # drawn on
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["o.avi"]


def test_masks_of_images_of_any_size_are_saved_into_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path / "b", heads("segmentation"))
    (tmp_path / "in").mkdir()
    for i, hw in enumerate([(20, 30), (64, 64)]):
        cv2.imwrite(str(tmp_path / f"in/{i}.png"), np.zeros((*hw, 3), np.uint8))
    argv = ("--bundle", tmp_path / "b", "--source", tmp_path / "in", *CPU)
    assert run_here(*argv, "--save", tmp_path / "out") == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["000000_0.jpg", "000001_1.jpg"]
    saved = cv2.imread(str(tmp_path / "out/000000_0.jpg"))
    assert saved is not None
    assert saved.shape == (20, 30, 3)
    assert run_here(*argv, "--save", tmp_path / "o.avi") == 2
    error = capsys.readouterr().err
    assert "1.png is 64x64, but the video is 30x20; save into a folder instead" in error


def test_rate_and_p90_are_printed_while_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = a_bundle(tmp_path / "b")
    monkeypatch.setattr(run_verb, "RATE_EVERY_S", 0.0)
    source = images(tmp_path / "images", 0, 80)
    argv = ["run", "--bundle", str(tmp_path / "b"), "--source", str(source), *CPU]
    assert main(argv) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "frames/s, p90" in line]
    assert len(said) == 2
    assert said[0].endswith(f"model {ids[2]}")


def test_a_window_without_a_display_is_an_error_with_a_way_out_before_a_model_is_opened(
    tmp_path: Path,
) -> None:
    """Qt ends the process where it finds no display, so this needs a process of its own."""
    an_image(tmp_path / "x.png")
    argv = ("--bundle", tmp_path / "no bundle", "--source", tmp_path / "x.png", "--show", *CPU)
    for display in ("", ":77"):
        without = {**os.environ, "DISPLAY": display, "WAYLAND_DISPLAY": ""}
        ran = run(*argv, env=without)
        assert ran.returncode == 2
        (line,) = ran.stderr.splitlines()
        assert line.startswith("error: a window needs a display and an OpenCV with a GUI: ")
        assert line.endswith("; use --save")


def test_an_opencv_without_windows_is_an_error_with_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def headless(*arguments: object) -> None:
        raise cv2.error("The function is not implemented")

    monkeypatch.setattr(sinks, "check_window", lambda: None)
    monkeypatch.setattr(cv2, "imshow", headless)
    monkeypatch.setattr(cv2, "destroyWindow", headless)
    a_bundle(tmp_path / "b")
    an_image(tmp_path / "x.png")
    argv = ("--bundle", tmp_path / "b", "--source", tmp_path / "x.png", "--show", *CPU)
    assert run_here(*argv) == 2
    assert "a window needs a display" in capsys.readouterr().err.splitlines()[-1]


def test_a_damaged_frame_costs_only_itself_and_the_summary_counts_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    a_bundle(tmp_path / "b")
    a_video(tmp_path / "v.avi", 9)
    without(tmp_path / "v.avi", 3)
    argv = ("--bundle", tmp_path / "b", "--source", tmp_path / "v.avi", "--json", *CPU)
    assert run_here(*argv) == 0
    frames, summary = lines(capsys.readouterr().out)
    assert [int(f["image"].rpartition("#")[2]) for f in frames] == [0, 1, 2, 4, 5, 6, 7, 8]
    assert (summary["frames"], summary["broken"]) == (8, 1)
    assert f"left out: {tmp_path}/v.avi#3 cannot be decoded" in caplog.text


def test_a_folder_with_a_number_as_its_name_is_no_camera(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a_bundle(tmp_path / "b")
    images(tmp_path / "00", 0, 80)
    monkeypatch.chdir(tmp_path)
    for source in ("00", "0*/?.png"):
        assert run_here("--bundle", "b", "--source", source, "--json", *CPU) == 0
        frames, _ = lines(capsys.readouterr().out)
        assert [frame["image"] for frame in frames] == ["00/0.png", "00/1.png"]


def test_results_that_cannot_be_written_are_an_error_and_a_reader_may_leave(
    tmp_path: Path,
) -> None:
    a_bundle(tmp_path / "b")
    source = images(tmp_path / "in", 0, 80)
    command = [
        sys.executable, "-m", "ramnas_edge", "run", "--bundle", str(tmp_path / "b"), "--source",
        str(source), "--json", *CPU,
    ]  # fmt: skip
    with open("/dev/full", "w") as full:
        ran = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert ran.returncode == 2
    assert ran.stderr.splitlines()[-1] == "error: cannot write to stdout: No space left on device"
    video = str(tmp_path / "o.avi")
    with subprocess.Popen(
        [*command, "--repeat", "2000", "--save", video],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as head:  # fmt: skip
        assert head.stdout and head.stderr
        assert head.stdout.readline().startswith("{")
        head.stdout.close()
        said = head.stderr.read()
    assert head.returncode == 141
    assert "Traceback" not in said
    assert "error" not in said
    assert len(list(Source(video))) > 0


def test_a_video_is_not_saved_over_itself_and_an_empty_source_is_not_the_default_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a_video(tmp_path / "v.avi")
    before = (tmp_path / "v.avi").read_bytes()
    (tmp_path / "link.avi").symlink_to("v.avi")
    source = ("--source", tmp_path / "v.avi")
    for argv, message in (
        ((*source, "--save", tmp_path / "link.avi"), "link.avi is the source itself"),
        ((*source, "--save", tmp_path / "o.mov"), "and .mov is neither"),
        (("--source", ""), "the name of the source is empty"),
    ):
        assert run_here(*argv, *CPU) == 2
        assert message in capsys.readouterr().err
    assert (tmp_path / "v.avi").read_bytes() == before


def test_bad_input_is_one_line_and_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a_bundle(tmp_path / "b")
    text, good = tmp_path / "text.png", tmp_path / "good.png"
    text.write_text("no image")
    cv2.imwrite(str(good), np.zeros((*FRAME, 3), np.uint8))
    bundle = ("--bundle", tmp_path / "b")
    for argv, message in (
        (("--bundle", tmp_path, "--source", good), "is not a bundle"),
        ((*bundle, "--source", text), "cannot be read as an image"),
        ((*bundle, "--source", good, "--latency-budget-ms", "0.1", *CPU), "no model fits 0.1 ms"),
        ((*bundle, "--source", good, "--engine", "tvm"), "unknown engine 'tvm'"),
        ((*bundle, "--source", good, "--task", "pose"), "no task 'pose'; it has classification"),
        ((*bundle, "--source", good, "--policy", "adaptive"), "needs a latency budget to keep"),
        ((*bundle, "--source", good, "--score", "2"), "score 2: it must be above 0 and below 1"),
    ):
        assert run_here(*argv) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert message in err
        assert len(err.splitlines()) == 1
    manifest = tmp_path / "b/manifest.json"
    content = msgspec.json.decode(manifest.read_bytes())
    content["tasks"][0]["models"][0]["sha256"] = "0" * 64
    manifest.write_bytes(msgspec.json.encode(content))
    ran = run(*bundle, "--source", good)  # with the log of a real process
    assert (ran.returncode, ran.stdout) == (2, "")
    (line,) = ran.stderr.splitlines()
    assert line.startswith("error: ")
    assert "fetch the bundle again" in line
