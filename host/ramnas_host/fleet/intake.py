"""Records that boards send -> the store: checked one by one, then committed together."""

from __future__ import annotations

from collections import defaultdict

import msgspec

from ramnas_edge.fleet import wire
from ramnas_edge.measuring.record import FAILED, INCONCLUSIVE, OK, LatencyRecord
from ramnas_edge.measuring.request import Request
from ramnas_edge.measuring.store import Store, as_text
from ramnas_host.fleet.boards import Board
from ramnas_host.fleet.dispatch import Queue

MAX_TEXT = 4096  # the limit of a record's reason, in characters


class Intake:
    """Takes the records that one request asks for."""

    def __init__(self, request: Request, store: Store, queues: dict[str, Queue]) -> None:
        """`queues` are those of all device classes, by name."""
        self.request, self.store, self.queues = request, store, queues
        self._space_hash = request.space.hash
        self._taken: list[tuple[Board, Queue, wire.Key, LatencyRecord, bytes]] = []

    def take(self, board: Board, record: LatencyRecord, size: int) -> str:
        """Check a record, whose message has `size` bytes, and keep it for the next commit.

        Returns why it is refused, or an empty text.
        """
        queue = self.queues.get(record.device_class)
        if queue is None or queue.name not in board.classes or not self._asked(queue, record):
            return "a record for a job that was never given"
        if size > wire.MAX_RECORD_BYTES:
            return "a record that is too large"
        text = as_text(record)
        implausible = _implausible(record, text)
        if implausible:
            return f"a record with {implausible}"
        self._taken.append((board, queue, queue.keys[record.arch_id], record, text))
        return ""

    def commit(self, now: float) -> dict[Board, list[wire.Key]]:
        """Commit all records that were taken, in one transaction; returns the keys to acknowledge.

        The store ignores a record that it already has.
        """
        taken, self._taken = self._taken, []
        if taken:
            self.store.add_all((key, record, text) for _, _, key, record, text in taken)
        acks: defaultdict[Board, list[wire.Key]] = defaultdict(list)
        for board, queue, key, record, _ in taken:
            acks[board].append(key)
            if record.arch_id in queue.missing:  # the first time that it came
                queue.record(record.arch_id, now)
                board.recorded(now)
        return acks

    def _asked(self, queue: Queue, record: LatencyRecord) -> bool:
        """Whether this class was asked for it. Then its key is known: the one in `queue.keys`."""
        return (
            record.arch == queue.archs.get(record.arch_id)
            and record.run == self.request.run
            and record.target == self.request.target
            and record.space_hash == self._space_hash
            and not record.model  # a board with a bundle measures for itself
        )


def _implausible(record: LatencyRecord, text: bytes) -> str:
    """Which of a record's values cannot be true, or an empty text; `text` is its JSON."""
    if record.validity not in (OK, INCONCLUSIVE, FAILED):
        return "an unknown validity"
    if len(record.reason) > MAX_TEXT:
        return "a reason that is too long"
    if not _reads_back(record, text):
        return "a value that is not a number"
    figures = (record.p50_ms, record.p90_ms, record.mean_ms)
    if record.validity == FAILED or not record.visits:
        return "figures, but no visits" if any(f is not None for f in figures) else ""
    times = [visit.times_ms for visit in (*record.visits, *record.anchors)]
    if not all(times):
        return "a visit without times"
    if min(map(min, times)) <= 0:
        return "a time that is not above 0"
    if any(visit.arch_id != record.arch_id for visit in record.visits):
        return "a visit of another arch"
    low = 0.999 * min(min(visit.times_ms) for visit in record.visits)
    high = 1.001 * max(max(visit.times_ms) for visit in record.visits)
    if not all(figure is not None and low <= figure <= high for figure in figures):
        return "figures that do not follow from its visits"
    return ""


def _reads_back(record: LatencyRecord, text: bytes) -> bool:
    """Whether `text` decodes to this record. JSON writes NaN as null, so a record with a NaN would
    be read as another record, or not at all.

    Decoding each record would take as long as everything else that is done with it. But if the text
    has only as many nulls as the record has fields that are None, no null stands for a number.
    """
    parts = (record, record.target, record.device, record.conditions)
    values = [
        value for part in parts if part is not None for value in msgspec.structs.astuple(part)
    ]
    if text.count(b"null") == sum(value is None for value in values):
        return True
    try:
        return bool(msgspec.json.decode(text, type=LatencyRecord) == record)
    except msgspec.DecodeError:
        return False
