"""The figures of a training as it goes: metrics.csv, and TensorBoard where it is installed."""

from __future__ import annotations

import csv
import importlib.util
import io
from pathlib import Path
from typing import Any

from ramnas_host.evaluate import Scores
from ramnas_host.sandwich import ROLES
from ramnas_models.files import write_file, writing

_SCORES = ("top1_min", "top5_min", "top1_max", "top5_max")
COLUMNS = ("step", "epoch", "lr", "images_per_s", *(f"loss_{r}" for r in ROLES), *_SCORES)


class Metrics:
    """Appends a row at a time; rows of `first` and later, of a run that was killed, are dropped."""

    def __init__(self, folder: Path, first: int) -> None:
        path = folder / "metrics.csv"
        rows: list[list[str]] = []
        if first and path.exists():
            with open(path, encoding="utf-8", newline="") as file:
                rows = [r for r in csv.reader(file) if r and r[0].isdigit() and int(r[0]) <= first]
        text = io.StringIO()
        csv.writer(text).writerows([COLUMNS, *rows])
        write_file(path, text.getvalue().encode())
        self._path = path
        self._board: Any = None
        if importlib.util.find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first or None)

    def write(
        self, step: int, epoch: int, lr: float, images_per_s: float, losses: tuple[float, ...],
        scores: tuple[Scores, Scores] | None,
    ) -> None:  # fmt: skip
        """`losses` in order of ROLES; `scores` of min and max, where they were evaluated."""
        found = [f"{v:.4f}" for s in scores for v in (s.top1, s.top5)] if scores else [""] * 4
        row = [step, epoch, f"{lr:.6g}", f"{images_per_s:.1f}", *(f"{v:.5f}" for v in losses)]
        with writing(self._path), open(self._path, "a", encoding="utf-8", newline="") as file:
            csv.writer(file).writerow([*row, *found])
        if self._board is not None:
            for name, value in zip(COLUMNS[1:], map(str, [*row[1:], *found]), strict=True):
                if value:
                    self._board.add_scalar(name.replace("_", "/", 1), float(value), step)

    def close(self) -> None:
        if self._board is not None:
            self._board.close()
