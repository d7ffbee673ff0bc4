"""How large the crops are on which a classifier is trained that was cut out of imported weights."""

from __future__ import annotations

from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from ramnas_host.config import load_finetuning
from ramnas_host.data.about import About
from ramnas_host.finetuning.prepare import prepare
from ramnas_host.training.checkpoint import Checkpoint
from ramnas_models.bundle import Preprocessing
from ramnas_models.onnx_graph import Normalisation
from ramnas_models.space import load_space
from ramnas_models.supernet import Supernet

SPACE = msgspec.structs.replace(load_space("micro"), resolutions=(64, 240))


@pytest.mark.parametrize(
    ("how", "sides"),
    [
        (Preprocessing(Normalisation(), "bicubic", margin=32), (64, 240)),
        (Preprocessing(Normalisation(), "bicubic", resize_short=256, crop=224), (224, 224)),
    ],
    ids=["margin", "crop"],
)
def test_training_crops_are_as_large_as_those_of_evaluation(
    how: Preprocessing, sides: tuple[int, int], tmp_path: Path
) -> None:
    for part in ("train", "val"):
        for name in ("ant", "bee"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(2):
                picture = np.full((30, 40, 3), 90 * i, np.uint8)
                cv2.imwrite(str(tmp_path / part / name / f"{i}.png"), picture)
    imported = Checkpoint(Supernet(SPACE, 3), About(("a", "b", "c"), how, "a licence", "a source"))
    for arch, side in zip((SPACE.min(), SPACE.max()), sides, strict=True):
        run = prepare(imported, arch, load_finetuning("transfer"), tmp_path)
        image, _ = run.task.draw(0, np.random.default_rng(0))
        assert image.shape == (side, side, 3)
