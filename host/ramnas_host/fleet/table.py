"""The state of a calibration while it runs: a table on a terminal, lines elsewhere, or JSON."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import msgspec
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ramnas_edge.board.short_names import legend, short_names
from ramnas_host.fleet.peer_log import printable
from ramnas_host.fleet.status import ClassStatus, Status

log = logging.getLogger(__name__)
Show = Callable[[Status], None]

_LINE_S = 30.0  # lines come no more often than that
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
    """Give a call that takes each Status, which the host has once a second.

    The table and the lines go to stderr, JSON to stdout. While the table is live, log messages
    come out above it. Lines are few, but the last status always has one.
    """
    console = console or Console(stderr=True)
    if json_lines:
        yield _json
    elif console.is_terminal:
        with Live(console=console, auto_refresh=False) as live, _logs_above(live):
            yield lambda status: live.update(_screen(status, console.height), refresh=True)
    else:
        due_s, untold = float("-inf"), None

        def show(status: Status) -> None:
            nonlocal due_s, untold
            untold = status
            if clock() >= due_s:
                due_s, untold = clock() + _LINE_S, None
                print(line(status), file=sys.stderr)

        try:
            yield show
        finally:
            if untold:
                print(line(untold), file=sys.stderr)


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
    states, names = list(_STATES), _names(status)
    boards = sorted(status.boards, key=lambda b: (states.index(b.state), b.device_class, b.name))
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("board", "class", "state"):
        drawn.add_column(name, no_wrap=True)
    for name in ("done", "/min", "°C"):
        drawn.add_column(name, justify="right", no_wrap=True)
    for name in ("power mode", "last error"):
        drawn.add_column(name, overflow="ellipsis", no_wrap=True)
    room = max(height, _LEAST)
    for board in boards[:room]:
        cells = (
            board.name, names[board.device_class], board.state,
            f"{board.done}+{board.inside:.0f}" if board.inside >= 0.5 else str(board.done),
            f"{board.rate_per_min:.3g}" if board.rate_per_min else "",
            "" if board.temperature_c is None else f"{board.temperature_c:.0f}",
            board.power_mode or "", board.last_error,
        )  # fmt: skip
        # what a board says of itself must not be taken for markup, so each cell is a Text
        drawn.add_row(*(Text(printable(c, 200)) for c in cells), style=_STATES[board.state])
    if len(boards) > room:
        more = Counter(board.state for board in boards[room:])
        drawn.caption = "and " + ", ".join(f"{n} more {state}" for state, n in more.items())
    return drawn


def _screen(status: Status, height: int) -> Group:
    """The table with a line above it and, below, the classes and what was refused."""
    names = _names(status)
    below = [_of_class(c, names[c.name]) for c in status.classes] + legend(names)
    if status.refused:
        counted = sorted(status.refused.items(), key=lambda item: -item[1])
        below.append("refused: " + ", ".join(f"{n} x {reason}" for reason, n in counted))
    drawn = table(status, height - len(below) - _AROUND)
    above, *under = (Text(t, overflow="ellipsis", no_wrap=True) for t in (line(status), *below))
    return Group(above, drawn, *under)


def _of_class(c: ClassStatus, name: str) -> str:
    parts = [f"{name}: {c.done} of {c.total}, {c.leased} with {c.boards} board(s)"]
    if c.ended:
        parts.append("known well enough")
    if c.quarantined:
        ids = ", ".join(c.quarantined[:5]) + (", ..." if len(c.quarantined) > 5 else "")
        parts.append(f"not measured again, since boards died on them: {ids}")
    return "; ".join(parts)


def _names(status: Status) -> dict[str, str]:
    """The short names of all device classes that are shown."""
    return short_names([b.device_class for b in status.boards] + [c.name for c in status.classes])


def _time(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes else f"{rest} s"


def _json(status: Status) -> None:
    try:
        print(msgspec.json.encode(status).decode(), flush=True)
    except BrokenPipeError:  # the reader has gone: that is no reason to stop measuring
        log.warning("nobody reads the JSON lines any more; the calibration goes on")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _logs_above(live: Live) -> Iterator[None]:
    """Send what is logged to stderr through the live display, which moves below it."""
    with ExitStack() as after:
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream in (
                live.console.file, sys.__stderr__,
            ):  # fmt: skip
                after.callback(handler.setStream, handler.stream)
                handler.setStream(sys.stderr)  # which `live` has replaced
        yield
