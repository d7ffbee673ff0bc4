"""jtop's service -> one JSON line per sample on stdout: `python -m ramnas_edge.board.jtop_monitor`.

This runs in a process of its own, because jtop is optional, licensed under AGPL-3.0, sets
multiprocessing's start method on import, and may hang with its service. The process ends when its
stdin closes or its parent dies. The first line is `{"source", "interval_s"}`; then come samples
with the fields of `telemetry.Sample`. The last line before exit code 1 is `{"error"}`.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict

from ramnas_edge.board import sensors


def main() -> int:
    interval_s, root = float(sys.argv[1]), Path(sys.argv[2])
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # keep what jtop prints away from the samples
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C

    def send(line: Dict[str, Any]) -> None:
        out.write(json.dumps(line) + "\n")

    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    try:
        _watch(interval_s, root, send)
    except Exception as error:  # jtop raises errors of sockets, of pickles and of its own
        send({"error": " ".join(str(error).split()) or type(error).__name__})
    return 1


def _watch(interval_s: float, root: Path, send: Callable[[Dict[str, Any]], None]) -> None:
    import jtop  # type: ignore[import-untyped,unused-ignore]

    changes, last = sensors.Changes(root), None
    with jtop.jtop(interval=interval_s) as jetson:
        # the first client of the service sets the interval for all clients
        interval_s = max(interval_s, jetson.interval)
        send({"source": f"jtop {jtop.__version__}", "interval_s": interval_s})
        # without spin, ok() ends for good when a busy board answers late
        while jetson.ok(spin=True):
            uptime = jetson.uptime
            if uptime != last:  # a service that hangs repeats its last answer
                send(_sample(jetson, root, changes))
            last = uptime
            time.sleep(interval_s / 4)
    raise RuntimeError("the service stopped answering")


def _sample(jetson: Any, root: Path, changes: sensors.Changes) -> Dict[str, Any]:
    """The fields of a Sample, without those that the board or this version of jtop lacks."""
    gpus = [*_get(jetson, "gpu").values()]
    gpu = gpus[0] if gpus else {}
    cpu, memory, power = (_get(jetson, name) for name in ("cpu", "memory", "power"))
    khz = {
        "cpu": max((c.get("freq", {}).get("cur", 0) for c in cpu.get("cpu", ())), default=0),
        "gpu": gpu.get("freq", {}).get("cur"),
        "emc": memory.get("EMC", {}).get("cur"),
    }
    load = changes.load_percent()  # jtop's load of the cores is at times a mean since the start
    if "load" in gpu.get("status", {}):
        load["gpu"] = gpu["status"]["load"]
    rails = {name: rail.get("power") for name, rail in power.get("rail", {}).items()}
    total = power.get("tot", {})
    if "name" in total:  # jtop takes the board's input rail out of the list and makes it the total
        rails[total["name"]] = total.get("power")
    rails["total"] = total.get("power")
    used_kib = memory.get("RAM", {}).get("used")
    return {
        "time_s": time.monotonic(),
        "temperature_c": {
            name: sensor["temp"]
            for name, sensor in _get(jetson, "temperature").items()
            if sensor.get("online", True) and "temp" in sensor
        },
        "clock_mhz": {unit: value / 1000 for unit, value in khz.items() if value},
        "load_percent": load,
        "memory_used_mib": None if used_kib is None else used_kib / 1024,
        "power_mw": {rail: float(value) for rail, value in rails.items() if value is not None},
        "power_mode": _power_mode(jetson),
        "limits": changes.limits(),  # jtop does not report these
        "clocks_locked": sensors.clocks_locked(root),
    }


def _get(jetson: Any, name: str) -> Dict[str, Any]:
    """A property of jtop as a dict; empty if it is missing or raises, as many of them do."""
    try:
        return dict(getattr(jetson, name) or {})
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}


def _power_mode(jetson: Any) -> Any:
    try:
        return jetson.nvpmodel.name
    except (AttributeError, KeyError, TypeError):
        return None


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        readable, _, _ = select.select([0], [], [], 1.0)
        if readable and not os.read(0, 1):
            break
    os._exit(0)  # the main thread may hang in the service


if __name__ == "__main__":
    sys.exit(main())
