"""Which board measures which archs: queues by device class, leases, splitting, quarantine.

No sockets, no clock of its own: `now` is seconds of any monotonic clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from ramnas_edge.fleet import wire
from ramnas_edge.measuring.record import Block
from ramnas_edge.measuring.request import BLOCK, Request
from ramnas_host.fleet.status import ClassStatus
from ramnas_models.space import Arch

FIRST_ARCH_S = 60.0  # an arch may take, before a class has measured any
FACTOR, GRACE_S = 3.0, 180.0  # a lease: so many times the predicted time, and a second try
PATIENCE_S = 60.0  # with a class whose boards have all gone before their first record
DEATHS = 2  # of boards that measured one arch alone, until it is quarantined


@dataclass
class Lease:
    """A block with a board: `left` are its archs without a record, by id."""

    block: Block
    board: bytes
    left: dict[str, Arch]
    start_s: float
    deadline_s: float
    sent_s: float

    @property
    def job(self) -> str:
        return self.block.id


@dataclass
class Queue:
    """The archs of one device class: waiting, in pieces, leased, recorded or quarantined."""

    name: str
    missing: dict[str, Arch]  # without a record, by id, in the order of measuring
    waiting: deque[str]  # ids of archs, as in `pieces`: each id is a hash
    total: int
    pieces: deque[tuple[str, ...]] = field(default_factory=deque)  # of blocks that came back
    leases: dict[str, Lease] = field(default_factory=dict)
    holder: dict[str, str] = field(default_factory=dict)  # arch id -> job
    deaths: dict[str, int] = field(default_factory=dict)  # of boards with that arch alone
    quarantined: dict[str, str] = field(default_factory=dict)  # arch id -> why
    boards: int = 0  # of this class, here now
    gone_s: float = 0.0  # when the last of them went
    arch_s: float | None = None  # a board takes for an arch of this class
    blocks: int = 0  # given so far
    ended: bool = False

    @property
    def done(self) -> bool:
        return self.ended or len(self.missing) == len(self.quarantined)

    def status(self) -> ClassStatus:
        return ClassStatus(
            name=self.name,
            done=self.total - len(self.missing),
            total=self.total,
            boards=self.boards,
            leased=len(self.holder),
            quarantined=list(self.quarantined),
            ended=self.ended,
        )

    @property
    def idle(self) -> bool:
        """Nothing to give, now."""
        return self.ended or not (self.pieces or self.waiting)


class Dispatch:
    """The state of one request on all device classes that have come."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.queues: dict[str, Queue] = {}
        self._anchors = request.anchors()
        self._held: dict[
            bytes, dict[str, Lease]
        ] = {}  # board -> job -> lease, the one at work first
        self._freed_s: dict[bytes, float] = {}  # board -> when its last block ended

    def open(self, device_class: str, recorded: Iterable[str]) -> Queue:
        """The queue of a class; a new one holds what is not among the arch ids `recorded`."""
        if device_class not in self.queues:
            known = set(recorded)
            archs = self.request.archs_of(device_class)
            missing = {arch.id: arch for arch in archs if arch.id not in known}
            queue = Queue(device_class, missing, deque(missing), len(archs))
            self.queues[device_class] = queue
        return self.queues[device_class]

    def done(self, now: float) -> bool:
        """All is measured. A class that came and went and left no record is not waited for."""
        counted = [queue for queue in self.queues.values() if self._counts(queue, now)]
        return bool(counted) and all(queue.done for queue in counted)

    def forget_empty(self) -> str:
        """Make room for a class: forget the one without boards and records that is gone longest;
        its name, empty if none."""
        empty = [
            queue
            for queue in self.queues.values()
            if not queue.boards and queue.total == len(queue.missing)
        ]
        if not empty:
            return ""
        oldest = min(empty, key=lambda queue: queue.gone_s)
        del self.queues[oldest.name]
        return oldest.name

    @staticmethod
    def _counts(queue: Queue, now: float) -> bool:
        recorded = queue.total > len(queue.missing)
        return bool(queue.boards or recorded or now - queue.gone_s < PATIENCE_S)

    # -- giving ------------------------------------------------------------------------------------

    def give(self, board: bytes, queue: Queue, now: float) -> Block | None:
        """The next block for `board`, leased to it; None if there is none.

        The last blocks are for boards that have none: a second one would only wait.
        """
        held = len(self._held.get(board, ()))
        if queue.ended or held >= wire.WINDOW:
            return None
        if held and len(queue.pieces) + len(queue.waiting) / BLOCK <= queue.boards:
            return None
        found = self._next(queue)
        return self._lease(queue, found, board, now) if found else None

    def _next(self, queue: Queue) -> list[str]:
        while queue.pieces:
            piece = [arch_id for arch_id in queue.pieces.popleft() if self._free(queue, arch_id)]
            if piece:
                return piece
        found: list[str] = []
        while queue.waiting and len(found) < BLOCK:
            arch_id = queue.waiting.popleft()
            if self._free(queue, arch_id):
                found.append(arch_id)
        return found

    @staticmethod
    def _free(queue: Queue, arch_id: str) -> bool:
        """Neither recorded since, nor with a board that came back with it."""
        return arch_id in queue.missing and arch_id not in queue.holder

    def _lease(
        self, queue: Queue, arch_ids: list[str], board: bytes, now: float, job: str | None = None
    ) -> Block:
        left = {arch_id: queue.missing[arch_id] for arch_id in arch_ids}
        block = self.request.block(tuple(left.values()), self._anchors, queue.blocks)
        if job:
            block = msgspec.structs.replace(block, id=job)
        queue.blocks += 1
        held = self._held.setdefault(board, {})
        ahead = sum(len(lease.left) for lease in held.values())
        predicted_s = (queue.arch_s or FIRST_ARCH_S) * (len(left) + ahead)
        deadline_s = now + FACTOR * predicted_s + GRACE_S
        lease = Lease(block, board, left, now, deadline_s, now)
        queue.leases[block.id] = held[block.id] = lease
        queue.holder.update(dict.fromkeys(left, block.id))
        return block

    # -- what comes back ---------------------------------------------------------------------------

    def recorded(self, queue: Queue, arch_id: str, now: float) -> None:
        """A record is committed, whoever sent it."""
        queue.missing.pop(arch_id, None)
        queue.quarantined.pop(arch_id, None)
        job = queue.holder.pop(arch_id, None)
        if job is None:
            return
        lease = queue.leases[job]
        del lease.left[arch_id]
        if not lease.left:
            del queue.leases[job], self._held[lease.board][job]
            start_s = max(lease.start_s, self._freed_s.get(lease.board, lease.start_s))
            spent = (now - start_s) / len(lease.block.archs)
            queue.arch_s = spent if queue.arch_s is None else 0.7 * queue.arch_s + 0.3 * spent
            self._freed_s[lease.board] = now

    def of_board(self, board: bytes) -> list[Lease]:
        """Its leases, the one at work first."""
        return list(self._held.get(board, {}).values())

    def died(self, board: bytes, queue: Queue) -> list[str]:
        """The board is gone: its blocks go to others, the one at work in halves; new quarantines.

        The block at work may be what killed the board: it is halved until one arch is alone, and
        that is quarantined when DEATHS boards have died on it alone.
        """
        return self._end(queue, self.of_board(board), suspect=True)

    def left(self, board: bytes, queue: Queue) -> None:
        """The board said goodbye: its blocks go to others, as they are."""
        self._end(queue, self.of_board(board), suspect=False)

    def expired(self, queue: Queue, now: float) -> list[tuple[Lease, list[str]]]:
        """Leases past their deadline, taken back: each with new quarantines."""
        late = [lease for lease in queue.leases.values() if now > lease.deadline_s]
        return [(lease, self._end(queue, [lease], suspect=True)) for lease in late]

    def end(self, queue: Queue) -> list[Lease]:
        """No more of this class is wanted; the leases that end with it."""
        queue.ended = True
        leases = list(queue.leases.values())
        self._end(queue, leases, suspect=False)
        return leases

    def _end(self, queue: Queue, leases: list[Lease], *, suspect: bool) -> list[str]:
        new: list[str] = []
        for lease in leases:
            del queue.leases[lease.job], self._held[lease.board][lease.job]
            for arch_id in lease.left:
                del queue.holder[arch_id]
            arch_ids = tuple(lease.left)
            if not suspect:
                queue.pieces.append(arch_ids)
            elif len(arch_ids) > 1:
                half = len(arch_ids) // 2
                queue.pieces.extend([arch_ids[:half], arch_ids[half:]])
            else:
                new += self._blame(queue, arch_ids[0])
            suspect = False  # the blocks that it had not begun are innocent
        return new

    def _blame(self, queue: Queue, arch_id: str) -> list[str]:
        queue.deaths[arch_id] = queue.deaths.get(arch_id, 0) + 1
        if queue.deaths[arch_id] < DEATHS:
            queue.pieces.append((arch_id,))
            return []
        queue.quarantined[arch_id] = f"{DEATHS} boards died while they measured it alone"
        return [arch_id]

    # -- boards that come back ---------------------------------------------------------------------

    def adopt(self, board: bytes, queue: Queue, held: wire.Holding, now: float) -> bool:
        """A board still works on a block, as it was given before a restart of the host: its lease
        goes on. False if nothing of the block is wanted from it."""
        lease = queue.leases.get(held.job)
        if lease:
            return lease.board == board
        found = [arch_id for arch_id in held.archs if self._free(queue, arch_id)]
        if not found or queue.ended:
            return False
        self._lease(queue, found, board, now, held.job)
        return True

    def lost(
        self, board: bytes, holding: Iterable[str], now: float
    ) -> tuple[list[Block], list[str]]:
        """What a heartbeat shows to be out of step: blocks to send again, jobs that are not leased.

        A job is sent again when the board does not have it a while after it was sent.
        """
        leases = self._held.get(board, {})
        held = set(holding)
        again = []
        if held != leases.keys():
            for lease in leases.values():
                if lease.job not in held and now - lease.sent_s > wire.RESEND_S:
                    lease.sent_s = now
                    left = tuple(lease.left.values())
                    again.append(msgspec.structs.replace(lease.block, archs=left))
        return again, [job for job in held if job not in leases]

    def progressed(self, queue: Queue, job: str, part: float, now: float) -> float:
        """A block is measured to this part: its lease lasts as long as it gets on; how many archs
        that is that have no record."""
        lease = queue.leases.get(job)
        if lease is None or not 0 < part <= 1:
            return 0.0
        left_s = (now - lease.start_s) * (1 - part) / part
        lease.deadline_s = max(lease.deadline_s, now + FACTOR * left_s + GRACE_S)
        return min(part * len(lease.block.archs), float(len(lease.left)))
