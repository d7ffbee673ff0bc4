"""Records and fronts of the space `micro` for tests, with values chosen by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from ramnas_edge.measuring.energy import Energy
from ramnas_edge.measuring.record import LatencyRecord, Target, Visit
from ramnas_host.search.front import FORMAT, Candidate, Front, ObjectiveValue, Settings
from ramnas_host.search.objectives import LATENCY, TOP1, Objective
from ramnas_models.accuracy import share
from ramnas_models.plan import plan
from ramnas_models.sampling import sample_by_macs
from ramnas_models.space import Arch, load_space

SPACE = load_space("micro")
BOARD = Objective(LATENCY, "board", Target(), ("run",))


def record(
    arch: Arch, ms: float, *, run: str = "run", device: str = "board", mj: float | None = None,
    space: str = SPACE.hash, validity: str = "ok", **target: object,
) -> LatencyRecord:  # fmt: skip
    """A record of two visits whose p90 is 1.2 times the median `ms`; each run has one block."""
    full_target = msgspec.structs.replace(Target(), **target)
    position = int(arch.id, 16)
    visits = tuple(Visit(arch.id, f"{run}-b", i, position, (ms, ms), float(i)) for i in range(2))
    return LatencyRecord(
        run, full_target, arch, arch.id, space, full_target.hw(arch), device, "1", (), validity,
        visits=visits, p50_ms=ms, p90_ms=1.2 * ms,
        energy=None if mj is None else Energy(mj, 100.0, 900.0, "VDD_IN", 10, 1.0),
    )  # fmt: skip


def ms_of(arch: Arch) -> float:
    """A made-up latency that grows with the number of blocks and with the MACs."""
    layout = plan(SPACE, arch)
    return 0.02 * len(layout.blocks) + layout.macs / 2e7


def records(n: int = 60, seed: int = 0, **what: object) -> list[LatencyRecord]:
    archs = sample_by_macs(SPACE, np.random.default_rng(seed), n)
    return [record(arch, ms_of(arch), **what) for arch in archs]


def top1_of(archs: Sequence[Arch]) -> list[float]:
    """A made-up top-1 that rises with the widths and the resolution, ever more slowly."""
    low, high = (SPACE.encode(a)[:10] for a in (SPACE.min(), SPACE.max()))
    share = (SPACE.encode_all(archs)[:, :10] - low) / (high - low)
    return (0.9 + 0.09 * np.sqrt(share.mean(1))).tolist()


def front(
    *measured: Mapping[str, ObjectiveValue],
    objectives: Sequence[Objective] = (Objective(TOP1), BOARD),
) -> Front:
    """A front of candidates with these measured values and equal predicted ones."""
    archs = sample_by_macs(SPACE, np.random.default_rng(0), len(measured) + 2)
    candidates = tuple(
        Candidate(
            arch, arch.id, 10**6, {o.name: ObjectiveValue(0.5) for o in objectives}, dict(values)
        )
        for arch, values in zip(archs, measured, strict=False)
    )
    return Front(FORMAT, "micro", SPACE.hash, tuple(objectives), (), {}, Settings(), (), candidates)


def timed(*pairs: tuple[float, float]) -> Front:
    """A verified front from pairs of p90 in ms on the board and top-1, the same on both splits."""
    return seen(*((ms, top1, top1) for ms, top1 in pairs))


def seen(*triples: tuple[float, float, float]) -> Front:
    """A verified front from p90 in ms on the board, top-1 on selection and top-1 on report."""
    found = front(
        *(
            {TOP1: ObjectiveValue(report), BOARD.name: ObjectiveValue(ms / 1.2, ms)}
            for ms, _, report in triples
        )
    )
    candidates = (
        msgspec.structs.replace(
            c,
            accuracies=(share(TOP1, chosen, "selection", 500), share(TOP1, report, "report", 250)),
        )
        for c, (_, chosen, report) in zip(found.candidates, triples, strict=True)
    )
    return msgspec.structs.replace(found, candidates=tuple(candidates))
