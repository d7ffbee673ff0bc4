"""Records a training's losses and scores in metrics.csv, and in TensorBoard if it is installed."""

from __future__ import annotations

import csv
import importlib.util
import io
from pathlib import Path
from typing import Any

from ramnas_models.files import write_file, writing

_COLUMNS = ("step", "epoch", "lr", "images_per_s", "wait_s")


class Metrics:
    """Appends one row per step to metrics.csv in `folder`.

    `columns` come after step, epoch, learning rate, speed and `wait_s`, the seconds for which the
    step waited until its images were decoded. `first` is the step to go on from;
    rows of later steps, which a killed run has left, are dropped.
    """

    def __init__(self, folder: Path, first: int, columns: tuple[str, ...]) -> None:
        path = folder / "metrics.csv"
        self._columns = (*_COLUMNS, *columns)
        rows: list[list[str]] = []
        if first and path.exists():
            # a machine that lost its power may leave half a row, or zero bytes
            with writing(path):
                found = path.read_bytes().replace(b"\0", b"").decode("utf-8", "replace")
            complete = (r for r in csv.reader(io.StringIO(found)) if len(r) == len(self._columns))
            rows = [r for r in complete if r[0].isdecimal() and int(r[0]) <= first]
        text = io.StringIO()
        csv.writer(text).writerows([self._columns, *rows])
        write_file(path, text.getvalue().encode())
        self._path = path
        self._board: Any = None
        if importlib.util.find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first or None)

    def write(
        self, step: int, epoch: int, lr: float, images_per_s: float, wait_s: float,
        losses: tuple[float, ...], scores: dict[str, float] | None,
    ) -> None:  # fmt: skip
        """Add a row. `losses` are in the order of the columns, `scores` go by the columns' names.

        `scores` is None if the step was not evaluated.
        """
        speed = (f"{images_per_s:.1f}", f"{wait_s:.4f}")
        row = [step, epoch, f"{lr:.6g}", *speed, *(f"{loss:.5f}" for loss in losses)]
        empty = [""] * (len(self._columns) - len(row))
        names = self._columns[len(row) :]
        found = [_text(scores[name]) for name in names] if scores else empty
        with writing(self._path), open(self._path, "a", encoding="utf-8", newline="") as file:
            csv.writer(file).writerow([*row, *found])
        if self._board is not None:
            for name, value in zip(self._columns[1:], map(str, [*row[1:], *found]), strict=True):
                if value:
                    self._board.add_scalar(name.replace("_", "/", 1), float(value), step)

    def close(self) -> None:
        """Write out what TensorBoard still holds."""
        if self._board is not None:
            self._board.close()


def _text(score: float) -> str:
    return str(score) if isinstance(score, int) else f"{score:.4f}"
