"""Decides from its records whether a device class is known well enough to stop measuring it."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ramnas_edge.measuring.drift import corrected_ms
from ramnas_edge.measuring.record import OK, LatencyRecord
from ramnas_host.surrogates.surrogate import COST, MIN_RECORDS, fit
from ramnas_models.errors import DataError
from ramnas_models.space import Space

log = logging.getLogger(__name__)


@dataclass
class _Known:
    """What one device class has taught so far; `taus` are of fits on more and more records."""

    archs: int = 0
    taus: list[float] = field(default_factory=list)


class UntilTau:
    """Fits the latency surrogate (family `cost`) again whenever records have come; one state per
    device class.

    A class has `finished` when the cross-validated Kendall tau of its last `refits` fits, each on
    more records than the one before, was `target_tau` or more. The first fit is of MIN_RECORDS.
    """

    def __init__(self, space: Space, target_tau: float, *, refits: int = 3) -> None:
        if not 0 < target_tau < 1:
            raise DataError(f"a target tau of {target_tau:g}: above 0 and below 1, such as 0.95")
        self._space, self._target, self._refits = space, target_tau, refits
        self._classes: dict[str, _Known] = {}

    def finished(self, device_class: str, records: Sequence[LatencyRecord]) -> bool:
        """Whether the target has been held."""
        taus = self._fitted(device_class, records).taus[-self._refits :]
        return len(taus) == self._refits and min(taus) >= self._target

    def saved(self, done: int, total: int) -> str:
        """What stopping after `done` of `total` measurements was good for, in words."""
        part = (total - done) / total if total else 0.0
        return (
            f"{done} of {total} measured: tau {self._target:g} held over {self._refits} fits, "
            f"{total - done} measurements ({part:.0%}) saved"
        )

    def _fitted(self, device_class: str, records: Sequence[LatencyRecord]) -> _Known:
        known = self._classes.setdefault(device_class, _Known())
        archs = {r.arch_id: r.arch for r in records if r.validity == OK}
        if len(archs) < MIN_RECORDS or len(archs) <= known.archs:
            return known
        # the drift is seen across all, the doubtful ones too
        level = corrected_ms(records)
        measured = [arch for arch_id, arch in archs.items() if arch_id in level]
        known.archs = len(archs)
        if len(measured) < MIN_RECORDS:
            return known
        y = np.array([level[arch.id] for arch in measured])
        rows = self._space.encode_all(measured)
        try:
            surrogate = fit(self._space, rows, y, COST, log=True)
        except DataError as error:
            log.warning("%s: no surrogate of %d archs: %s", device_class, len(measured), error)
            return known
        tau = surrogate.score.tau
        known.taus.append(-1.0 if math.isnan(tau) else tau)
        log.info("%s: tau %.3f on %d archs", device_class, tau, len(measured))
        return known
