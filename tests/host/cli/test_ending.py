"""How the command `ramnas` ends by a signal: its agent and its measuring process end with it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.edge.cli.test_ending import GONE_S, measures, nobody_is_left

pytestmark = pytest.mark.usefixtures("default_signals")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_local_agent_does_not_stay_behind(number: signal.Signals, tmp_path: Path) -> None:
    running = subprocess.Popen(
        [sys.executable, "-m", "ramnas_host", "calibrate", "--samples", "40", "--classes", "10",
         "--store", str(tmp_path / "r.sqlite"), "--local-agent"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert running.stderr
    deadline_s = time.monotonic() + GONE_S
    while not measures(running.pid):  # a process of the agent, which is one of the host
        assert running.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    running.send_signal(number)
    errors = running.stderr.read() if number != signal.SIGKILL else ""
    running.stderr.close()
    assert running.wait() == (-number if number == signal.SIGKILL else 143), errors
    assert nobody_is_left(running.pid)
    assert "Traceback" not in errors + (tmp_path / "agent.log").read_text()
