"""The status of a running calibration -> a table on a terminal, lines elsewhere, or JSON."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta

import msgspec
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ramnas_edge.board.short_names import legend, short_names
from ramnas_host.fleet.boards import Status
from ramnas_host.fleet.dispatch import ClassStatus
from ramnas_host.fleet.peer_log import printable

log = logging.getLogger(__name__)
Show = Callable[[Status], None]

_LINE_S = 30.0  # between two lines
_STATES = {"paused": "red", "silent": "yellow", "measuring": "green", "waiting": "", "gone": "dim"}
_LEAST = 5  # boards that are shown even if the terminal is too small
_AROUND = 8  # lines of the table's head, caption and frame


@contextmanager
def shown(
    *, json_lines: bool = False, console: Console | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Show]:  # fmt: skip
    """Give a call that shows a Status, to be called once a second.

    The table and the lines go to stderr, JSON goes to stdout. Log messages appear above the table.
    There are few lines, but the last status always has one.
    """
    console = console or Console(stderr=True)
    if json_lines:
        yield _json
    elif console.is_terminal:
        with Live(console=console, auto_refresh=False) as live, _logs_above(live):
            yield lambda status: live.update(screen(status, console.height), refresh=True)
    else:
        due_s, unshown = float("-inf"), None

        def show(status: Status) -> None:
            nonlocal due_s, unshown
            unshown = status
            if clock() >= due_s:
                due_s, unshown = clock() + _LINE_S, None
                print(line(status), file=sys.stderr)

        try:
            yield show
        finally:
            if unshown:
                print(line(unshown), file=sys.stderr)


def line(status: Status) -> str:
    """The whole status in one line."""
    states = Counter(board.state for board in status.boards)
    boards = ", ".join(f"{states[state]} {state}" for state in _STATES if states[state])
    parts = [f"{status.run}: {status.done} of {status.total}", f"boards: {boards or 'none yet'}"]
    if status.rate_per_min:
        parts.append(f"{status.rate_per_min:.3g} a minute")
    if status.left_s is not None:
        parts.append(f"{timedelta(seconds=int(status.left_s))} left")
    if status.refused:
        parts.append(f"{sum(status.refused.values())} refused")
    return "; ".join(parts)


def screen(status: Status, height: int) -> Group:
    """The whole status in `height` lines: the boards that fit, those in trouble first, with a line
    above them and, below, the device classes and what was refused."""
    names = short_names([c.name for c in status.classes] + [b.device_class for b in status.boards])
    below = [_of_class(c, names[c.name]) for c in status.classes] + legend(names)
    if status.refused:
        counted = sorted(status.refused.items(), key=lambda item: -item[1])
        below.append("refused: " + ", ".join(f"{n} x {reason}" for reason, n in counted))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("board", "class", "state"):
        table.add_column(name, no_wrap=True)
    for name in ("done", "/min", "°C"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("power mode", "last error"):
        table.add_column(name, overflow="ellipsis", no_wrap=True)
    states, room = list(_STATES), max(height - len(below) - _AROUND, _LEAST)
    boards = sorted(status.boards, key=lambda b: (states.index(b.state), b.device_class, b.name))
    for board in boards[:room]:
        cells = (
            board.name, names[board.device_class], board.state,
            f"{board.done}+{board.inside:.0f}" if board.inside >= 0.5 else str(board.done),
            f"{board.rate_per_min:.3g}" if board.rate_per_min else "",
            "" if board.temperature_c is None else f"{board.temperature_c:.0f}",
            board.power_mode or "", board.last_error,
        )  # fmt: skip
        # a Text, since nothing that a board says of itself may be taken for markup
        table.add_row(*(Text(printable(c, 200)) for c in cells), style=_STATES[board.state])
    if len(boards) > room:
        more = Counter(board.state for board in boards[room:])
        table.caption = "and " + ", ".join(f"{n} more {state}" for state, n in more.items())
    above, *under = (Text(t, overflow="ellipsis", no_wrap=True) for t in (line(status), *below))
    return Group(above, table, *under)


def _of_class(c: ClassStatus, name: str) -> str:
    parts = [f"{name}: {c.done} of {c.total}, {c.leased} with {c.boards} board(s)"]
    if c.ended:
        parts.append("known well enough")
    if c.quarantined:
        ids = ", ".join(c.quarantined[:5]) + (", ..." if len(c.quarantined) > 5 else "")
        parts.append(f"not measured again because boards died on them: {ids}")
    return "; ".join(parts)


def _json(status: Status) -> None:
    try:
        print(msgspec.json.encode(status).decode(), flush=True)
    except BrokenPipeError:  # that the reader has gone is no reason to stop measuring
        log.warning("nobody reads the JSON lines any more; the calibration goes on")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _logs_above(live: Live) -> Iterator[None]:
    """Have what is logged to stderr printed by the live display, which moves below it."""
    with ExitStack() as after:
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream in (
                live.console.file, sys.__stderr__,
            ):  # fmt: skip
                after.callback(handler.setStream, handler.stream)
                handler.setStream(sys.stderr)  # which `live` has replaced
        yield
