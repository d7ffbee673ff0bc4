"""`ramnas train`: options in place of keys of the recipe, and progress for logs and programs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from ramnas_host.config import load_recipe
from ramnas_host.data.datasets import recipe_of
from ramnas_host.training import checkpoint
from tests.host.cli.commands import ramnas, refused

SHORT = ("--epochs", "2", "--batch-size", "16")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A recipe with few images: two steps in an epoch."""
    path = tmp_path / "small.yaml"
    images = "images: {train: 32, selection: 20, calibration: 10}"
    path.write_text(f"base: digits-small\n{images}\nsave_every: 1\n")
    return path


def test_options_take_the_place_of_the_recipes_keys_and_are_stored(
    small: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    argv = ["train", "--recipe", small, *SHORT, "--out", out]
    ran = ramnas(*argv, "--lr", "2e-1")
    assert ran.returncode == 0, ran.stderr
    stored = recipe_of(checkpoint.load(out / "supernet.safetensors").about)
    recipe = load_recipe("digits-small")
    assert (stored.epochs, stored.batch_size, stored.optimizer.lr) == (2, 16, 0.2)
    assert stored.distillation == recipe.distillation
    lines = [line for line in ran.stderr.splitlines() if line.startswith("train micro")]
    assert lines[0] == "train micro on digits: 0 of 4"
    first, last = lines[1:]  # one for each epoch
    assert first.startswith("train micro on digits: 2 of 4, epoch 1 of 2, ")
    assert "images/s, losses" in first
    assert "expected end 2" in first
    assert last.startswith("train micro on digits: 4 of 4, epoch 2 of 2, ")
    assert "selection split, n 20: top-1 min" in last
    assert "already trained" in ramnas(*argv, "--lr", "0.2").stdout
    refused(ramnas(*argv), "was trained with another space, recipe or data")


def test_a_stopped_run_goes_on_only_with_the_same_options(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ramnas_host.training import run_folder
    from ramnas_models.errors import DataError

    def stop(folder: run_folder.RunFolder) -> None:
        raise DataError("stopped")

    argv = ["train", "--recipe", small, "--batch-size", "16", "--out", tmp_path / "run"]
    with monkeypatch.context() as patched:
        patched.setattr(run_folder.RunFolder, "finish", stop)
        refused(ramnas(*argv, "--epochs", "2"), "stopped")
    refused(ramnas(*argv, "--epochs", "3"), "state.safetensors")
    again = ramnas(*argv, "--epochs", "2")
    assert "going on from" in again.stdout
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--epochs", "0", "--epochs: 0 must be above 0"),
        ("--epochs", "-3", "--epochs: -3 is below 0"),
        ("--batch-size", "0", "--batch-size: 0 must be above 0"),
        ("--lr", "nan", "--lr: nan is not a finite number"),
        ("--lr", "-inf", "--lr: -inf is not a finite number"),
        ("--lr", "0", "--lr: 0.0 must be above 0"),
        ("--batch-size", "100000", "lower it with --batch-size or in the recipe"),
    ],
)
def test_an_option_out_of_range_is_named(
    option: str, value: str, message: str, tmp_path: Path
) -> None:
    refused(ramnas("train", "--out", tmp_path / "run", f"{option}={value}"), message)
    assert not (tmp_path / "run").exists()


def test_programs_read_the_progress_of_a_training_from_a_pipe(small: Path, tmp_path: Path) -> None:
    argv = ["train", "--recipe", small, *SHORT, "--progress", "json", "--out", tmp_path / "run"]
    ran = subprocess.run(
        [sys.executable, "-m", "ramnas_host", *map(str, argv)], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    steps = [json.loads(line) for line in ran.stderr.splitlines() if line.startswith("{")]
    assert [(step["step"], step["steps"], step["epoch"]) for step in steps] == [
        (1, 4, 1), (2, 4, 1), (3, 4, 2), (4, 4, 2),
    ]  # fmt: skip
    for step in steps:
        assert step["loss"] == step["losses"][0] > 0
        assert step["images_per_s"] > 0
    assert not steps[0]["scores"]
    assert steps[-1]["evaluated"]
    assert 0 <= steps[-1]["scores"]["top1_max"] <= 1
