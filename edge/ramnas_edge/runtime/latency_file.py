"""Measured latencies of whole calls, kept from one start to the next: one file per device class.

`ramnas-edge calibrate` writes calibrated latencies. A start on a board without them times a few
models and keeps these latencies here too. The device class includes the power mode and the engine's
version, so a file never mixes them.
"""

from __future__ import annotations

import datetime
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Iterable, Optional, Tuple

import msgspec

from ramnas_edge.board.folders import cache_folder
from ramnas_models import bundle
from ramnas_models.files import write_file

if TYPE_CHECKING:
    from ramnas_edge.measuring.record import Target

log = logging.getLogger(__name__)

Key = Tuple[str, Tuple[int, int], str, int, int]


class StoredLatency(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The p90 in ms of whole calls of one graph, on batches of frames of `frame_hw`.

    `sha256` is the hash of the graph. For graphs of several tasks that run on the same frames it
    is their hashes, joined by "+". `calibrated` means that the profiler measured the graph in many
    rounds. Otherwise it was timed quickly at start-up, which a busy moment can spoil.
    """

    sha256: str
    frame_hw: Tuple[int, int]
    precision: str
    threads: int
    p90_ms: float
    runs: int
    calibrated: bool
    batch: int = 1
    date: str = ""  # `keep` sets it

    @property
    def key(self) -> Key:
        return self.sha256, self.frame_hw, self.precision, self.threads, self.batch


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    device_class: str
    figures: Tuple[StoredLatency, ...]


def in_manifest(
    device_class: str, target: Target, p90_ms: float, corrected_ms: float
) -> bundle.Latency:
    """Return the latency measured under `target` in the form of a bundle's manifest.

    `p90_ms` is raw; `corrected_ms` is the median with the machine's drift taken out.
    """
    return bundle.Latency(
        device_class=device_class,
        engine=target.engine,
        precision=target.precision,
        threads=target.threads,
        batch=target.batch,
        frame_hw=target.frame_hw,
        p90_ms=p90_ms,
        corrected_ms=corrected_ms,
    )


def path_of(device_class: str) -> Path:
    """Return $XDG_CACHE_HOME/ramnas/latencies/<device class>.json, or the same below ~/.cache."""
    return cache_folder() / "latencies" / f"{device_class}.json"


def read(path: Path) -> Tuple[StoredLatency, ...]:
    """Read the latencies in a file; OSError or msgspec.DecodeError if that is impossible."""
    return msgspec.json.decode(path.read_bytes(), type=_File).figures


def known(device_class: str) -> Tuple[StoredLatency, ...]:
    """Read all latencies of this device class.

    If the file cannot be read, log a warning and treat it as empty.
    """
    path = path_of(device_class)
    try:
        return read(path)
    except FileNotFoundError:
        return ()
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        log.warning("ignoring %s: %s; delete it, or calibrate again", path, error)
        return ()


def today() -> str:
    return datetime.date.today().isoformat()


def find(latencies: Iterable[StoredLatency], key: Key) -> Optional[StoredLatency]:
    return next((latency for latency in latencies if latency.key == key), None)


def keep(device_class: str, latencies: Iterable[StoredLatency]) -> Path:
    """Write `latencies` into the file, in place of older ones with the same key; return its path.

    Only a calibrated latency replaces a calibrated one. When a graph is calibrated, the latencies
    that it had together with other graphs are dropped. They were timed quickly at start-up, so the
    next start times these graphs together again. FileError if the file cannot be written.
    """
    latencies = [*latencies]
    calibrated = {latency.sha256 for latency in latencies if latency.calibrated}
    kept = {
        latency.key: latency
        for latency in known(device_class)
        if "+" not in latency.sha256 or calibrated.isdisjoint(latency.sha256.split("+"))
    }
    for latency in latencies:
        if latency.calibrated or latency.key not in kept or not kept[latency.key].calibrated:
            kept[latency.key] = msgspec.structs.replace(latency, date=today())
    content = msgspec.json.encode(_File(device_class, tuple(kept.values())))
    path = path_of(device_class)
    write_file(path, msgspec.json.format(content, indent=1) + b"\n")
    return path
