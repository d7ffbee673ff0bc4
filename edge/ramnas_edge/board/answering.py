"""The telemetry sources of this board -> what each of them reads at this moment, in words."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Iterable

import msgspec

from ramnas_edge.board import sensors


class Sensor(msgspec.Struct, frozen=True):
    """A telemetry source and what it says now, such as `acpitz 41.0 C`; empty if no answer."""

    name: str
    says: str


def answers(root: Path) -> Iterable[Sensor]:
    """Look for jtop's service and read the kernel's files below `root`."""
    if importlib.util.find_spec("jtop"):  # an import would change how processes start
        there = (root / "run/jtop.sock").exists()
        yield Sensor("jtop", "service is running" if there else "")
    for name, look, unit in (
        ("temperatures", sensors.temperature_c, "C"),
        ("clocks", sensors.clock_mhz, "MHz"),
        ("power rails", sensors.power_mw, "mW"),
    ):
        found = look(root).items()
        yield Sensor(name, ", ".join(f"{key} {value:.1f} {unit}" for key, value in found))
    limits = sensors.Changes(root).limits()
    if limits:
        yield Sensor("clocks held back by", ", ".join(limits))
