"""Records of boards measured before -> a latency surrogate of each, from which a new one starts."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from ramnas_edge.measuring import drift
from ramnas_edge.measuring.record import OK, LatencyRecord, Target
from ramnas_host.surrogates import surrogate
from ramnas_host.surrogates.noise_floor import floor_ms
from ramnas_host.surrogates.surrogate import Surrogate
from ramnas_models.errors import DataError
from ramnas_models.space import Space

log = logging.getLogger(__name__)


def prior_boards(
    records: Sequence[LatencyRecord], space: Space
) -> dict[tuple[str, str], Surrogate]:
    """Fit a surrogate for each device class and task, from the first target with enough records.

    Only valid records count. DataError for records of another space, or if no board has enough.
    """
    groups: dict[tuple[str, Target], list[LatencyRecord]] = {}
    for record in records:
        if record.space_hash != space.hash:
            raise DataError(f"run {record.run} holds records of another space than {space.name}")
        if record.validity == OK:
            groups.setdefault((record.device_class, record.target), []).append(record)
    found: dict[tuple[str, str], Surrogate] = {}
    for (device, target), own in groups.items():
        fitted = drift.fit(drift.visits_of(own))
        archs = {r.arch_id: r.arch for r in own}
        rows = space.encode_all(list(archs.values()))
        values = np.exp([fitted.level[arch_id] for arch_id in archs])
        if (device, target.task) in found or len(rows) < surrogate.MIN_RECORDS:
            log.info("not used: %d records of %s, %s", len(rows), device, target.task)
            continue
        found[device, target.task] = surrogate.fit(
            space, rows, values, surrogate.COST, log=True, input_hw=target.input_hw,
            floor_ms=floor_ms(fitted),
        )  # fmt: skip
    if not found:
        raise DataError(
            f"no board to start from: none has {surrogate.MIN_RECORDS} valid records for one task"
        )
    return found
