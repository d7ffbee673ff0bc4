"""What both command lines share: how verbs present themselves, how errors end, and progress.

A verb's file adds the verb with `add_verb`; the file with `main` then groups them all:

    parser = argparse.ArgumentParser(prog="ramnas-edge", description="What it is for.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    doctor.add(verbs)
    run.add(verbs)
    group_verbs(parser, verbs, {"look at this board": ["doctor"], "run a bundle": ["run"]})

and in doctor.py:

    def add(verbs: Verbs) -> None:
        doctor = add_verb(
            verbs, "doctor",
            help="find out what works here",
            purpose="Tries every engine and sensor, and says how to repair those that fail.",
            example="ramnas-edge doctor --json",
        )
        doctor.add_argument(...)

A verb with verbs of its own (`keys new`) does the same one level down.
"""

from __future__ import annotations

import argparse
import logging
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Callable, Mapping, Sequence

from ramnas_models.errors import RamnasError

if TYPE_CHECKING:  # what parser.add_subparsers() returns; not subscriptable in Python 3.8
    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Verbs = argparse._SubParsersAction

_WIDTH = 79  # columns of the text that argparse does not wrap
_INDENT = 18  # columns before the short help of a verb


def add_verb(
    verbs: Verbs, name: str, *, help: str, purpose: str, example: str
) -> argparse.ArgumentParser:
    """Add the verb `name` and return its parser, which has no options yet.

    `help` is its line in the overview. `purpose`, one or two sentences, opens the verb's own
    --help; `example`, one command line, closes it.
    """
    return verbs.add_parser(
        name,
        help=help,
        description=textwrap.fill(purpose, _WIDTH),
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def group_verbs(
    parser: argparse.ArgumentParser,
    verbs: Verbs,
    groups: Mapping[str, Sequence[str]],
) -> None:
    """Have `parser --help` list all its verbs by group: heading -> names, in that order.

    argparse itself can only print one flat list, so that list is hidden and the groups become part
    of the description. Call this after every verb has been added: ValueError if a verb is in no
    group.
    """
    # argparse expands % in help texts, so that callers write %% everywhere
    helps = {action.dest: (action.help or "") % {} for action in verbs._choices_actions}
    left_out = set(helps) - {name for names in groups.values() for name in names}
    if left_out:
        raise ValueError(f"these verbs are in no group: {', '.join(sorted(left_out))}")
    parts = [textwrap.fill(parser.description or "", _WIDTH)]
    for heading, names in groups.items():
        lines = [_overview_line(name, helps[name]) for name in names]
        parts.append("\n".join([f"{heading}:", *lines]))
    parts.append(f"`{parser.prog} {verbs.metavar} --help` explains one of them, with an example.")
    parser.description = "\n\n".join(parts)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    # a hidden argument would disappear from the usage line too
    parser.usage = f"%(prog)s [-h] {verbs.metavar} ..."
    verbs.help = argparse.SUPPRESS


def _overview_line(name: str, help: str) -> str:
    return textwrap.fill(
        help,
        _WIDTH,
        initial_indent=f"  {name}".ljust(_INDENT - 1) + " ",
        subsequent_indent=" " * _INDENT,
    )


def guarded(call: Callable[[], None]) -> int:
    """Run a verb and return the exit code: 0, 2 after a RamnasError, 130 after Ctrl-C.

    A RamnasError is printed as one line without its traceback.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        call()
    except RamnasError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


class ProgressLine:
    """How far a long verb is, on stderr.

    On a terminal the line is rewritten in place; elsewhere, in a log, a new one appears every 30 s.
    """

    def __init__(self, name: str) -> None:
        self._name, self._start, self._last = name, time.monotonic(), float("-inf")
        self._terminal = sys.stderr.isatty()

    def show(self, done: float, total: int, note: str = "") -> None:
        """Print the line, unless the last one is too recent."""
        now = time.monotonic()
        if now - self._last < (0.2 if self._terminal else 30.0):
            return
        self._last = now
        spent_s = now - self._start
        line = f"{self._name}: {done:.0f} of {total} after {spent_s:.0f} s {note}".rstrip()
        print(f"\r{line:79}" if self._terminal else line, end="" if self._terminal else "\n",
              file=sys.stderr, flush=True)  # fmt: skip

    def end(self) -> None:
        """Leave the line on the terminal and go on below it."""
        if self._terminal:
            print(file=sys.stderr)
