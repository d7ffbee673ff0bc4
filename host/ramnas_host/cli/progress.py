"""How far a long step is, on stderr: a bar on a terminal, lines in a log, or JSON for programs."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from ramnas_host.training.loop import Step

_PAUSE_S = 30.0  # between two lines of a log, unless an epoch ends


class Update(Protocol):
    """Says how many units are `done`, with a `note` for people and `facts` for programs."""

    def __call__(
        self,
        done: float | None = None,
        note: str = "",
        facts: Mapping[str, object] | None = None,
    ) -> None: ...


@contextmanager
def bar(
    name: str, total: int, *, shown: bool = True, json_lines: bool = False, epochs: int = 0
) -> Iterator[Update]:
    """Show on stderr how many of `total` units are done; yields the function that says so.

    On a terminal that is a bar. Elsewhere, as in a log, there is a line at the start, at the end,
    after each of the `epochs`, if there are any, and every 30 s in between. With `json_lines` every
    update is a line of JSON. Of several processes only one should be `shown`.
    """
    if not shown:
        yield lambda done=None, note="", facts=None: None
    elif json_lines or not sys.stderr.isatty():
        lines = _Lines(name, total, json_lines, epochs)
        yield lines.update
        lines.end()
    else:
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True), TextColumn("{task.fields[note]}"),
        )  # fmt: skip
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task(name, total=total, note="")

            def update(
                done: float | None = None,
                note: str = "",
                facts: Mapping[str, object] | None = None,
            ) -> None:
                progress.update(task, completed=done, note=note)

            yield update


def facts_of(step: Step, scores: Mapping[str, float]) -> dict[str, object]:
    """A step of a training for programs; `scores` are those of the last evaluation."""
    return {
        "step": step.number,
        "steps": step.total,
        "epoch": step.epoch,
        "loss": step.losses[0],
        "losses": step.losses,
        "images_per_s": round(step.images_per_s, 1),
        "wait_share": round(step.wait_share, 3),
        "evaluated": step.scores is not None,
        "scores": scores,
    }


class _Lines:
    """Writes a line now and then; with `json_lines` at every update."""

    def __init__(self, name: str, total: int, json_lines: bool, epochs: int) -> None:
        self._name, self._total, self._json = name, total, json_lines
        self._epochs, self._per_epoch = epochs, total // epochs if epochs else 0
        self._start = self._last = time.monotonic()
        self._first: float | None = None  # what was done at the first update: a run may be resumed
        self._done, self._note, self._pending = 0.0, "", False
        if not json_lines:
            _write(f"{name}: 0 of {total}")

    def update(
        self,
        done: float | None = None,
        note: str = "",
        facts: Mapping[str, object] | None = None,
    ) -> None:
        now = time.monotonic()
        if done is not None:
            self._done = done
            if self._first is None:
                self._first, self._start = done, now
        self._note, self._pending = note, True
        if self._json:
            _write(self._as_json(facts or {}, now))
        elif now - self._last >= _PAUSE_S or (self._epochs and self._done % self._per_epoch == 0):
            self._line(now)

    def end(self) -> None:
        """The last line, if it has not been written yet."""
        if self._pending and not self._json:
            self._line(time.monotonic())

    def _line(self, now: float) -> None:
        words = [f"{self._name}: {self._done:.0f} of {self._total}"]
        if self._epochs:
            words.append(f"epoch {math.ceil(self._done / self._per_epoch)} of {self._epochs}")
        words += [self._note] if self._note else []
        left_s = self._left_s(now)
        if left_s:
            end = datetime.now() + timedelta(seconds=left_s)
            words.append(f"expected end {end:%Y-%m-%d %H:%M} (in {_duration(left_s)})")
        _write(", ".join(words))
        self._last, self._pending = now, False

    def _as_json(self, facts: Mapping[str, object], now: float) -> str:
        found = {
            "name": self._name, "done": self._done, "total": self._total, "note": self._note,
            "left_s": self._left_s(now), **facts,
        }  # fmt: skip
        return msgspec.json.encode(found).decode()

    def _left_s(self, now: float) -> float | None:
        """The seconds to the end at the pace since the first update; None if it is unknown."""
        done = self._done - (self._first or 0)
        if done <= 0:
            return None
        return round((now - self._start) * (self._total - self._done) / done, 1)


def _write(line: str) -> None:
    # a training of many hours does not end because the disk of its log is full, or nobody reads it
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    """`45 s`, `12 min` or `3 h 20 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
