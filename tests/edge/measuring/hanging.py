"""Measuring processes that really hang, and a clock that does not let a test wait for that."""

from __future__ import annotations

import time
from pathlib import Path
from typing import List

import psutil
import pytest

from ramnas_models.space import Arch

# Python imports this module in every process that it starts. It hangs as an engine does whose
# threads wait for each other: for ever, and deaf to every signal that can be ignored.
SITECUSTOMIZE = """
import os, signal, sys, time
from ramnas_edge.measuring import profiler, runner

def hang():
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, signal.NSIG))
    open(os.path.join({folder!r}, str(os.getpid())), "w").close()
    time.sleep(10**6)

class Runner(runner.Runner):
    def __init__(self, backend, arch, *more):
        self.hangs = arch.id == {arch!r}
        if self.hangs and {where!r} == "open":
            hang()
        super().__init__(backend, arch, *more)

    def warm_up(self, *more):
        if self.hangs:
            hang()
        super().warm_up(*more)

profiler.Runner = Runner
if {where!r} == "start":
    hang()
"""


class Hanging:
    """Makes the measuring processes that start from now on hang with one arch.

    `clock()` is the machine's clock, but a minute passes at each look while a process hangs.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, where: str, arch: Arch) -> None:
        """`where`: at the `start` of a process, when it is to `open` the arch, or to `visit` it."""
        self._folder, self._ahead_s = folder / "hung", 0.0
        self._folder.mkdir()
        text = SITECUSTOMIZE.format(folder=str(self._folder), where=where, arch=arch.id)
        (folder / "sitecustomize.py").write_text(text)
        patch.setenv("PYTHONPATH", str(folder))

    def clock(self) -> float:
        if any(psutil.pid_exists(process) for process in self.processes):
            self._ahead_s += 60.0
        return time.monotonic() + self._ahead_s

    @property
    def processes(self) -> List[int]:
        """The ids of all that have hung, ended ones too."""
        return [int(file.name) for file in self._folder.iterdir()]

    @property
    def ended(self) -> bool:
        return not any(psutil.pid_exists(process) for process in self.processes)
