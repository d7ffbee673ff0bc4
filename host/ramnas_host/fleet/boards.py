"""The boards that take part in a request: who joins, who leaves, and what each of them does."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field

import msgspec

from ramnas_edge.fleet import wire
from ramnas_edge.measuring.request import Request
from ramnas_edge.measuring.store import Store
from ramnas_host.fleet.dispatch import ClassStatus, Lease, Queue
from ramnas_host.fleet.peer_log import PeerLog, printable
from ramnas_models.errors import FleetError

MAX_BOARDS, MAX_CLASSES = 10_000, 32
MAX_CLASS_NAME = 200  # characters
PATIENCE_S = 60.0  # how long the host waits for boards of a class that may not come (again)
RATE_S = 120.0  # a rate is taken over this time at most
LATE_S = 2.5 * wire.HEARTBEAT_S  # a board that is silent for longer is shown as silent


class BoardStatus(msgspec.Struct):
    """What is shown of a board; `temperature_c` and `power_mode` are None without such a sensor."""

    name: str
    device_class: str
    state: str = ""  # measuring, waiting, paused, silent or gone
    done: int = 0  # records
    inside: float = 0.0  # archs of its block that are measured but have no record yet
    rate_per_min: float = 0.0
    temperature_c: float | None = None
    power_mode: str | None = None
    last_error: str = ""


class Status(msgspec.Struct, frozen=True):
    """How a calibration stands; `done` and `total` count archs."""

    run: str
    done: int
    total: int
    rate_per_min: float = 0.0
    left_s: float | None = None  # None while nobody can tell
    refused: dict[str, int] = {}  # how many messages and peers, by reason
    classes: list[ClassStatus] = []
    boards: list[BoardStatus] = []


@dataclass(eq=False)
class Board:
    """A board as the host sees it; times are those of the host's monotonic clock."""

    name: bytes  # its routing id
    queue: Queue  # of its device class
    came_s: float = 0.0  # when it came first
    gone: bool = True
    board_id: str = ""
    session: str = ""
    key: str = ""  # its public key; empty without CURVE
    classes: set[str] = field(default_factory=set)  # all that it had: its power mode may change
    leases: dict[str, Lease] = field(default_factory=dict)  # by block id, first the one at work
    heard_s: float = 0.0
    sent_s: float = 0.0
    room: int = 0  # how many more blocks it would take
    _done_s: deque[float] = field(default_factory=deque)  # when its last records came

    def __post_init__(self) -> None:
        self.shown = BoardStatus(printable(self.name), self.queue.name)

    def enter(self, hello: wire.Hello, queue: Queue, key: str, now: float) -> None:
        self.board_id, self.session, self.key = hello.board, hello.session, key
        self.queue = queue
        self.classes.add(queue.name)
        self.heard_s = self.sent_s = now
        self.room, self.gone = 0, False
        self.shown.device_class, self.shown.inside = queue.name, 0.0
        self.shown.power_mode = printable(hello.device.power_mode or "") or None

    def beat(self, beat: wire.Heartbeat) -> None:
        self.room = beat.room
        self.shown.temperature_c = beat.temperature_c
        self.shown.power_mode = printable(beat.power_mode or "") or self.shown.power_mode
        self.shown.last_error = printable(beat.error, 200)

    def recorded(self, now: float) -> None:
        self._done_s.append(now)
        self.shown.done += 1
        self.shown.inside = max(0.0, self.shown.inside - 1.0)

    def rate_per_min(self, now: float) -> float:
        """Records per minute over the last RATE_S, or since the board came."""
        while self._done_s and now - self._done_s[0] > RATE_S:
            self._done_s.popleft()
        return 60.0 * len(self._done_s) / min(max(now - self.came_s, 1.0), RATE_S)

    def is_another(self, hello: wire.Hello, key: str, now: float) -> bool:
        """Whether a Hello with this name comes from another board, while this one is still here."""
        ids = self.board_id and hello.board and self.board_id != hello.board
        return bool(not self.gone and now - self.heard_s < LATE_S and (ids or self.key != key))

    def state(self, now: float) -> str:
        """The word for what it does; `last_error` says why it is paused."""
        if self.gone:
            return "gone"
        if now - self.heard_s > LATE_S:
            return "silent"
        if self.shown.last_error and not self.room:
            return "paused"
        return "measuring" if self.leases else "waiting"

    def status(self, now: float) -> BoardStatus:
        return msgspec.structs.replace(
            self.shown, state=self.state(now), rate_per_min=self.rate_per_min(now)
        )


class Roster:
    """The boards that have come, by routing id, and the queues of their device classes, by name."""

    def __init__(self, request: Request, store: Store, peer_log: PeerLog, now: float) -> None:
        self.request, self.store, self.peer_log = request, store, peer_log
        self.boards: dict[bytes, Board] = {}
        self.queues: dict[str, Queue] = {}
        # the boards of an earlier host that was killed are on their way back
        recorded = store.keys(request.run)
        for device_class in sorted({key[4] for key in recorded}):
            queue = Queue(request, device_class, recorded)
            if queue.recorded and not queue.done:
                queue.gone_s = now
                self.queues[device_class] = queue

    def here(self) -> list[Board]:
        return [board for board in self.boards.values() if not board.gone]

    def admit(self, name: bytes, hello: wire.Hello, key: str, now: float) -> Board:
        """Let a board take part, for the first time or again; FleetError says why it cannot."""
        device_class = self._device_class(hello)
        board = self.boards.get(name)
        if board and board.is_another(hello, key, now):
            shown = printable(name)
            raise FleetError(f"another board here is called {shown}; give it another --name")
        if board is None and len(self.boards) >= MAX_BOARDS:
            self._forget_board()
        queue = self.queues.get(device_class)
        if queue is None:
            if len(self.queues) >= MAX_CLASSES:
                self._forget_class()
            recorded = self.store.keys(self.request.run, device_class)
            queue = self.queues[device_class] = Queue(self.request, device_class, recorded)
        if board is None:
            board = self.boards[name] = Board(name, queue, now)
        if not board.gone and board.session != hello.session:
            self.remove(board, "it was started again", now, died=True)
        elif not board.gone and board.queue is not queue:
            self.remove(board, "its device class changed", now, died=False)
        if board.gone:
            queue.boards += 1
            queue.came = True
            self.peer_log.say(logging.INFO, "board %s joined: %s", board.shown.name, queue.name)
        board.enter(hello, queue, key, now)
        return board

    def remove(self, board: Board, reason: str, now: float, *, died: bool) -> None:
        """Note that a board is gone. `died`: it did not say goodbye."""
        shown, reason = board.shown, printable(reason, 200)
        self.peer_log.say(logging.WARNING, "board %s has gone: %s", shown.name, reason)
        board.queue.release(board, died=died)
        board.queue.boards -= 1
        board.queue.gone_s = now
        board.room, board.gone, shown.inside, shown.last_error = 0, True, 0.0, reason

    def done(self, now: float) -> bool:
        """Whether all is measured. A class that left without a record, or that only an earlier host
        saw, is waited for no longer than PATIENCE_S."""
        queues = self.queues.values()
        served = {queue for queue in queues if queue.boards or (queue.came and queue.recorded)}
        waited_for = served.union(q for q in queues if now - q.gone_s < PATIENCE_S)
        return any(queue.came for queue in queues) and all(queue.done for queue in waited_for)

    def status(self, now: float) -> Status:
        queues, boards = self.queues.values(), self.boards.values()
        done = sum(queue.recorded for queue in queues)
        total = sum(len(queue.archs) for queue in queues)
        rate = sum(board.rate_per_min(now) for board in boards)
        return Status(
            run=self.request.run, done=done, total=total, rate_per_min=rate,
            left_s=60.0 * (total - done) / rate if rate else None,
            refused=self.peer_log.refused(),
            classes=[queue.status() for queue in queues],
            boards=[board.status(now) for board in boards],
        )  # fmt: skip

    def _device_class(self, hello: wire.Hello) -> str:
        engines, engine = dict(hello.engines), self.request.target.engine
        if hello.protocol != wire.PROTOCOL:
            raise FleetError(f"it speaks protocol {hello.protocol}, this host {wire.PROTOCOL}")
        if engine not in engines:
            raise FleetError(f"it has no {engine}, only {', '.join(engines) or 'no engine'}")
        device_class = hello.device.class_key(engine, engines[engine])
        if len(device_class) > MAX_CLASS_NAME:
            raise FleetError(f"its device class is longer than {MAX_CLASS_NAME} characters")
        return device_class

    def _forget_board(self) -> None:
        gone = next((board.name for board in self.boards.values() if board.gone), None)
        if gone is None:
            raise FleetError(f"this host has {MAX_BOARDS} boards already")
        del self.boards[gone]

    def _forget_class(self) -> None:
        empty = [queue for queue in self.queues.values() if not queue.boards and not queue.recorded]
        if not empty:
            raise FleetError(f"this host has {MAX_CLASSES} device classes already")
        del self.queues[min(empty, key=lambda queue: queue.gone_s).name]
