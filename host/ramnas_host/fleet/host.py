"""START HERE: jobs to boards, records back by one ROUTER: receive, admit, commit, acknowledge."""

from __future__ import annotations

import gc
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from ramnas_edge.fleet import wire
from ramnas_edge.measuring import messages
from ramnas_edge.measuring.record import LatencyRecord
from ramnas_edge.measuring.request import Request
from ramnas_edge.measuring.store import Store, as_text
from ramnas_host.fleet.admission import MAX_BOARDS, MAX_CLASSES, Admission
from ramnas_host.fleet.authentication import Door
from ramnas_host.fleet.boards import Board, Rate
from ramnas_host.fleet.dispatch import Dispatch, Queue
from ramnas_host.fleet.refusals import Diary, RefusedMessages, shown
from ramnas_host.fleet.router import Router
from ramnas_host.fleet.status import Status
from ramnas_models.errors import WireError

log = logging.getLogger(__name__)
TICK_S, STATUS_S = 0.5, 1.0
BEAT_S = 3.0  # without a message to a board, until it gets a heartbeat
FAREWELL_S = 2.0
MAX_OTHER_BYTES = 2**16  # of all messages but Measured


class Host:
    """Serves one request to any number of boards and commits what they send."""

    def __init__(
        self,
        request: Request,
        store: Store,
        on_status: Callable[[Status], None],
        *,
        steer: Callable[[Dispatch, float], list[Queue]] | None = None,
    ) -> None:
        """`steer` is called with every tick and returns the classes that have ended."""
        self.request, self.store, self.on_status, self.steer = request, store, on_status, steer
        self.dispatch, self.admission = Dispatch(request), Admission(request)
        self.refusals = RefusedMessages()
        self.boards: dict[bytes, Board] = {}
        self.rate = Rate(time.monotonic())
        self.router = Router()
        self.now = time.monotonic()  # of this round: one look at the clock for many messages
        self._group: list[tuple[Board, wire.Key, LatencyRecord, bytes]] = []  # to be committed
        self._diary = Diary(log)
        self._status_s = 0.0
        self._asking: list[Board] = []  # for blocks, which they get after the commit
        self._known: dict[bytes, list[wire.Key]] = defaultdict(list)  # committed before, to be told

    def bind(self, door: Door) -> str:
        """Bind (tcp://HOST:PORT, port * for any free one); the endpoint that boards connect to."""
        return self.router.bind(door)

    def serve(self, alive: Callable[[], None] = lambda: None) -> list[str]:
        """Serve until all archs are recorded on every device class that came; those classes.

        `alive` is called twice a second and may raise.
        """
        tick_s = 0.0
        with _few_collections():
            while not self.dispatch.done(self.now):
                self.router.poll(TICK_S)
                self._receive()
                self._commit()
                self._give_all()
                if self.now >= tick_s:
                    tick_s = self.now + TICK_S
                    alive()
                    self._tick()
        self.on_status(self.status())
        self._farewell()
        return sorted(self.dispatch.queues)

    def close(self) -> None:
        self.router.close()

    def _farewell(self) -> None:
        """Goodbye to all, again and again until each has said it too, or FAREWELL_S are over: a
        socket that is closed with anything unread takes what was sent with it."""
        here = {board.name for board in self.boards.values() if not board.gone}
        end_s = time.monotonic() + FAREWELL_S
        again_s = 0.0
        while here and (now := time.monotonic()) < end_s:
            if now >= again_s:
                again_s = now + FAREWELL_S / 4
                for name in list(here):
                    if not self.router.send(name, wire.Bye("all is measured")):
                        here.discard(name)
            self.router.poll(FAREWELL_S / 20)
            for name, _, data, _ in self.router.letters():
                with suppress(WireError):
                    if isinstance(wire.decode_from_board(data), wire.Bye):
                        here.discard(name)

    def status(self) -> Status:
        """What the table shows."""
        now, queues = self.now, self.dispatch.queues
        classes = [queue.status() for queue in queues.values()]
        total = sum(queue.total for queue in queues.values())
        done = total - sum(len(queue.missing) for queue in queues.values())
        rate = self.rate.per_min(now)
        left_s = 60.0 * (total - done) / rate if rate else None
        refused = {**self.refusals.counts, **self.router.refused()}
        boards = [b.status(len(self.dispatch.of_board(b.name)), now) for b in self.boards.values()]
        return Status(
            run=self.request.run, done=done, total=total, rate_per_min=rate, left_s=left_s,
            refused=refused, classes=classes, boards=boards,
        )  # fmt: skip

    # -- messages ----------------------------------------------------------------------------------

    def _receive(self) -> None:
        self.now = time.monotonic()
        for name, user, data, frames in self.router.letters():
            self._received(name, user, data, frames)

    def _received(self, name: bytes, user: str, data: bytes, frames: int) -> None:
        board = self.boards.get(name)
        try:
            if frames != 1:
                raise WireError(f"a message of {frames} frames, it should have one")
            message = wire.decode_from_board(data)
            if len(data) > MAX_OTHER_BYTES and not isinstance(message, messages.Measured):
                raise WireError(f"a {type(message).__name__} of {len(data)} bytes")
        except WireError as error:
            self.refusals.add("not a message", name, str(error))
            if board is None:  # a known board is not told: somebody else may use its name
                self.router.send(name, wire.Refused(str(error)))
            return
        if isinstance(message, (wire.Hello, wire.Bye)):
            self._commit()  # what it has sent before counts before its blocks go to others
        if isinstance(message, wire.Hello):
            self._hello(name, message, user)
        elif board is None or board.gone:
            if not isinstance(message, wire.Bye):  # from before a restart of this host, or of it
                self.refusals.add("a board that has not said Hello", name, type(message).__name__)
                self.router.send(name, wire.Greet())
        elif board.user != user:
            self.refusals.add("a board's name with another's key", name, shown(user))
        else:
            board.heard_s = self.now
            if isinstance(message, messages.Measured):
                self._measured(board, message.record, data)
            else:
                self._told(board, message)

    def _told(self, board: Board, message: wire.FromBoard) -> None:
        """What a board says about itself."""
        if isinstance(message, messages.Visited):
            queue = self.dispatch.queues[board.device_class]
            part = message.done / max(message.total, 1)
            board.inside = self.dispatch.progressed(queue, message.visit.block, part, self.now)
        elif isinstance(message, wire.Heartbeat):
            board.told(message)
            again, strange = self.dispatch.lost(board.name, message.holding, self.now)
            for block in again:
                self.router.send(board.name, messages.Job(block, board.device_class))
            if strange:  # it will say which archs they are
                self.router.send(board.name, wire.Greet())
            self._asking.append(board)
        elif isinstance(message, messages.Ready):
            board.room = message.room
            self._asking.append(board)
        elif isinstance(message, wire.Bye):
            why = shown(message.reason, 200)
            self._say(logging.WARNING, "board %s left: %s", shown(board.name), why)
            self._gone(board, message.reason)
            self.dispatch.left(board.name, self.dispatch.queues[board.device_class])
            self._give_idle(board.device_class)

    def _measured(self, board: Board, record: LatencyRecord, data: bytes) -> None:
        key = self.admission.key(record, board.classes)
        if key is None or record.device_class not in self.dispatch.queues:
            why = "a record for a job never given"
        elif len(data) > wire.MAX_RECORD_BYTES:
            why = "a record too large"
        elif insane := self.admission.insane(record, text := as_text(record)):
            why = f"a record with {insane}"
        else:
            queue = self.dispatch.queues[record.device_class]
            if record.arch_id in queue.missing:
                self._group.append((board, key, record, text))
            else:
                self._known[board.name].append(key)
            return
        self.refusals.add(why, board.name, f"arch {shown(record.arch_id)}")
        self.router.send(board.name, wire.Rejected((record.key,), why))

    def _commit(self) -> None:
        """One commit for all that came, then one Ack a board: what is acknowledged is on disk."""
        group, self._group = self._group, []
        acks, self._known = self._known, defaultdict(list)
        if group:
            self.store.add_all(row[1:] for row in group)
        for board, key, record, _ in group:
            acks[board.name].append(key)
            queue = self.dispatch.queues[record.device_class]
            if record.arch_id in queue.missing:  # not twice in this group
                self.dispatch.recorded(queue, record.arch_id, self.now)
                board.measured(self.now)
                self.rate.add(self.now)
        for name, keys in acks.items():
            if name in self.boards:
                self.boards[name].sent_s = self.now
            self.router.send(name, wire.Ack(tuple(keys)))

    # -- boards ------------------------------------------------------------------------------------

    def _hello(self, name: bytes, hello: wire.Hello, user: str) -> None:
        old = self.boards.get(name)
        reason = self.admission.hello(hello)
        device_class = "" if reason else self.admission.device_class(hello)
        if not reason and old is None and not self._room_for_board():
            reason = f"this host has {MAX_BOARDS} boards already"
        new = device_class not in self.dispatch.queues
        full = new and len(self.dispatch.queues) >= MAX_CLASSES
        if not reason and full and not self._forget_class():
            reason = f"this host has {MAX_CLASSES} device classes already"
        if not reason and old and old.is_another(hello, user, self.now):
            reason = f"another board here is called {shown(name)}; give it another --name"
        if reason:
            self.refusals.add("a board that cannot take part", name, reason)
            self.router.send(name, wire.Refused(reason))
            return
        self._enter(name, hello, device_class, user)

    def _enter(self, name: bytes, hello: wire.Hello, device_class: str, user: str) -> None:
        dispatch = self.dispatch
        if device_class not in dispatch.queues:
            run = self.request.run
            recorded = {key[2] for key in self.store.keys(run, device_class)}
            self.admission.open(device_class)
            dispatch.open(device_class, recorded)
        queue = dispatch.queues[device_class]
        board = self.boards.get(name)
        if board and not board.gone:
            if board.session != hello.session:
                self._lost(board, "it was started anew")
            elif board.device_class != device_class:
                dispatch.left(board.name, dispatch.queues[board.device_class])
                self._gone(board, "its device class changed")
        if board is None:
            board = self.boards[name] = Board(name, Rate(self.now))
        if board.gone:
            queue.boards += 1
            self._say(logging.INFO, "board %s joined: %s", shown(name), device_class)
        board.entered(hello, device_class, user, self.now)
        self.router.send(name, wire.Welcome(wire.PROTOCOL, self.request.space, self.request.target,
                                      self.request.run))  # fmt: skip
        held = hello.holding[: 2 * wire.WINDOW] if hello.run == self.request.run else ()
        drop = [h.job for h in held if not dispatch.adopt(name, queue, h, self.now)]
        if drop:
            self.router.send(
                name, wire.Drop(tuple(drop), "other boards measure it, or it is measured")
            )

    def _give_all(self) -> None:
        asking, self._asking = self._asking, []
        for board in asking:
            if not board.gone:
                self._give(board)

    def _give(self, board: Board) -> None:
        queue = self.dispatch.queues[board.device_class]
        while board.room > 0 and not queue.idle:
            block = self.dispatch.give(board.name, queue, self.now)
            if block is None:
                return
            board.room -= 1
            self.router.send(board.name, messages.Job(block, board.device_class))

    def _give_idle(self, device_class: str) -> None:
        for board in self.boards.values():
            if board.device_class == device_class and board.room > 0:
                self._give(board)

    def _gone(self, board: Board, reason: str) -> None:
        board.left(reason)
        queue = self.dispatch.queues[board.device_class]
        queue.boards, queue.gone_s = queue.boards - 1, self.now

    def _lost(self, board: Board, reason: str) -> None:
        """Others of its class take what is left of its blocks."""
        self._say(logging.WARNING, "lost board %s: %s", shown(board.name), reason)
        self._gone(board, reason)
        self._quarantined(self.dispatch.died(board.name, self.dispatch.queues[board.device_class]))
        self._give_idle(board.device_class)

    def _quarantined(self, arch_ids: list[str]) -> None:
        for arch_id in arch_ids:
            log.error(
                "arch %s is quarantined: boards died while they measured it, and nothing else; "
                "the same command tries it again", arch_id,
            )  # fmt: skip

    def _room_for_board(self) -> bool:
        if len(self.boards) >= MAX_BOARDS:
            gone = next((board.name for board in self.boards.values() if board.gone), None)
            self.boards.pop(gone or b"", None)
        return len(self.boards) < MAX_BOARDS

    def _forget_class(self) -> bool:
        forgotten = self.dispatch.forget_empty()
        self.admission.close(forgotten)
        return bool(forgotten)

    def _say(self, level: int, text: str, *values: object) -> None:
        self._diary.say(level, text, *values, now=self.now)

    # -- time --------------------------------------------------------------------------------------

    def _tick(self) -> None:
        for board in [b for b in self.boards.values() if not b.gone]:
            if self.now - board.sent_s > BEAT_S:
                board.sent_s = self.now
                self.router.send(board.name, wire.Heartbeat())
            if self.router.drained and self.now - board.heard_s > wire.SILENCE_S:
                self._lost(board, f"silent for {wire.SILENCE_S:.0f} s")
        for queue in self.dispatch.queues.values():
            for lease, quarantined in self.dispatch.expired(queue, self.now):
                log.warning("board %s did not measure its block in time", shown(lease.board))
                self.router.send(lease.board, wire.Drop((lease.job,), "it took too long"))
                self._quarantined(quarantined)
                self._give_idle(queue.name)
        for queue in self.steer(self.dispatch, self.now) if self.steer else ():
            log.info("%s: enough is measured", queue.name)
            for lease in self.dispatch.end(queue):
                self.router.send(lease.board, wire.Drop((lease.job,), "enough is measured"))
        if self.now >= self._status_s:
            self._status_s = self.now + STATUS_S
            self.on_status(self.status())


@contextmanager
def _few_collections() -> Iterator[None]:
    """Records are trees, freed as soon as nobody has them: to look for cycles among a thousand of
    them took a quarter of the CPU time of each (tests.benchmarks.bench_fleet)."""
    before = gc.get_threshold()
    gc.set_threshold(200_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
