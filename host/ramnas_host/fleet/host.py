"""START HERE: sends jobs to boards, and receives, checks, commits and acknowledges records."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable

from ramnas_edge.fleet import wire
from ramnas_edge.measuring import messages
from ramnas_edge.measuring.request import Request
from ramnas_edge.measuring.store import Store
from ramnas_host.fleet.authentication import Door
from ramnas_host.fleet.boards import Board, Roster, Status
from ramnas_host.fleet.dispatch import Lease
from ramnas_host.fleet.intake import Intake
from ramnas_host.fleet.peer_log import PeerLog, printable
from ramnas_host.fleet.router import Letter, Router
from ramnas_host.fleet.until_tau import UntilTau
from ramnas_models.errors import FleetError, WireError

log = logging.getLogger(__name__)
TICK_S = 1.0
BEAT_S = 3.0  # a board that is sent nothing else for this long gets a heartbeat


class Host:
    """Serves one request to any number of boards that connect to `endpoint`."""

    def __init__(
        self, request: Request, store: Store, door: Door, on_status: Callable[[Status], None],
        *, until_tau: UntilTau | None = None,
    ) -> None:  # fmt: skip
        """Bind `door`; FleetError if that is impossible.

        `on_status` is called once a second. `until_tau` ends classes that are known well enough.
        """
        self.request, self.store, self.on_status = request, store, on_status
        self.until_tau = until_tau
        self.peer_log = PeerLog()
        self.now = time.monotonic()
        self.roster = Roster(request, store, self.peer_log, self.now)
        self.intake = Intake(request, store, self.roster.queues)
        self.router = Router(door, self.peer_log)
        self.endpoint, self.close = self.router.endpoint, self.router.close
        self._asking: list[Board] = []  # these get blocks after the next commit

    def serve(self, alive: Callable[[], None] = lambda: None) -> list[str]:
        """Serve until every device class that came has a record of every arch; returns the classes.

        `alive` is called once a second, and may raise to end this.
        """
        tick_s = 0.0
        # Records are trees, freed as soon as nobody holds them. Looking for cycles among a thousand
        # of them took a quarter of the CPU time of each record (tests.benchmarks.bench_fleet).
        thresholds = gc.get_threshold()
        gc.set_threshold(200_000, *thresholds[1:])
        try:
            while not self.roster.done(self.now):
                for letter in self.router.letters(TICK_S):
                    self.now = time.monotonic()
                    self._receive(letter)
                self.now = time.monotonic()
                self._commit()
                self._give()
                if self.now >= tick_s:
                    tick_s = self.now + TICK_S
                    alive()
                    self._tick()
                    self.on_status(self.roster.status(self.now))
        finally:
            gc.set_threshold(*thresholds)
        self.on_status(self.roster.status(self.now))
        self.router.farewell(board.name for board in self.roster.here())
        return sorted(name for name, queue in self.roster.queues.items() if queue.came)

    def _receive(self, letter: Letter) -> None:
        name, message, board = letter.name, letter.message, self.roster.boards.get(letter.name)
        if not self.router.lets_in(letter.key):
            self.peer_log.refuse("its key was revoked", name, letter.key)
            if board and not board.gone and board.key == letter.key:
                self._commit()  # what came before counts
                self.roster.remove(board, "its key was revoked", self.now, died=False)
            return
        if isinstance(message, WireError):
            self.peer_log.refuse("not a message", name, str(message))
            if board is None:  # somebody else may use the name of a known board
                self.router.send(name, wire.Refused(str(message)))
            return
        if isinstance(message, (wire.Hello, wire.Bye)):
            self._commit()  # a board's earlier records count before its blocks go to others
        if isinstance(message, wire.Hello):
            self._admit(name, message, letter.key)
        elif board is None or board.gone:
            if not isinstance(message, wire.Bye):  # the board or this host was started again
                what = type(message).__name__
                self.peer_log.refuse("a board that has not said Hello", name, what)
                self.router.send(name, wire.Greet())
        elif board.key != letter.key:
            self.peer_log.refuse("a board's name with another's key", name, letter.key)
        else:
            board.heard_s = self.now
            self._handle(board, message, letter.size)

    def _admit(self, name: bytes, hello: wire.Hello, key: str) -> None:
        try:
            board = self.roster.admit(name, hello, key, self.now)
        except FleetError as error:
            self.peer_log.refuse("a board that cannot take part", name, str(error))
            self.router.send(name, wire.Refused(str(error)))
            return
        request = self.request
        welcome = wire.Welcome(wire.PROTOCOL, request.space, request.target, request.run)
        self.router.send(name, welcome)
        held = hello.holding[: 2 * wire.WINDOW] if hello.run == request.run else ()
        drop = tuple(h.job for h in held if not board.queue.adopt(board, h, self.now))
        if drop:
            self.router.send(name, wire.Drop(drop, "it is measured, or other boards measure it"))

    def _handle(self, board: Board, message: wire.FromBoard, size: int) -> None:
        """Handle a message of `size` bytes from a board that takes part."""
        if isinstance(message, messages.Measured):
            record = message.record
            why_not = self.intake.take(board, record, size)
            if why_not:
                self.peer_log.refuse(why_not, board.name, f"arch {record.arch_id}")
                self.router.send(board.name, wire.Rejected((record.key,), why_not))
        elif isinstance(message, messages.Visited):
            part = message.done / max(message.total, 1)
            board.shown.inside = board.queue.progressed(board, message.visit.block, part, self.now)
        elif isinstance(message, wire.Heartbeat):
            board.beat(message)
            if message.waits:
                board.queue.postpone(board, self.now)
            again, unknown = board.queue.compare(board, message.holding, self.now)
            for block in again:
                self.router.send(board.name, messages.Job(block, board.queue.name))
            if unknown:  # the Hello that answers it says which archs these blocks hold
                self.router.send(board.name, wire.Greet())
            self._asking.append(board)
        elif isinstance(message, messages.Ready):
            board.room = message.room
            self._asking.append(board)
        elif isinstance(message, wire.Bye):
            self.roster.remove(board, message.reason, self.now, died=False)

    def _commit(self) -> None:
        """Commit all records that came, and only then acknowledge them, with one Ack per board."""
        for board, keys in self.intake.commit(self.now).items():
            board.sent_s = self.now
            self.router.send(board.name, wire.Ack(tuple(keys)))

    def _give(self) -> None:
        asking, self._asking = self._asking, []
        for board in asking:
            while not board.gone and board.room > 0:
                block = board.queue.give(board, self.now)
                if block is None:
                    break
                board.room -= 1
                self.router.send(board.name, messages.Job(block, board.queue.name))

    def _tick(self) -> None:
        for board in self.roster.here():
            if self.now - board.sent_s > BEAT_S:
                board.sent_s = self.now
                self.router.send(board.name, wire.Heartbeat())
            if self.router.drained and self.now - board.heard_s > wire.SILENCE_S:
                silent = f"silent for {wire.SILENCE_S:.0f} s"
                self.roster.remove(board, silent, self.now, died=True)
        for queue in self.roster.queues.values():
            for lease in queue.expired(self.now):
                log.warning("board %s took too long for a block", printable(lease.board.name))
                self._drop(lease, "it took too long")
        if self.until_tau:
            for queue in self.until_tau.step(self.roster.queues.values(), self.store, self.now):
                log.info("%s: enough is measured", queue.name)
                for lease in queue.end():
                    self._drop(lease, "enough is measured")
        self._asking = self.roster.here()  # blocks may have come back

    def _drop(self, lease: Lease, why: str) -> None:
        self.router.send(lease.board.name, wire.Drop((lease.block.id,), why))
