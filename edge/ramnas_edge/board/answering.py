"""What the sources of telemetry of this board answer now, in words."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Iterable

import msgspec

from ramnas_edge.board import sensors


class Sensor(msgspec.Struct, frozen=True):
    """A source of telemetry and what it answers, such as `acpitz 41.0 C`; empty: nothing."""

    name: str
    says: str


def answers(root: Path) -> Iterable[Sensor]:
    """jtop's service, and what the kernel's files say now."""
    if importlib.util.find_spec("jtop"):  # not imported: it changes how processes start
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
