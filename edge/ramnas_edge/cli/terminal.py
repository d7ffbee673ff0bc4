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
import codecs
import contextlib
import errno
import io
import json
import logging
import os
import select
import signal
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Callable, Mapping, Sequence, Tuple

from ramnas_models.errors import RamnasError
from ramnas_models.signals import Ending, Stopped, stoppable

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
        allow_abbrev=False,  # --arch would be taken for --archs
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
    """Run a verb and return the exit code: 0, or 2 after an error, which is printed as one line.

    128 + the signal if Ctrl-C (130), SIGTERM (143) or SIGHUP (129) ended the verb, and 141 if the
    program that reads its output has ended. A mistake in ramnas itself keeps its traceback.
    """
    _fill_closed_streams()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    _escape_what_cannot_be_printed()
    with stoppable() as ending:
        code = _code_of(call, ending)
        if code:
            _stdout_failure()  # so that Python does not print it after the reason
            return code
        # a verb that Ctrl-C ends well, as it ends a camera, has not failed
        if ending.number in (None, signal.SIGINT):
            return _stdout_failure()
        return _said(str(Stopped(ending.number)), 128 + ending.number)


def _fill_closed_streams() -> None:
    """Have stdin, stdout and stderr lead nowhere if they were closed, as by `2>&-` or a daemon.

    Otherwise the next files that are opened, such as the store of records, would get their
    numbers, and what libraries print would be written into them.
    """
    number = 0
    while number <= 2:
        number = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
        if number <= 2:
            os.set_inheritable(number, True)
    os.close(number)
    if sys.stderr is None:  # `print` would write to stdout in its place
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for the rest of the process


def _code_of(call: Callable[[], None], ending: Ending) -> int:
    try:
        call()
    except RamnasError as error:
        return _said(f"error: {error}", 128 + ending.number if ending.number else 2)
    except KeyboardInterrupt as error:
        return _said(str(error) or "interrupted", 128 + (ending.number or signal.SIGINT))
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            return 128 + signal.SIGPIPE
        where = error.filename or "reading or writing failed"
        reason = _limit(error) or f"{where}: {error.strerror or error}"
        return _stdout_failure() or _said(f"error: {reason}", 2)
    except MemoryError:
        return _said("error: out of memory; end other programs, or ask for less at a time", 2)
    except Exception as error:
        if ending.number is None:
            reason = _limit(error)
            if not reason:
                raise
            return _said(f"error: {reason}", 2)
        # what libraries make of a signal that comes while they import or wait
        return _said(f"ended by {signal.Signals(ending.number).name}", 128 + ending.number)
    return 0


def _limit(error: Exception) -> str:
    """The limit of this process that `error` is about, and the way out; empty if it is no limit."""
    if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):  # also what ZeroMQ raises
        return "too many open files; raise the limit with ulimit -n"
    if isinstance(error, RuntimeError) and str(error) == "can't start new thread":
        return (
            "no more threads can be started; raise the limit of ulimit -u, docker --pids-limit, "
            "or TasksMax= of systemd"
        )
    return ""


def _said(line: str, code: int) -> int:
    """Print a line on stderr, if it can be written, and return `code`."""
    with contextlib.suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)
    return code


def _stdout_failure() -> int:
    """The exit code if what was printed cannot be written, with the reason on stderr, or else 0."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        # Python writes it once more at its end, and must not fail again
        with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # as with `| head`, where nothing is wrong
            return 128 + signal.SIGPIPE
        return _said(f"error: cannot write to stdout: {error.strerror}", 2)
    return 0


def _reader_is_gone() -> bool:
    """Whether stdout is a pipe that nobody reads any more; flushing it again need not fail."""
    poll = select.poll()
    with contextlib.suppress(AttributeError, OSError, ValueError):  # there may be no stdout
        poll.register(sys.stdout.fileno(), 0)
    return any(what & select.POLLERR for _, what in poll.poll(0))


def _escape_what_cannot_be_printed() -> None:
    """Print characters that the encoding of stdout lacks as JSON writes them: \\u00e4."""

    def escaped(error: UnicodeError) -> Tuple[str, int]:
        assert isinstance(error, UnicodeEncodeError)
        return json.dumps(error.object[error.start : error.end])[1:-1], error.end

    codecs.register_error("as json", escaped)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="as json")


class ProgressLine:
    """How far a long verb is, on stderr.

    On a terminal the line is rewritten in place; elsewhere, in a log, a new one appears every 30 s.
    Where stderr is closed, or on a full disk, the verb goes on without it.
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
        self._print(f"\r{line:79}" if self._terminal else f"{line}\n")

    def end(self) -> None:
        """Leave the line on the terminal and go on below it."""
        if self._terminal:
            self._print("\n")

    @staticmethod
    def _print(text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            print(text, end="", file=sys.stderr, flush=True)
