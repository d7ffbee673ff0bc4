"""jtop, the kernel's files or psutil -> Samples of the board's state while it works.

`conditions` sums samples up for a record; `disturbance` says in words what spoils a measurement.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections import deque
from pathlib import Path
from typing import (
    Any,
    Callable,
    Deque,
    Dict,
    Iterable,
    List,
    Optional,
    Sequence,
    Tuple,
    TypeVar,
)

import msgspec

from ramnas_edge.board.cores import Quota, Throttling
from ramnas_edge.board.readers import Jtop, Reader, without_jtop

log = logging.getLogger(__name__)
Value = TypeVar("Value")

_KEPT = 7200  # an hour of samples at the usual interval
_FALL = 0.9  # a clock has fallen when it is at most this share of its level
_STEADY = 3  # a level needs this many samples, a fall this many in a row


class Sample(msgspec.Struct, frozen=True):
    """One look at the board. What it does not show is absent, never zero.

    In `clock_mhz`, `cpu` is the fastest core. `power_mw` has the rails as the board names them, and
    `total` if jtop knows it. `limits` is what holds the clocks back now, as the kernel says.
    `quota` counts the periods of this process's CPU quota, and those in which it was stopped.
    """

    time_s: float  # time.monotonic() of this board
    temperature_c: Dict[str, float] = {}
    clock_mhz: Dict[str, float] = {}
    load_percent: Dict[str, float] = {}
    memory_used_mib: Optional[float] = None
    power_mw: Dict[str, float] = {}
    power_mode: Optional[str] = None
    limits: Tuple[str, ...] = ()
    clocks_locked: Optional[bool] = None
    quota: Optional[Throttling] = None


class Conditions(msgspec.Struct, frozen=True):
    """Samples summed up: hottest temperatures, median clocks, mean loads, memory and power.

    `power_mode` and `clocks_locked` are the last known ones; `limits` are all that were seen.
    `quota` counts from the first sample to the last.
    """

    source: str
    samples: int
    temperature_c: Dict[str, float] = {}
    clock_mhz: Dict[str, float] = {}
    load_percent: Dict[str, float] = {}
    memory_used_mib: Optional[float] = None
    power_mw: Dict[str, float] = {}
    power_mode: Optional[str] = None
    limits: Tuple[str, ...] = ()
    clocks_locked: Optional[bool] = None
    quota: Optional[Throttling] = None


def conditions(samples: Sequence[Sample], source: str) -> Optional[Conditions]:
    """Sum up `samples` from `source`; None if there are none."""
    if not samples:
        return None
    memory = [s.memory_used_mib for s in samples if s.memory_used_mib is not None]
    return Conditions(
        source=source,
        samples=len(samples),
        temperature_c=_by_name((s.temperature_c for s in samples), max),
        clock_mhz=_by_name((s.clock_mhz for s in samples), statistics.median),
        load_percent=_by_name((s.load_percent for s in samples), statistics.mean),
        memory_used_mib=statistics.mean(memory) if memory else None,
        power_mw=_by_name((s.power_mw for s in samples), statistics.mean),
        power_mode=_last(s.power_mode for s in samples),
        limits=tuple(dict.fromkeys(limit for s in samples for limit in s.limits)),
        clocks_locked=_last(s.clocks_locked for s in samples),
        quota=_increase([s.quota for s in samples if s.quota]),
    )


def disturbance(during: Sequence[Sample], before: Sequence[Sample], unit: str) -> str:
    """One sentence on why latencies measured `during` cannot be trusted; empty if all was well.

    `before` gives the levels to compare with, best from a board that is already at work. `unit` is
    `cpu` or `gpu`. A free-running governor changes clocks all the time. So a fall of the clock
    counts only if it lasts, goes below every clock seen before, and comes under load while the
    board gets hotter.
    """
    both = [*before, *during]
    modes = _distinct(s.power_mode for s in both)
    if len(modes) > 1:
        return f"the power mode changed from {modes[0]} to {modes[1]}"
    locks = _distinct(s.clocks_locked for s in both)
    if len(locks) > 1:
        return (
            "the clocks were locked meanwhile" if locks[1] else "the clocks were unlocked meanwhile"
        )
    # on some boards a limit is active all the time, so only a new one is a throttle
    always = set.intersection(*(set(s.limits) for s in before or during)) if both else set()
    new = list(dict.fromkeys(x for s in during for x in s.limits if x not in always))
    if new:
        return f"throttled: {', '.join(new)} became active"
    return _fall(during, before, unit)


def _fall(during: Sequence[Sample], before: Sequence[Sample], unit: str) -> str:
    clocks = [s.clock_mhz[unit] for s in before if unit in s.clock_mhz]
    heat = [max(s.temperature_c.values()) for s in before if s.temperature_c]
    if len(clocks) < _STEADY or not heat:
        return ""
    level, lowest, warm = statistics.median(clocks), min(clocks), statistics.mean(heat)
    busy = statistics.median([s.load_percent.get(unit, 100.0) for s in before]) / 2
    fallen: List[float] = []
    for sample in during:
        clock = sample.clock_mhz.get(unit)
        if (
            clock is not None
            and clock <= _FALL * level
            and clock < lowest
            and sample.load_percent.get(unit, 100.0) >= busy
            and max(sample.temperature_c.values(), default=warm) > warm
        ):
            fallen.append(clock)
        else:
            fallen = []
        if len(fallen) == _STEADY:
            hot = max(sample.temperature_c.values())
            return (
                f"throttled: the {unit} clock fell from {level:.0f} to "
                f"{statistics.median(fallen):.0f} MHz while the board went from {warm:.0f} to "
                f"{hot:.0f} degrees"
            )
    return ""


class Telemetry:
    """Takes about one Sample of this board per interval; use it in a `with` block or `close` it.

    `source` is where samples come from now: `jtop 7.2.2`, `sysfs`, `psutil` or `none`. If jtop is
    missing on a Jetson, dies or hangs, one warning is logged and the next source takes over.
    """

    def __init__(self, root: Path, interval_s: float) -> None:
        self._root, self._interval_s, self._quota = root, interval_s, Quota(root)
        self._samples: Deque[Sample] = deque(maxlen=_KEPT)
        self._due_s = 0.0
        jetson = (root / "etc/nv_tegra_release").exists() or (root / "run/jtop.sock").exists()
        self._reader: Optional[Reader] = Jtop(root, interval_s) if jetson else without_jtop(root)
        self.poll()

    @classmethod
    def open(cls, *, root: Path = Path("/"), interval_s: float = 0.5) -> Telemetry:
        """Open the best source; jtop may take seconds. A board without sensors is not an error."""
        return cls(root, interval_s)

    @property
    def source(self) -> str:
        return self._reader.source if self._reader else "none"

    def poll(self) -> None:
        """Take what jtop has sent, or read the sensors if an interval has passed; never waits."""
        if isinstance(self._reader, Jtop):
            self._take()
            if not self._reader.trouble:
                return
            trouble = self._reader.trouble
            self._reader.close()
            self._reader = without_jtop(self._root)
            log.warning("telemetry comes from %s, not from jtop: %s", self.source, trouble)
        if time.monotonic() >= self._due_s:
            self._take()
            self._due_s = time.monotonic() + self._interval_s

    def between(self, start_s: float, end_s: float) -> List[Sample]:
        """The samples between two `time.monotonic()` times, oldest first; an hour is kept."""
        self.poll()
        return [s for s in self._samples if start_s <= s.time_s <= end_s]

    def close(self) -> None:
        """End jtop's monitor; the samples stay available."""
        if isinstance(self._reader, Jtop):
            self._reader.close()
        self._reader = None

    def __enter__(self) -> Telemetry:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()

    def _take(self) -> None:
        if self._reader:
            quota = self._quota.throttling()
            self._samples.extend(Sample(**fields, quota=quota) for fields in self._reader.read())


def _by_name(
    looks: Iterable[Dict[str, float]], sum_up: Callable[[List[float]], float]
) -> Dict[str, float]:
    values: Dict[str, List[float]] = {}
    for look in looks:
        for name, value in look.items():
            values.setdefault(name, []).append(value)
    return {name: sum_up(found) for name, found in values.items()}


def _increase(counts: Sequence[Throttling]) -> Optional[Throttling]:
    if not counts:
        return None
    first, last = counts[0], counts[-1]
    return Throttling(last.periods - first.periods, last.throttled - first.throttled)


def _distinct(values: Iterable[Optional[Value]]) -> List[Value]:
    return list(dict.fromkeys(value for value in values if value is not None))


def _last(values: Iterable[Optional[Value]]) -> Optional[Value]:
    found = [value for value in values if value is not None]
    return found[-1] if found else None
