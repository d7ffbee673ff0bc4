"""The rows of the table: how a section sends them while it runs, and how they are shown."""

from __future__ import annotations

import json
import sys
import traceback
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Dict, Iterator, List, TextIO, Union

Figure = Union[float, int, str]
HEADER = "| section | what | outcome | figures |\n|---|---|---|---|"


class Skipped(Exception):
    """This machine lacks what a row needs; the message says what."""


@dataclass(frozen=True)
class Row:
    """One row of the table.

    `outcome` is `ok`, `failed`, `skipped` (the machine lacks something) or `unfinished` (the time
    was up). `note` says why, except for `ok`.
    """

    section: str
    case: str
    outcome: str
    figures: Dict[str, Figure] = field(default_factory=dict)
    note: str = ""

    def markdown(self) -> str:
        """The row as a line of a Markdown table."""
        parts = [f"{name} {_shown(value)}" for name, value in self.figures.items()]
        if self.note:
            parts.append(self.note)
        cells = (self.section, self.case, self.outcome, "; ".join(parts))
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _shown(value: Figure) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else value


class Rows:
    """Sends the rows of one section, each as a line of JSON, as soon as they are complete.

    A line that says which row comes next is sent before it, so that a process which is killed
    leaves a trace of what it was doing.
    """

    def __init__(self, section: str, stream: TextIO) -> None:
        self._section, self._stream = section, stream

    @contextmanager
    def row(self, case: str) -> Iterator[Dict[str, Figure]]:
        """Fill in a row's figures. An exception makes the row `failed` or `skipped` and ends it."""
        self._send({"begins": case})
        figures: Dict[str, Figure] = {}
        outcome, note = "ok", ""
        try:
            yield figures
        except Skipped as reason:
            outcome, note = "skipped", str(reason)
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            outcome, note = "failed", one_line(f"{type(error).__name__}: {error}")
        self._send(asdict(Row(self._section, case, outcome, figures, note)))

    def _send(self, content: Dict[str, object]) -> None:
        print(json.dumps(content), file=self._stream, flush=True)


def one_line(text: str) -> str:
    """The start of `text` without line breaks, for a note."""
    flat = " ".join(text.split())
    return flat if len(flat) <= 240 else f"{flat[:240]}..."


def markdown(rows: List[Row]) -> str:
    """The whole table."""
    return "\n".join([HEADER, *(row.markdown() for row in rows)]) + "\n"
