"""When is a device class known well enough, and what to measure next until it is."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ramnas_edge.measuring.drift import corrected_ms
from ramnas_edge.measuring.record import OK, LatencyRecord
from ramnas_host.search.nsga2 import ranks
from ramnas_host.surrogates.encodings import integers
from ramnas_host.surrogates.surrogate import COST, MIN_RECORDS, Surrogate, cost_table, fit
from ramnas_models.errors import DataError
from ramnas_models.space import Arch, Space

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

log = logging.getLogger(__name__)

_AHEAD = 48  # archs that are chosen one by one, four blocks
_FRONT = 0.5  # an arch of the first front counts as so much less known
_DRAWN = 2  # at random, of which the one that is known less is taken


@dataclass
class _Known:
    """What one device class has taught so far; `taus` are of fits on more and more records."""

    archs: int = 0
    surrogate: Surrogate | None = None
    rows: Floats | None = None  # of what was measured, scaled
    taus: list[float] = field(default_factory=list)


class UntilTau:
    """Fits the latency surrogate (family `cost`) again whenever records have come; one state per
    device class.

    A class has `finished` when the cross-validated Kendall tau of its last `refits` fits, each on
    more records than the one before, was `target_tau` or more. The first fit is of MIN_RECORDS.
    `shared` archs are measured first whatever the surrogate says: by them classes are compared.
    """

    def __init__(
        self,
        space: Space,
        target_tau: float,
        *,
        seed: int,
        refits: int = 3,
        shared: Sequence[Arch] = (),
    ) -> None:
        if not 0 < target_tau < 1:
            raise DataError(f"a target tau of {target_tau:g}: above 0 and below 1, such as 0.95")
        self._space, self._target, self._seed, self._refits = space, target_tau, seed, refits
        self._shared = {arch.id for arch in shared}
        self._scaled = integers(space, cost_table(space))
        self._classes: dict[str, _Known] = {}

    def order(
        self, device_class: str, archs_left: list[Arch], records: Sequence[LatencyRecord]
    ) -> list[Arch]:
        """`archs_left`, those first that the surrogate knows least about.

        The next 48 are chosen one by one, each the less known of two drawn at random: doubt is the
        predicted relative std times the distance to the nearest arch that is measured or chosen,
        so that neighbours do not come together, times 1.5 where the arch may be on the front (most
        MACs for its predicted latency). The least known of all would be odd ones alone: cross-
        validation judges by what was measured, and would reach its target later.
        """
        known = self._fitted(device_class, records)
        first = [arch for arch in archs_left if arch.id in self._shared]
        rest = [arch for arch in archs_left if arch.id not in self._shared]
        if known.surrogate is None or known.rows is None or not rest:
            return [*first, *rest]
        weight = self._weight(rest, known.surrogate)
        rows = self._scaled(self._space.encode_all(rest))
        chosen = _spread(rows, known.rows, weight, self._seed + known.archs)
        return [*first, *(rest[i] for i in chosen)]

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
        known.surrogate, known.rows = surrogate, self._scaled(rows)
        tau = surrogate.score.tau
        known.taus.append(-1.0 if math.isnan(tau) else tau)
        log.info("%s: tau %.3f on %d archs", device_class, tau, len(measured))
        return known

    def _weight(self, archs: Sequence[Arch], surrogate: Surrogate) -> Floats:
        """Relative std of the prediction, more in the region of the front [n]."""
        rows = self._space.encode_all(archs)
        mean, std = surrogate.predict(rows)
        macs = cost_table(self._space).macs(rows)
        weight: Floats = std / np.maximum(mean, 1e-12)
        for rank, members in enumerate(ranks(np.column_stack([mean, -macs]))):
            weight[members] *= 1 + _FRONT / (1 + rank)
        return weight


def _spread(rows: Floats, measured: Floats, weight: Floats, seed: int) -> list[int]:
    """Indices of `rows` [n, slots] in the order of weight times distance to what came before."""
    rng = np.random.default_rng(seed)
    distance = np.min([np.linalg.norm(rows - row, axis=1) for row in measured], axis=0)
    order: list[int] = []
    left = np.ones(len(rows), dtype=bool)
    for _ in range(min(_AHEAD, len(rows))):
        waiting = np.flatnonzero(left)
        drawn = rng.choice(waiting, min(_DRAWN, len(waiting)), replace=False)
        pick = int(drawn[np.argmax((weight * distance)[drawn])])
        order.append(pick)
        left[pick] = False
        distance = np.minimum(distance, np.linalg.norm(rows - rows[pick], axis=1))
    rest = np.flatnonzero(left)
    return [*order, *rest[np.argsort(-(weight * distance)[rest], kind="stable")].tolist()]
