"""The boards that take part in a request: who comes, who goes, what each does, how far all is."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field

from ramnas_edge.fleet import wire
from ramnas_edge.measuring.request import Request
from ramnas_edge.measuring.store import Store
from ramnas_host.fleet.dispatch import Lease, Queue
from ramnas_host.fleet.peer_log import PeerLog, printable
from ramnas_host.fleet.status import BoardStatus, Status
from ramnas_models.errors import FleetError

MAX_BOARDS, MAX_CLASSES = 10_000, 32
MAX_CLASS_NAME = 200
PATIENCE_S = 60.0  # with a class whose boards have all gone before their first record
RATE_S = 120.0  # a rate is over this time at most
LATE_S = 2.5 * wire.HEARTBEAT_S


@dataclass(eq=False)
class Board:
    """One board by its routing id; times are the host's monotonic clock."""

    name: bytes
    queue: Queue  # of its device class
    came_s: float = 0.0  # first
    gone: bool = True
    board_id: str = ""
    session: str = ""
    user: str = ""  # the name of its key; empty without CURVE
    queues: dict[str, Queue] = field(default_factory=dict)  # that it has had: power modes change
    leases: dict[str, Lease] = field(default_factory=dict)  # by job, the one at work first
    heard_s: float = 0.0
    sent_s: float = 0.0
    room: int = 0  # blocks that it would take now
    inside: float = 0.0  # archs that are measured but have no record yet
    done: int = 0
    temperature_c: float | None = None
    power_mode: str | None = None
    last_error: str = ""
    _done_s: deque[float] = field(default_factory=deque)  # of its last records

    def enter(self, hello: wire.Hello, queue: Queue, user: str, now: float) -> None:
        self.board_id, self.session, self.user = hello.board, hello.session, user
        self.queue = self.queues[queue.name] = queue
        self.power_mode = printable(hello.device.power_mode or "") or None
        self.heard_s = self.sent_s = now
        self.room, self.inside, self.gone = 0, 0.0, False

    def leave(self, reason: str) -> None:
        self.room, self.inside, self.gone, self.last_error = 0, 0.0, True, printable(reason, 200)

    def beat(self, beat: wire.Heartbeat) -> None:
        self.room = beat.room
        self.temperature_c = beat.temperature_c
        self.power_mode = printable(beat.power_mode or "") or self.power_mode
        self.last_error = printable(beat.error, 200)

    def recorded(self, now: float) -> None:
        self.done += 1
        self.inside = max(0.0, self.inside - 1.0)
        self._done_s.append(now)

    def rate_per_min(self, now: float) -> float:
        """Records in a minute, over the last RATE_S or since the board came."""
        while self._done_s and now - self._done_s[0] > RATE_S:
            self._done_s.popleft()
        return 60.0 * len(self._done_s) / min(max(now - self.came_s, 1.0), RATE_S)

    def is_another(self, hello: wire.Hello, user: str, now: float) -> bool:
        """Whether a Hello comes from another board with the same name, while this one is here."""
        ids = self.board_id and hello.board and self.board_id != hello.board
        return bool(not self.gone and now - self.heard_s < LATE_S and (ids or self.user != user))

    def state(self, now: float) -> str:
        """In a word: gone, silent, paused (`last_error` says why), measuring or waiting."""
        if self.gone:
            return "gone"
        if now - self.heard_s > LATE_S:
            return "silent"
        if self.last_error and not self.room:
            return "paused"
        return "measuring" if self.leases else "waiting"

    def status(self, now: float) -> BoardStatus:
        return BoardStatus(
            name=printable(self.name), device_class=self.queue.name, state=self.state(now),
            done=self.done, inside=self.inside, rate_per_min=self.rate_per_min(now),
            temperature_c=self.temperature_c, power_mode=self.power_mode,
            last_error=self.last_error,
        )  # fmt: skip


class Roster:
    """`boards` by routing id, `queues` by device class; `now` is seconds of a monotonic clock."""

    def __init__(self, request: Request, store: Store, peer_log: PeerLog) -> None:
        self.request, self.store, self.peer_log = request, store, peer_log
        self.boards: dict[bytes, Board] = {}
        self.queues: dict[str, Queue] = {}

    def here(self) -> list[Board]:
        return [board for board in self.boards.values() if not board.gone]

    def admit(self, name: bytes, hello: wire.Hello, user: str, now: float) -> Board:
        """Take a board in, for the first time or again; FleetError says why it cannot take part."""
        device_class = self._device_class(hello)
        board = self.boards.get(name)
        if board and board.is_another(hello, user, now):
            raise FleetError(
                f"another board here is called {printable(name)}; give it another --name"
            )
        if board is None and len(self.boards) >= MAX_BOARDS:
            self._forget_board()
        queue = self.queues.get(device_class) or self.open(device_class)
        if board is None:
            board = self.boards[name] = Board(name, queue, now)
        if not board.gone and board.session != hello.session:
            self.lost(board, "it was started again", now)
        elif not board.gone and board.queue is not queue:
            self.left(board, "its device class changed", now)
        if board.gone:
            queue.boards += 1
            self.peer_log.say(logging.INFO, "board %s joined: %s", printable(name), queue.name)
        board.enter(hello, queue, user, now)
        return board

    def lost(self, board: Board, reason: str, now: float) -> None:
        """A board died, or is silent: its blocks go to others, with the one at work in halves."""
        board.queue.died(board)
        self._gone(board, reason, now)

    def left(self, board: Board, reason: str, now: float) -> None:
        """A board said that it leaves: its blocks go to others as they are."""
        board.queue.left(board)
        self._gone(board, reason, now)

    def done(self, now: float) -> bool:
        """All is measured. A class that came, left no record and went is not waited for."""
        counted = [
            queue
            for queue in self.queues.values()
            if queue.boards or queue.recorded or now - queue.gone_s < PATIENCE_S
        ]
        return bool(counted) and all(queue.done for queue in counted)

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

    def open(self, device_class: str) -> Queue:
        """The queue of a class that is new, without what was recorded before; a class that has no
        boards and no records may be forgotten for it."""
        if len(self.queues) >= MAX_CLASSES:
            self._forget_class()
        recorded = self.store.keys(self.request.run, device_class)
        queue = self.queues[device_class] = Queue(self.request, device_class, recorded)
        return queue

    def _device_class(self, hello: wire.Hello) -> str:
        engines, engine = dict(hello.engines), self.request.target.engine
        if hello.protocol != wire.PROTOCOL:
            raise FleetError(f"it speaks protocol {hello.protocol}, this host {wire.PROTOCOL}")
        if engine not in engines:
            raise FleetError(f"it has no {engine}, only {', '.join(engines) or 'no engine'}")
        device_class = hello.device.class_key(engine, engines[engine])
        if len(device_class) > MAX_CLASS_NAME:
            raise FleetError(
                f"its device class has a name of more than {MAX_CLASS_NAME} characters"
            )
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

    def _gone(self, board: Board, reason: str, now: float) -> None:
        name = printable(board.name)
        self.peer_log.say(logging.WARNING, "board %s has gone: %s", name, printable(reason, 200))
        board.leave(reason)
        board.queue.boards -= 1
        board.queue.gone_s = now
