"""nvpmodel's files, or else the tool itself -> a Jetson's power modes and the current one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Dict, NamedTuple, Optional, Tuple

from ramnas_edge.board.sensors import read

_MODE = re.compile(r"POWER_MODEL:? ID=(\d+) NAME=(\w+)")
_NOW = re.compile(r"NV Power Mode: *(\w+)")


class Mode(NamedTuple):
    """A power mode; `layout` says which cores and which parts of the GPU are on.

    Only a reboot can change the layout.
    """

    id: int
    layout: Tuple[str, ...]


def modes(root: Path) -> Dict[str, Mode]:
    """The modes by name, from nvpmodel.conf or else from the tool; empty without nvpmodel."""
    text = read(root / "etc/nvpmodel.conf") or _ask(root, "-p", "--verbose")
    found = {}
    starts = [*_MODE.finditer(text)]
    for start, end in zip(starts, [*(m.start() for m in starts[1:]), len(text)]):
        body = text[start.end() : end]
        layout = re.findall(r"(CPU_ONLINE .+?|\w+_PG_MASK .+?)\s*$", body, re.MULTILINE)
        found[start.group(2)] = Mode(int(start.group(1)), tuple(sorted(layout)))
    return found


def mode_now(root: Path, known: Dict[str, Mode]) -> Optional[str]:
    """The name of the mode in nvpmodel's status file; None if it is unknown.

    `known` are the board's `modes`. They do not change, so read them once.
    """
    kept = re.search(r"pmode:(\d+)", read(root / "var/lib/nvpmodel/status"))
    names = {mode.id: name for name, mode in known.items()}
    return names.get(int(kept.group(1))) if kept else None


def ask_mode(root: Path) -> Optional[str]:
    """The current mode's name, from files or else from the tool (too slow for every sample)."""
    now = mode_now(root, modes(root))
    asked = None if now else _NOW.search(_ask(root, "-q"))
    return asked.group(1) if asked else now


def tool(root: Path, name: str) -> Optional[str]:
    """The path of NVIDIA's tool `nvpmodel` or `jetson_clocks`; None if it is not installed."""
    places = [root / f"usr/sbin/{name}", root / f"usr/bin/{name}", root / f"home/nvidia/{name}.sh"]
    for place in places:
        if os.access(place, os.X_OK):
            return str(place)
    return shutil.which(name) if root == Path("/") else None


def _ask(root: Path, *options: str) -> str:
    program = tool(root, "nvpmodel")
    if not program:
        return ""
    try:
        asked = subprocess.run(
            [program, *options], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return asked.stdout
