"""The progress bar of every long step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Update(Protocol):
    """Moves the bar to `done` units, if given, and shows `note` behind it."""

    def __call__(self, done: float | None = None, note: str = "") -> None: ...


@contextmanager
def bar(name: str, total: int, *, shown: bool = True) -> Iterator[Update]:
    """Show a bar of `total` units on stderr, and yield the function that moves it.

    Of several processes only one should have its bar `shown`.
    """
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as progress:
        task = progress.add_task(name, total=total, note="")

        def update(done: float | None = None, note: str = "") -> None:
            progress.update(task, completed=done, note=note)

        yield update
