"""What whole calls take on this class of board: one file per device class, figures by graph.

`ramnas-edge calibrate` writes calibrated figures; a start on an unknown board times a few models
and remembers them here too. The device class names the power mode and the engine's version.
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
    """p90 (ms) of whole calls of the graph with this hash, on batches of frames of `frame_hw`.

    Several hashes with "+" between them: graphs of several tasks, on the same frames.
    `calibrated`: by the profiler, in many rounds; else a quick look at a start, which a busy
    moment may spoil.
    """

    sha256: str
    frame_hw: Tuple[int, int]
    precision: str
    threads: int
    p90_ms: float
    runs: int
    calibrated: bool
    batch: int = 1
    date: str = ""  # set when it is kept

    @property
    def key(self) -> Key:
        return self.sha256, self.frame_hw, self.precision, self.threads, self.batch


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    device_class: str
    figures: Tuple[StoredLatency, ...]


def in_manifest(
    device_class: str, target: Target, p90_ms: float, corrected_ms: float
) -> bundle.Latency:
    """What was measured as `target` says, as a manifest tells it; p90 raw, the median corrected."""
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
    """$XDG_CACHE_HOME/ramnas/latencies/<device class>.json, or the same below ~/.cache."""
    return cache_folder() / "latencies" / f"{device_class}.json"


def known(device_class: str) -> Tuple[StoredLatency, ...]:
    """All that is known; a file that cannot be read is said and counts as empty."""
    path = path_of(device_class)
    try:
        return msgspec.json.decode(path.read_bytes(), type=_File).figures
    except FileNotFoundError:
        return ()
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        log.warning("%s is ignored: %s; delete it, or calibrate again", path, error)
        return ()


def today() -> str:
    return datetime.date.today().isoformat()


def find(figures: Iterable[StoredLatency], key: Key) -> Optional[StoredLatency]:
    return next((figure for figure in figures if figure.key == key), None)


def keep(device_class: str, figures: Iterable[StoredLatency]) -> Path:
    """Add `figures` to the file, in place of older ones of the same graph; FileError.

    A calibrated one is replaced by a calibrated one only. What graphs took together is forgotten
    when one of them is calibrated: it was a quick look, which is due again.
    """
    figures = [*figures]
    anew = {figure.sha256 for figure in figures if figure.calibrated}
    kept = {
        figure.key: figure
        for figure in known(device_class)
        if "+" not in figure.sha256 or anew.isdisjoint(figure.sha256.split("+"))
    }
    for figure in figures:
        if figure.calibrated or figure.key not in kept or not kept[figure.key].calibrated:
            kept[figure.key] = msgspec.structs.replace(figure, date=today())
    content = msgspec.json.encode(_File(device_class, tuple(kept.values())))
    path = path_of(device_class)
    write_file(path, msgspec.json.format(content, indent=1) + b"\n")
    return path
