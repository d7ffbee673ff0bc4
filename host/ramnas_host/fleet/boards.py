"""The boards as a host sees them: who is here, what each does, how fast."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from ramnas_edge.fleet import wire
from ramnas_host.fleet.refusals import shown
from ramnas_host.fleet.status import BoardStatus

RATE_S = 120.0  # a rate is over so long at most
LATE_S = 2.5 * wire.HEARTBEAT_S


class Rate:
    """Events per minute over the last RATE_S."""

    def __init__(self, now: float) -> None:
        self._marks: deque[tuple[float, int]] = deque([(now, 0)])
        self.total = 0

    def add(self, now: float) -> None:
        self.total += 1
        if now - self._marks[-1][0] >= 1.0:
            self._marks.append((now, self.total))
            while len(self._marks) > 2 and now - self._marks[0][0] > RATE_S:
                self._marks.popleft()

    def per_min(self, now: float) -> float:
        start_s, before = self._marks[0]
        return 60.0 * (self.total - before) / max(now - start_s, 1.0)


@dataclass
class Board:
    """One board by its routing id; times are the host's monotonic clock."""

    name: bytes
    rate: Rate
    board_id: str = ""
    session: str = ""
    user: str = ""  # the name of its key; empty without CURVE
    device_class: str = ""
    classes: set[str] = field(default_factory=set)  # that it has had: power modes change
    heard_s: float = 0.0
    sent_s: float = 0.0
    room: int = 0  # blocks that it would take now
    inside: float = 0.0  # archs that are measured but have no record yet
    temperature_c: float | None = None
    power_mode: str | None = None
    last_error: str = ""
    gone: bool = True

    def __post_init__(self) -> None:
        self.label = shown(self.name)

    def entered(self, hello: wire.Hello, device_class: str, user: str, now: float) -> None:
        self.board_id, self.session, self.user = hello.board, hello.session, user
        self.device_class = device_class
        self.classes.add(device_class)
        self.power_mode = _short(hello.device.power_mode)
        self.heard_s = self.sent_s = now
        self.room, self.inside, self.gone = 0, 0.0, False

    def left(self, reason: str) -> None:
        self.room, self.inside, self.gone, self.last_error = 0, 0.0, True, shown(reason, 200)

    def told(self, beat: wire.Heartbeat) -> None:
        self.room = beat.room
        self.temperature_c = beat.temperature_c
        self.power_mode = _short(beat.power_mode) or self.power_mode
        self.last_error = shown(beat.error, 200) if beat.error else ""

    def measured(self, now: float) -> None:
        self.rate.add(now)
        self.inside = max(0.0, self.inside - 1.0)

    def is_another(self, hello: wire.Hello, user: str, now: float) -> bool:
        """Whether that Hello is of another board with the same name, while this one is here."""
        ids = self.board_id and hello.board and self.board_id != hello.board
        return bool(not self.gone and now - self.heard_s < LATE_S and (ids or self.user != user))

    def state(self, leases: int, now: float) -> str:
        """In a word: gone, silent, paused (it says why), measuring, waiting."""
        if self.gone:
            return "gone"
        if now - self.heard_s > LATE_S:
            return "silent"
        if self.last_error and not self.room:
            return "paused"
        return "measuring" if leases else "waiting"

    def status(self, leases: int, now: float) -> BoardStatus:
        return BoardStatus(
            name=self.label,
            device_class=self.device_class,
            state=self.state(leases, now),
            done=self.rate.total,
            inside=self.inside,
            rate_per_min=self.rate.per_min(now),
            temperature_c=self.temperature_c,
            power_mode=self.power_mode,
            last_error=self.last_error,
        )


def _short(text: str | None) -> str | None:
    return None if text is None else shown(text)
