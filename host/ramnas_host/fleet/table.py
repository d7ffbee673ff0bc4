"""The state of a calibration while it runs: a table on a terminal, lines elsewhere, or JSON."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ramnas_host.fleet.status import BoardStatus, ClassStatus, Status, json_line

log = logging.getLogger(__name__)
Show = Callable[[Status], None]

_TABLE_S, _LINE_S, _JSON_S = 0.5, 30.0, 1.0  # no more often than that
_STATES = {"paused": "red", "silent": "yellow", "measuring": "green", "waiting": "", "gone": "dim"}
_LEAST = 5  # boards, however small the terminal is
_AROUND = 8  # lines of head, caption and frame


@contextmanager
def shown(
    *,
    json_lines: bool = False,
    console: Console | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Show]:
    """Give a call that takes each Status; it limits itself, and the last one is always shown.

    The table and the lines go to stderr, JSON to stdout. While the table is live, log messages
    come out above it.
    """
    console = console or Console(stderr=True)
    if json_lines:
        with _seldom(_json, _JSON_S, clock) as show:
            yield show
    elif not console.is_terminal:
        with _seldom(lambda s: print(line(s), file=sys.stderr), _LINE_S, clock) as show:
            yield show
    else:
        with (
            Live(console=console, auto_refresh=False) as live,
            _logs_above(live),
            _seldom(lambda s: live.update(_whole(s, console.height), refresh=True), _TABLE_S, clock)
            as show,
        ):  # fmt: skip
            yield show


def line(status: Status) -> str:
    """All in one line."""
    states = Counter(board.state for board in status.boards)
    boards = ", ".join(f"{states[state]} {state}" for state in _STATES if states[state])
    parts = [f"{status.run}: {status.done} of {status.total}", f"boards: {boards or 'none yet'}"]
    if status.rate_per_min:
        parts.append(f"{status.rate_per_min:.3g} a minute")
    if status.left_s is not None:
        parts.append(f"{_time(status.left_s)} left")
    if status.refused:
        parts.append(f"{sum(status.refused.values())} refused")
    return "; ".join(parts)


def table(status: Status, height: int) -> Table:
    """The boards that fit into so many lines, those in trouble first, and how many more."""
    states = list(_STATES)
    boards = sorted(status.boards, key=lambda b: (states.index(b.state), b.device_class, b.name))
    several = len(status.classes) > 1
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    drawn.add_column("board", no_wrap=True)
    if several:
        drawn.add_column("class", max_width=24, no_wrap=True)
    drawn.add_column("state", no_wrap=True)
    for name in ("done", "/min", "°C"):
        drawn.add_column(name, justify="right", no_wrap=True)
    drawn.add_column("power mode", no_wrap=True)
    drawn.add_column("last error", overflow="ellipsis", no_wrap=True)
    room = max(height, _LEAST)
    for board in boards[:room]:
        cells = _cells(board)
        row = cells if several else [cells[0], *cells[2:]]
        drawn.add_row(*(_plain(cell) for cell in row), style=_STATES[board.state])
    if len(boards) > room:
        more = Counter(board.state for board in boards[room:])
        drawn.caption = "and " + ", ".join(f"{n} more {state}" for state, n in more.items())
    return drawn


def _whole(status: Status, height: int) -> Group:
    """The table with a line above and, below, what is to be known of classes and refusals."""
    below = [Text(text, overflow="ellipsis", no_wrap=True) for text in _remarks(status)]
    drawn = table(status, height - len(below) - _AROUND)
    return Group(Text(line(status), overflow="ellipsis", no_wrap=True), drawn, *below)


def _remarks(status: Status) -> Iterator[str]:
    if len(status.classes) > 1:
        yield from (_of_class(c) for c in status.classes)
    for c in status.classes:
        if c.quarantined:
            ids = ", ".join(c.quarantined[:5]) + (", ..." if len(c.quarantined) > 5 else "")
            yield f"{c.name}: boards died on {ids}; not measured again"
    if status.refused:
        counted = sorted(status.refused.items(), key=lambda item: -item[1])
        yield "refused: " + ", ".join(f"{count} x {reason}" for reason, count in counted)


def _of_class(c: ClassStatus) -> str:
    ended = ", known well enough" if c.ended else ""
    note = f", {c.note}" if c.note else ""
    return f"{c.name}: {c.done} of {c.total}, {c.leased} with {c.boards} board(s){ended}{note}"


def _cells(board: BoardStatus) -> list[str]:
    degrees = "" if board.temperature_c is None else f"{board.temperature_c:.0f}"
    done = f"{board.done}+{board.inside:.0f}" if board.inside >= 0.5 else str(board.done)
    return [
        board.name, board.device_class, board.state, done,
        f"{board.rate_per_min:.3g}" if board.rate_per_min else "", degrees,
        board.power_mode or "", board.last_error,
    ]  # fmt: skip


def _plain(text: str) -> Text:
    """Without markup and without what moves a terminal: it is the board's own text."""
    return Text("".join(c if c.isprintable() else "?" for c in text[:200]))


def _time(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes else f"{rest} s"


def _json(status: Status) -> None:
    try:
        print(json_line(status), flush=True)
    except BrokenPipeError:  # the reader has gone: that is no reason to stop measuring
        log.warning("nobody reads the JSON lines any more; the calibration goes on")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _seldom(show: Show, every_s: float, clock: Callable[[], float]) -> Iterator[Show]:
    """Pass one Status on in `every_s`, the first and the last in any case."""
    due_s, held = float("-inf"), None

    def take(status: Status) -> None:
        nonlocal due_s, held
        held = status
        if clock() >= due_s:
            held = None
            show(status)
            due_s = clock() + every_s

    try:
        yield take
    finally:
        if held is not None:
            show(held)


@contextmanager
def _logs_above(live: Live) -> Iterator[None]:
    """Have what is logged to stderr go through the live display, which moves below it."""
    before = live.console.file
    handlers = [
        h
        for h in logging.getLogger().handlers
        if isinstance(h, logging.StreamHandler) and h.stream in (before, sys.__stderr__)
    ]
    streams = [h.stream for h in handlers]
    for handler in handlers:
        handler.setStream(sys.stderr)  # which `live` has replaced
    try:
        yield
    finally:
        for handler, stream in zip(handlers, streams):
            handler.setStream(stream)
