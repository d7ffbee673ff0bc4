"""The archs of a device class -> blocks for its boards: leases, splitting, quarantine.

This file has neither sockets nor a clock: `now` is in seconds of any monotonic clock.
"""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Protocol

import msgspec

from ramnas_edge.fleet import wire
from ramnas_edge.measuring.record import Block, record_key
from ramnas_edge.measuring.request import BLOCK, Request

log = logging.getLogger(__name__)

FIRST_ARCH_S = 60.0  # predicted for an arch while its class has not measured any
FACTOR, GRACE_S = 3.0, 180.0  # a lease lasts FACTOR times the predicted time, and GRACE_S more
LONGEST_S = 3 * 3600.0  # a lease ends this long after it was given, whatever its board claims
DEATHS = 2  # an arch is quarantined when this many boards died while they measured it alone


class Holder(Protocol):
    """What a queue needs of a board."""

    name: bytes
    leases: dict[str, Lease]  # by block id, first the one that it works on


@dataclass(eq=False)
class Lease:
    """A block that a board has; `unrecorded` are the ids of its archs without a record."""

    block: Block
    board: Holder
    unrecorded: list[str]
    start_s: float
    deadline_s: float
    last_s: float  # the latest deadline
    sent_s: float

    def extend(self, seconds: float, now: float) -> None:
        """Move the deadline to `seconds` from now; never back, and never beyond `last_s`."""
        self.deadline_s = min(max(self.deadline_s, now + seconds), self.last_s)


class ClassStatus(msgspec.Struct, frozen=True):
    """What is shown of a device class; `done`, `total` and `leased` count archs."""

    name: str
    done: int  # archs that have a record
    total: int
    boards: int  # that are here now
    leased: int = 0  # archs that boards have now
    quarantined: list[str] = []  # ids of archs that boards died on
    ended: bool = False  # the surrogate is good enough


class Queue:
    """The archs of one device class: waiting, leased, recorded or quarantined."""

    def __init__(self, request: Request, device_class: str, recorded: Collection[wire.Key]) -> None:
        self.request, self.name = request, device_class
        self.archs = {arch.id: arch for arch in request.archs_of(device_class)}
        self.keys = {  # arch id -> the key of its record
            arch_id: record_key(request.run, request.target, arch, device_class)
            for arch_id, arch in self.archs.items()
        }
        ids = [arch_id for arch_id, key in self.keys.items() if key not in recorded]
        self.missing = set(ids)  # the archs without a record
        self.waiting = deque(ids[i : i + BLOCK] for i in range(0, len(ids), BLOCK))
        self.deaths: Counter[str] = Counter()  # by arch: boards that died while measuring it alone
        self.boards = 0  # how many are here now
        self.came = False  # whether this host has seen a board of this class
        self.gone_s = 0.0  # when the last board left
        self.ended = False  # whether enough is measured
        self._anchors = request.anchors()
        self._leased: dict[str, Lease] = {}  # by arch id
        self._last_s: dict[str, float] = {}  # by arch id: the `last_s` of its newest lease
        self._arch_s: float | None = None  # what a board needs for an arch
        self._blocks = 0  # how many were given so far

    @property
    def leases(self) -> list[Lease]:
        return list(dict.fromkeys(self._leased.values()))

    @property
    def recorded(self) -> int:
        return len(self.archs) - len(self.missing)

    @property
    def quarantined(self) -> list[str]:
        """Ids of the archs that boards died on. A record that comes after all frees its arch."""
        return [arch_id for arch_id, deaths in self.deaths.items() if deaths >= DEATHS]

    @property
    def done(self) -> bool:
        return self.ended or len(self.missing) == len(self.quarantined)

    def status(self) -> ClassStatus:
        return ClassStatus(
            name=self.name, done=self.recorded, total=len(self.archs), boards=self.boards,
            leased=len(self._leased), quarantined=self.quarantined, ended=self.ended,
        )  # fmt: skip

    def give(self, board: Holder, now: float) -> Block | None:
        """Lease the next block to `board`; None if there is none for it.

        When there are no more blocks than boards, a board does not get a second one, which would
        only wait there.
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
        """Those that have no record, and that no board has."""
        ids = dict.fromkeys(arch_ids)  # a board may name the same arch twice
        return [i for i in ids if i in self.missing and i not in self._leased]

    def _lease(self, ids: list[str], board: Holder, now: float, job: str | None = None) -> Block:
        archs = [self.archs[arch_id] for arch_id in ids]
        block = self.request.block(archs, self._anchors, self._blocks)
        last_s = now + LONGEST_S
        if job is not None:  # it had the block before
            block = msgspec.structs.replace(block, id=job)
            last_s = min(self._last_s.get(i, last_s) for i in ids)
        self._blocks += 1
        self._last_s.update(dict.fromkeys(ids, last_s))
        lease = board.leases[block.id] = Lease(block, board, ids, now, now, last_s, now)
        ahead = sum(len(each.unrecorded) for each in board.leases.values())  # itself included
        lease.extend(self._allowed_s(ahead), now)
        self._leased.update(dict.fromkeys(ids, lease))
        return block

    def _allowed_s(self, archs: int) -> float:
        """How long a board may take for so many archs."""
        return FACTOR * (self._arch_s or FIRST_ARCH_S) * archs + GRACE_S

    def record(self, arch_id: str, now: float) -> None:
        """Note that a record of this arch is committed, whichever board sent it."""
        self.missing.discard(arch_id)
        del self.deaths[arch_id]
        lease = self._leased.pop(arch_id, None)
        if lease is None:
            return
        lease.unrecorded.remove(arch_id)
        if lease.unrecorded:
            return
        del lease.board.leases[lease.block.id]
        spent_s = (now - lease.start_s) / len(lease.block.archs)
        self._arch_s = spent_s if self._arch_s is None else 0.7 * self._arch_s + 0.3 * spent_s
        for next_lease in lease.board.leases.values():
            next_lease.start_s = now
            next_lease.extend(self._allowed_s(len(next_lease.unrecorded)), now)

    def release(self, board: Holder, *, died: bool) -> None:
        """Take back the blocks of a board that is gone, for other boards.

        If it died, the block that it worked on may have killed it. That block is given again in
        halves, until one arch is alone. When DEATHS boards have died on it, it is quarantined.
        """
        leases = list(board.leases.values())
        at_work = leases.pop(0) if died and leases else None
        self._put_back(leases)
        if at_work:
            self._suspect(at_work)

    def expired(self, now: float) -> list[Lease]:
        """Take back the leases that are past their deadline, as if their boards had died."""
        late = [lease for lease in self.leases if now > lease.deadline_s]
        for lease in late:
            self._suspect(lease)
        return late

    def postpone(self, board: Holder, now: float) -> None:
        """Start the time of a board's blocks again, because it cannot begin with them yet.

        Its leases still end at their `last_s`, however long it says so.
        """
        archs = 0
        for lease in board.leases.values():
            archs += len(lease.unrecorded)
            lease.start_s = now
            lease.extend(self._allowed_s(archs), now)

    def end(self) -> list[Lease]:
        """Give no more blocks, since enough is measured; returns the leases that this ends."""
        self.ended = True
        leases = self.leases
        self._put_back(leases)
        return leases

    def _suspect(self, lease: Lease) -> None:
        self._take_back(lease)
        half = len(lease.unrecorded) // 2
        if half:
            self.waiting.extendleft([lease.unrecorded[half:], lease.unrecorded[:half]])
            return
        (alone,) = lease.unrecorded
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
            self.waiting.appendleft(lease.unrecorded)

    def _take_back(self, lease: Lease) -> None:
        del lease.board.leases[lease.block.id]
        for arch_id in lease.unrecorded:
            del self._leased[arch_id]

    def adopt(self, board: Holder, held: wire.Holding, now: float) -> bool:
        """Lease to a board a block that it had before the connection, or this host, broke off.

        False if nothing of that block is wanted from this board. Such a lease ends when the first
        one of its archs would have: a board that comes back again and again wins no time.
        """
        if held.job in board.leases:
            return True
        if self.ended or len(board.leases) >= wire.WINDOW:
            return False
        free = self._free(i for i in held.archs[:BLOCK] if now < self._last_s.get(i, math.inf))
        if free:
            self._lease(free, board, now, held.job)
        return bool(free)

    def compare(
        self, board: Holder, holding: Collection[str], now: float
    ) -> tuple[list[Block], list[str]]:
        """Compare the ids of the blocks that a board has with its leases.

        Returns the blocks to send again, because it still lacks them RESEND_S after they were sent,
        and the ids that no lease has.
        """
        held, again = board.leases, []
        for lease in held.values():
            if lease.block.id not in holding and now - lease.sent_s > wire.RESEND_S:
                lease.sent_s = now
                archs = tuple(self.archs[arch_id] for arch_id in lease.unrecorded)
                again.append(msgspec.structs.replace(lease.block, archs=archs))
        return again, [job for job in holding if job not in held]

    def progressed(self, board: Holder, job: str, part: float, now: float) -> float:
        """Extend the lease of a block of which its board says that this part, 0 to 1, is measured.

        The other block of the board waits for this one, so its lease is extended as well. Returns
        the number of archs that are measured but have no record yet.
        """
        lease = board.leases.get(job)
        if lease is None or not 0 < part <= 1:
            return 0.0
        left_s = (now - lease.start_s) * (1 - part) / part
        for each in board.leases.values():
            each.extend(FACTOR * left_s + GRACE_S, now)
        return min(part * len(lease.block.archs), float(len(lease.unrecorded)))
