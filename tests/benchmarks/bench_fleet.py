"""Many simulated agents with CURVE against one real host: records per second, waits and memory.

The peer is the same host with one commit and one Ack per record.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from ramnas_edge.fleet import keys
from tests.benchmarks.fleet_sides import CLASSES

OFFERED = 2400.0  # records per second from all agents together
SECONDS, SETTLING_S = 20.0, 3.0
PROCESSES = 2  # that share the agents
BLOCK = 12


def run(
    *, agents: tuple[int, ...] = (10, 100, 1000), seconds: float = SECONDS, offered: float = OFFERED
) -> dict[str, float | str]:
    """Measure each number of `agents`, and the last one also with progress and with the peer."""
    found: dict[str, float | str] = {}
    for count in agents:
        found |= named(f"{count} agents", measured(count, seconds, offered))
    most = agents[-1]
    with_progress = measured(most, seconds, offered, progress=True)
    found |= named(f"{most} agents with progress", with_progress)
    peer = measured(most, seconds, offered, one_by_one=True)
    found |= named(f"peer, one commit a record, {most} agents", peer)
    ours = found[f"{most} agents: committed records/s"]
    assert isinstance(ours, float)
    found["ours / peer, committed records/s"] = ours / peer["committed records/s"]
    return found


def named(title: str, figures: dict[str, float]) -> dict[str, float]:
    return {f"{title}: {name}": value for name, value in figures.items()}


def measured(
    count: int, seconds: float, offered: float, *, progress: bool = False, one_by_one: bool = False
) -> dict[str, float]:
    """Run one host and `count` agents; the figures are of `seconds` after they have settled."""
    block_s = BLOCK * count / offered
    archs = int(1.3 * offered * (seconds + 2 * SETTLING_S) / CLASSES) + 12 * count // CLASSES
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        keys.new(folder, "host")
        keys.authorize(keys.new(folder, "board").with_suffix(".key"), folder / "authorized_keys")
        host = _start(
            "host", "--folder", name, "--archs", str(archs), *["--one-by-one"][: int(one_by_one)]
        )
        assert host.stdout
        endpoint = json.loads(host.stdout.readline())
        lines: list[list[float]] = []
        reader = threading.Thread(target=lambda: lines.extend(map(json.loads, host.stdout)))
        reader.start()
        share = -(-count // PROCESSES)
        fleet = [
            _start("agents", "--folder", name, "--endpoint", endpoint, "--first", str(first),
                   "--count", str(min(share, count - first)), "--block-s", str(block_s),
                   *["--progress"][: int(progress)])
            for first in range(0, count, share)
        ]  # fmt: skip
        try:
            while not (lines and lines[-1][1] >= 2 * count):  # almost all agents have sent records
                time.sleep(0.2)
            start_s = time.monotonic() + SETTLING_S
            time.sleep(SETTLING_S + seconds)
            end_s = time.monotonic()
            acks = [ack for side in fleet for ack in json.loads(side.communicate("\n")[0])]
        finally:
            for process in (*fleet, host):
                process.kill()
                process.wait()
            reader.join()
    return figures(lines, acks, start_s, end_s)


def figures(
    lines: list[list[float]], acks: list[list[float]], start_s: float, end_s: float
) -> dict[str, float]:
    inside = [line for line in lines if start_s <= line[0] <= end_s]
    first, last = inside[0], inside[-1]
    committed, spent_s = last[1] - first[1], last[0] - first[0]
    waits_ms = [1e3 * wait for at, wait in acks if start_s <= at <= end_s]
    return {
        "committed records/s": committed / spent_s,
        "p50 ack ms": float(np.percentile(waits_ms, 50)),
        "p99 ack ms": float(np.percentile(waits_ms, 99)),
        "host MiB": max(line[3] for line in inside),
        "host CPU us/record": 1e6 * (last[2] - first[2]) / committed,
        "host main thread us/record": 1e6 * (last[4] - first[4]) / committed,
    }


def _start(*command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.fleet_sides", *command],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


if __name__ == "__main__":
    count, offered = int(sys.argv[1]), float(sys.argv[2])
    for name, value in measured(count, 10.0, offered, progress="progress" in sys.argv[3:]).items():
        print(f"{name}: {value:.4g}")
