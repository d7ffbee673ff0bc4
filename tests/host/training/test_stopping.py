"""A training that is asked to end: it finishes its step, saves it, and says how to go on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from ramnas_host.cli import main
from ramnas_host.training import checkpoint, train
from ramnas_host.training.run_folder import STATE, RunFolder
from tests.host.training.test_train import SplitSizes, short, train_verb

STEPS = 6


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "short.yaml"
    images = SplitSizes(train=48, selection=20, calibration=20)
    made = short(
        epochs=2, batch_size=16, images=images, save_every=100, evaluate_every=1, dropout=0.2,
        ema=0.9,
    )  # fmt: skip
    path.write_bytes(msgspec.yaml.encode(made))
    return path


@pytest.fixture(scope="module")
def undisturbed(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    out = tmp_path_factory.mktemp("undisturbed")
    assert main.main(train_verb(recipe, out)) == 0
    return weights(out)


def weights(out: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(out / train.LAST).net.state_dict()


def signalled_in(step: int, number: signal.Signals) -> Callable[..., Any]:
    """`RunFolder.record`, in which a signal comes at one step."""
    real = RunFolder.record

    def record(self: RunFolder, done: int, *rest: Any) -> Any:
        if done == step:
            os.kill(os.getpid(), number)
        return real(self, done, *rest)

    return record


@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize(
    ("number", "code", "step"),
    [
        (signal.SIGTERM, 143, 1),
        (signal.SIGINT, 130, 2),
        (signal.SIGHUP, 129, STEPS // 2),  # an evaluation belongs to this step
        (signal.SIGTERM, 143, STEPS),
    ],
)
def test_a_training_that_was_stopped_goes_on_to_the_same_weights(
    number: signal.Signals, code: int, step: int, recipe: Path, tmp_path: Path,
    undisturbed: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "record", signalled_in(step, number))
        assert main.main(train_verb(recipe, tmp_path)) == code
    on = min(step, STEPS // 2)  # an evaluation saves too, and the last step is done again
    said = f"stopped after step {step} of {STEPS}; the same command goes on after step {on}"
    assert said in caplog.text
    assert (tmp_path / STATE).exists()
    assert main.main(train_verb(recipe, tmp_path)) == 0
    assert f"going on from {tmp_path / STATE}" in capsys.readouterr().out
    found = weights(tmp_path)
    assert all(torch.equal(value, found[key]) for key, value in undisturbed.items())
