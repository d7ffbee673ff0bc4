"""A selection split without an object cannot choose weights, and the run says what it took."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from ramnas_host.config import Override, load_finetuning
from ramnas_host.finetuning.prepare import FINETUNED, prepare
from ramnas_host.training.distributed import Ranks
from ramnas_models.space import load_space
from tests.host.annotations.generated_coco import file, write_sound


def test_without_a_score_the_last_weights_are_taken_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data, out, space = tmp_path / "data", tmp_path / "out", load_space("micro")
    write_sound(data)
    content = json.loads(file(data, "val").read_bytes())
    file(data, "val").write_text(json.dumps({**content, "annotations": []}))
    short = {"epochs": 1, "batch_size": 2, "input_hw": (32, 32), "warm_up_epochs": 0}
    overrides = [Override(key, value, key) for key, value in short.items()]
    recipe = load_finetuning("scenes-detection", overrides)
    run = prepare(space, space.min(), recipe, data)
    run.train(out, Ranks(), 0, lambda step: None)
    assert "scored above 0, so that no weights are the best: the last ones are taken" in caplog.text
    assert (out / FINETUNED).exists()
