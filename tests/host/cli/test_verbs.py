"""Bad input at the command line: one clear line, exit code 2, and no half-written file."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from tests.host.cli.commands import Ran, ramnas, refused


def test_an_error_of_the_command_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    """In a process of its own; the other tests call the same function in this one."""
    argv = ["train", "--space", "nano", "--out", str(tmp_path / "out")]
    ran = subprocess.run(
        [sys.executable, "-m", "ramnas_host", *argv], capture_output=True, text=True
    )
    refused(Ran(ran.returncode, ran.stdout, ran.stderr), "unknown space 'nano'")
    assert ran.stderr.count("\n") == 1


def test_a_bad_space_file_is_named(tmp_path: Path) -> None:
    out = tmp_path / "out"
    bad = tmp_path / "bad.yaml"
    bad.write_text("name: bad\ncolour: red\n")
    refused(ramnas("train", "--space", bad, "--out", out), str(bad))
    assert not out.exists()


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        argv = ["--samples", "12", "--store", tmp_path / "s.sqlite", "--bind", endpoint]
        refused(ramnas("calibrate", *argv), f"cannot bind '{endpoint}': Address already in use")


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("text")
    search = ["--store", tmp_path / "s.sqlite", "--out", tmp_path / "front.json"]
    refused(ramnas("search", "--supernet", text, *search), "text is not a supernet of ramnas")
    bundle = ["--supernet", text, "--out", tmp_path / "bundle"]
    refused(ramnas("bundle", "--front", text, *bundle), "text is not a front of ramnas")
    assert not (tmp_path / "front.json").exists()
    assert not (tmp_path / "bundle").exists()


def test_an_out_below_a_file_is_refused_before_the_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / "file/run"
    refused(ramnas("train", "--out", out), "a part of the path is a file, not a folder")


def test_a_read_only_folder_is_named(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    refused(ramnas("demo", "--out", small_disk / "demo"), "read-only; write elsewhere")
    refused(ramnas("data", "--out", small_disk / "digits"), "read-only; write elsewhere")
    argv = ["--samples", "12", "--store", small_disk / "s.sqlite", "--local-agent"]
    refused(ramnas("calibrate", *argv), "cannot open the store")


def test_a_full_disk_is_named_and_committed_records_are_safe(small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(bytes(200_000))
    refused(ramnas("data", "--out", small_disk / "digits"), "the disk is full; free some space")
    assert [p.name for p in small_disk.iterdir()] == ["filler"]
    argv = ["--samples", "36", "--classes", "10", "--local-agent"]
    ran = ramnas("calibrate", *argv, "--store", small_disk / "s.sqlite")
    refused(ran, "what was committed before is safe")


def test_wrong_arguments_have_exit_code_2_too() -> None:
    ran = ramnas("calibrate", "--frame", "big", "--store", "x")
    assert ran.returncode == 2
    assert "'big' is not a height and a width, such as 480x640" in ran.stderr
    assert ramnas().returncode == 2


def test_a_missing_data_set_is_named(tmp_path: Path) -> None:
    argv = ["train", "--out", tmp_path / "out", "--recipe"]
    refused(ramnas(*argv, "imagenet"), "data set imagenet needs --data DIR with train/<class>/")
    refused(ramnas(*argv, "imagenet", "--data", tmp_path), f"{tmp_path}/train is not a folder")
    refused(ramnas(*argv, "fashion", "--data", tmp_path), "dataset-fashion-mnist")
    assert not (tmp_path / "out").exists()
