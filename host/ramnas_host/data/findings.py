"""What a reader noticed in a folder of labelled pictures -> counts with a first example each."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass

log = logging.getLogger(__name__)

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Finding:
    """Something that was noticed in one part of a data set, `count` times.

    `part` is the name of that part for people: an annotation file or a folder. `what` says what was
    noticed and what was done about it, and `example` is the first case, or empty. `wrong` means
    that a network trained on the data would be wrong, or would be judged wrongly.
    """

    part: str
    what: str
    count: int
    example: str
    wrong: bool = False

    def __str__(self) -> str:
        """For people: `val/instances_val.json: boxes of no size, left out: 3, such as ...`."""
        text = f"{self.part}: {self.what}: {self.count}"
        return one_line(f"{text}, such as {self.example}" if self.example else text)


def one_line(text: str) -> str:
    """The text with every control character as in Python: `\\n` for the end of a line.

    File names and names of classes can have such characters, which would change a terminal.
    """
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


class Notes:
    """Counts what is noticed while one part of a data set is read, and keeps the first example."""

    def __init__(self, part: str) -> None:
        self._part = part
        self._found: dict[tuple[str, bool], tuple[int, str]] = {}

    def add(self, what: str, example: str, *, wrong: bool = False, count: int = 1) -> None:
        """Note `count` more cases of `what`; `example` is kept if it is the first one."""
        before, first = self._found.get((what, wrong), (0, example))
        self._found[what, wrong] = before + count, first

    def findings(self) -> tuple[Finding, ...]:
        """Everything that was noted, in the order in which it was first noticed."""
        return tuple(
            Finding(self._part, what, count, example, wrong)
            for (what, wrong), (count, example) in self._found.items()
        )


def log_findings(findings: Iterable[Finding]) -> None:
    """Log each finding as a warning, for a run that goes on all the same."""
    for finding in findings:
        log.warning("%s", finding)
