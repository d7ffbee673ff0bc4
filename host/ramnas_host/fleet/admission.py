"""What a message must be to count: of a board that can take part, of a job that was given, sane."""

from __future__ import annotations

import math
from collections.abc import Collection

import msgspec

from ramnas_edge.board.device import Device
from ramnas_edge.board.telemetry import Conditions
from ramnas_edge.fleet import wire
from ramnas_edge.measuring.record import FAILED, INCONCLUSIVE, OK, LatencyRecord, Target, record_key
from ramnas_edge.measuring.request import Request
from ramnas_models.space import Arch

MAX_BOARDS, MAX_CLASSES = 10_000, 32
MAX_CLASS_NAME = 200
MAX_TEXT = 4096  # characters of a reason

_MAY_BE_NULL = {
    field.name.encode()
    for struct in (LatencyRecord, Target, Device, Conditions)
    for field in msgspec.structs.fields(struct)
    if field.default is None
}


class Admission:
    """The rules of one request; each answer is why not, in words, or empty."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self._space_hash = request.space.hash
        self._asked: dict[str, dict[str, tuple[Arch, wire.Key]]] = {}  # class -> arch id ->

    def hello(self, hello: wire.Hello) -> str:
        """Why a board cannot take part."""
        target = self.request.target
        engines = dict(hello.engines)
        if hello.protocol != wire.PROTOCOL:
            return f"it speaks protocol {hello.protocol}, this host {wire.PROTOCOL}"
        if target.engine not in engines:
            return f"it has no {target.engine}, only {', '.join(engines) or 'no engine'}"
        if len(self.device_class(hello)) > MAX_CLASS_NAME:
            return f"its device class has a name of more than {MAX_CLASS_NAME} characters"
        return ""

    def device_class(self, hello: wire.Hello) -> str:
        engine = self.request.target.engine
        return hello.device.class_key(engine, dict(hello.engines)[engine])

    def open(self, device_class: str) -> None:
        """Boards of this class may send records of the archs that it is asked for."""
        if device_class not in self._asked:
            run, target = self.request.run, self.request.target
            self._asked[device_class] = {
                arch.id: (arch, record_key(run, target, arch, device_class))
                for arch in self.request.archs_of(device_class)
            }

    def close(self, device_class: str) -> None:
        self._asked.pop(device_class, None)

    def key(self, record: LatencyRecord, classes: Collection[str]) -> wire.Key | None:
        """The record's key, if a board of these classes was asked for it; not hashed anew."""
        if record.device_class not in classes:
            return None
        asked_of = self._asked.get(record.device_class, {})
        arch, key = asked_of.get(record.arch_id, (None, None))
        request = self.request
        asked = (
            record.arch == arch
            and record.run == request.run
            and record.target == request.target
            and record.space_hash == self._space_hash
        )
        return key if asked else None

    def insane(self, record: LatencyRecord, text: bytes) -> str:
        """What of the values cannot be true; `text` is the record as the store keeps it."""
        if record.validity not in (OK, INCONCLUSIVE, FAILED):
            return "a validity that is none"
        if len(record.reason) > MAX_TEXT:
            return "a reason without end"
        if not _finite(record, text):
            return "a value that is no number"
        figures = (record.p50_ms, record.p90_ms, record.mean_ms)
        if record.validity == FAILED or not record.visits:
            return "figures of nothing" if any(f is not None for f in figures) else ""
        times = [visit.times_ms for visit in record.visits]
        try:
            low, high = min(map(min, times)), max(map(max, times))
            lowest = min([low, *map(min, [visit.times_ms for visit in record.anchors])])
        except ValueError:
            return "a visit without times"
        if lowest <= 0:
            return "a time that cannot be"
        if any(visit.arch_id != record.arch_id for visit in record.visits):
            return "a visit of another arch"
        if not all(f is not None and 0.999 * low <= f <= 1.001 * high for f in figures):
            return "a figure that is not of its visits"
        return ""


def _finite(record: LatencyRecord, text: bytes) -> bool:
    """Whether all its numbers are: JSON has null for NaN, and the store would read back as another
    record or not at all. Decoding the whole of each again would take as long as all else."""
    single = (record.p95_ms, record.p99_ms, record.p90_bound_ms, record.cv)
    parts = (record.device, record.conditions, record.sustained, record.energy)
    return (
        all(value is None or math.isfinite(value) for value in single)
        and all(part is None or _stays(part, msgspec.json.encode(part)) for part in parts)
        and (not _has_odd_null(text) or _stays(record, text))
    )


def _has_odd_null(text: bytes) -> bool:
    """Whether a null stands, or seems to, where the field is not one that may be null."""
    at = text.find(b"null")
    while at >= 0:
        before = text[at - 1 : at]
        if before in (b",", b"["):
            return True
        if before == b":" and text[text.rfind(b'"', 0, at - 2) + 1 : at - 2] not in _MAY_BE_NULL:
            return True
        at = text.find(b"null", at + 4)
    return False


def _stays(part: msgspec.Struct, text: bytes) -> bool:
    """Whether it reads back as it is."""
    try:
        return bool(msgspec.json.decode(text, type=type(part)) == part)
    except msgspec.DecodeError:
        return False
