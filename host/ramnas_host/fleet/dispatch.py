"""Which board measures which archs of a device class: leases, splitting, quarantine.

No sockets, and no clock of its own: `now` is seconds of any monotonic clock.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Protocol

import msgspec

from ramnas_edge.fleet import wire
from ramnas_edge.measuring.record import Block, record_key
from ramnas_edge.measuring.request import BLOCK, Request
from ramnas_host.fleet.status import ClassStatus

log = logging.getLogger(__name__)

FIRST_ARCH_S = 60.0  # the time that an arch may take before its class has measured any
FACTOR, GRACE_S = 3.0, 180.0  # a lease lasts FACTOR times the predicted time and GRACE_S more
DEATHS = 2  # of boards that measured one arch alone, until that arch is quarantined


class Holder(Protocol):
    """What a queue needs to know of a board."""

    name: bytes
    leases: dict[str, Lease]  # by job, the one at work first


@dataclass(eq=False)
class Lease:
    """A block with a board; `left` are the ids of its archs that have no record yet."""

    block: Block
    board: Holder
    left: list[str]
    start_s: float
    deadline_s: float
    sent_s: float

    @property
    def job(self) -> str:
        return self.block.id


class Queue:
    """The archs of one device class: waiting, leased, recorded or quarantined."""

    def __init__(self, request: Request, device_class: str, recorded: Collection[wire.Key]) -> None:
        self.request, self.name = request, device_class
        self.archs = {arch.id: arch for arch in request.archs_of(device_class)}
        self.keys = {  # of their records
            arch_id: record_key(request.run, request.target, arch, device_class)
            for arch_id, arch in self.archs.items()
        }
        ids = [arch_id for arch_id, key in self.keys.items() if key not in recorded]
        self.missing = set(ids)  # without a record
        self.waiting = deque(ids[i : i + BLOCK] for i in range(0, len(ids), BLOCK))
        self.leases: dict[str, Lease] = {}  # by job, the id of the block
        self.deaths: Counter[str] = Counter()  # of boards that measured this arch alone
        self.boards = 0  # of this class, here now
        self.gone_s = 0.0  # when the last of them went
        self.ended = False  # nothing more of this class is wanted
        self._anchors = request.anchors()
        self._jobs: dict[str, str] = {}  # arch id -> the job that it is leased in
        self._arch_s: float | None = None  # the time that a board of this class takes for an arch
        self._blocks = 0  # given so far

    @property
    def recorded(self) -> int:
        return len(self.archs) - len(self.missing)

    @property
    def quarantined(self) -> list[str]:
        """Ids of archs on which boards died, until a late record comes all the same."""
        return [arch_id for arch_id, deaths in self.deaths.items() if deaths >= DEATHS]

    @property
    def done(self) -> bool:
        return self.ended or len(self.missing) == len(self.quarantined)

    def status(self) -> ClassStatus:
        return ClassStatus(
            name=self.name, done=self.recorded, total=len(self.archs), boards=self.boards,
            leased=len(self._jobs), quarantined=self.quarantined, ended=self.ended,
        )  # fmt: skip

    # -- giving ------------------------------------------------------------------------------------

    def give(self, board: Holder, now: float) -> Block | None:
        """The next block for `board`, leased to it; None if there is none.

        The last blocks are kept for boards that have none: as a second block they would only wait.
        """
        held = len(board.leases)
        if held >= wire.WINDOW or (held and len(self.waiting) <= self.boards):
            return None
        while self.waiting and not self.ended:
            free = self._free(self.waiting.popleft())
            if free:
                return self._lease(free, board, now)
        return None

    def _free(self, arch_ids: Iterable[str]) -> list[str]:
        """Those that were not recorded since, and that no board came back with."""
        ids = dict.fromkeys(arch_ids)  # a board may name one twice
        return [i for i in ids if i in self.missing and i not in self._jobs]

    def _lease(self, left: list[str], board: Holder, now: float, job: str | None = None) -> Block:
        archs = [self.archs[arch_id] for arch_id in left]
        block = self.request.block(archs, self._anchors, self._blocks)
        if job:
            block = msgspec.structs.replace(block, id=job)
        self._blocks += 1
        archs_until_done = len(left) + sum(len(lease.left) for lease in board.leases.values())
        predicted_s = (self._arch_s or FIRST_ARCH_S) * archs_until_done
        lease = Lease(block, board, left, now, now + FACTOR * predicted_s + GRACE_S, now)
        self.leases[block.id] = board.leases[block.id] = lease
        self._jobs.update(dict.fromkeys(left, block.id))
        return block

    # -- what comes back ---------------------------------------------------------------------------

    def record(self, arch_id: str, now: float) -> None:
        """A record of this arch is committed, whoever sent it."""
        self.missing.discard(arch_id)
        del self.deaths[arch_id]
        job = self._jobs.pop(arch_id, None)
        if job is None:
            return
        lease = self.leases[job]
        lease.left.remove(arch_id)
        if lease.left:
            return
        self._take_back(lease)
        spent_s = (now - lease.start_s) / len(lease.block.archs)
        self._arch_s = spent_s if self._arch_s is None else 0.7 * self._arch_s + 0.3 * spent_s
        for next_lease in lease.board.leases.values():
            next_lease.start_s = now

    def died(self, board: Holder) -> None:
        """The board is gone: its blocks go to others.

        The block at work may be what killed the board. It goes on in halves until one arch is
        alone, and that is quarantined when DEATHS boards have died on it.
        """
        leases = list(board.leases.values())
        self._put_back(leases[1:])
        if leases:
            self._suspect(leases[0])

    def left(self, board: Holder) -> None:
        """The board said goodbye: its blocks go to others as they are."""
        self._put_back(list(board.leases.values()))

    def expired(self, now: float) -> list[Lease]:
        """Take back the leases past their deadline, as if their boards had died."""
        late = [lease for lease in self.leases.values() if now > lease.deadline_s]
        for lease in late:
            self._suspect(lease)
        return late

    def end(self) -> list[Lease]:
        """Nothing more of this class is wanted; the leases that end with it."""
        self.ended = True
        leases = list(self.leases.values())
        self._put_back(leases)
        return leases

    def _suspect(self, lease: Lease) -> None:
        self._take_back(lease)
        half = len(lease.left) // 2
        if half:
            self.waiting.extendleft([lease.left[half:], lease.left[:half]])
            return
        (alone,) = lease.left
        self.deaths[alone] += 1
        if self.deaths[alone] < DEATHS:
            self.waiting.appendleft([alone])
        else:
            log.error(
                "arch %s is quarantined: %d boards of %s died while they measured it alone; "
                "the same command tries it again", alone, DEATHS, self.name,
            )  # fmt: skip

    def _put_back(self, leases: list[Lease]) -> None:
        for lease in leases:
            self._take_back(lease)
            self.waiting.appendleft(lease.left)

    def _take_back(self, lease: Lease) -> None:
        del self.leases[lease.job], lease.board.leases[lease.job]
        for arch_id in lease.left:
            del self._jobs[arch_id]

    # -- what a board says of its blocks -----------------------------------------------------------

    def adopt(self, board: Holder, held: wire.Holding, now: float) -> bool:
        """Let a board go on with a block that it was given before it, or this host, came back.

        False if nothing of the block is wanted from it.
        """
        lease = self.leases.get(held.job)
        if lease:
            return lease.board is board
        free = [] if self.ended else self._free(held.archs)
        if free:
            self._lease(free, board, now, held.job)
        return bool(free)

    def lost(
        self, board: Holder, holding: Collection[str], now: float
    ) -> tuple[list[Block], list[str]]:
        """Compare the jobs in a heartbeat with the leases: blocks to send again, unknown jobs.

        A block is sent again when the board still does not have it RESEND_S after it was sent.
        """
        held, again = board.leases, []
        for lease in held.values():
            if lease.job not in holding and now - lease.sent_s > wire.RESEND_S:
                lease.sent_s = now
                archs = tuple(self.archs[arch_id] for arch_id in lease.left)
                again.append(msgspec.structs.replace(lease.block, archs=archs))
        return again, [job for job in holding if job not in held]

    def progressed(self, job: str, part: float, now: float) -> float:
        """A block is measured to this part, 0 to 1: its lease lasts as long as it gets on.

        How many archs that is which have no record yet.
        """
        lease = self.leases.get(job)
        if lease is None or not 0 < part <= 1:
            return 0.0
        left_s = (now - lease.start_s) * (1 - part) / part
        lease.deadline_s = max(lease.deadline_s, now + FACTOR * left_s + GRACE_S)
        return min(part * len(lease.block.archs), float(len(lease.left)))
