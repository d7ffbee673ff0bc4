"""The front as a file: found over surrogates, then verified against the truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from ramnas_edge.record import OK, LatencyRecord, Target, corrected_ms
from ramnas_host import search, surrogate
from ramnas_host.surrogate import Score, Surrogate
from ramnas_models.errors import DataError
from ramnas_models.files import write_file
from ramnas_models.plan import plan
from ramnas_models.space import Arch, Space

if TYPE_CHECKING:
    from ramnas_host.surrogate import Floats


class Figures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """top-1 on the validation split (0 to 1); latency: drift-corrected median and raw p90, ms."""

    top1: float
    latency_ms: float
    p90_ms: float


class Candidate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    arch: Arch
    arch_id: str
    macs: int
    predicted: Figures
    measured: Figures | None = None


class Chosen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which family predicts a target, out of which, by cross-validation."""

    family: str
    scores: dict[str, Score]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Algorithm 1: P, top-K, T, p_m (the defaults are the paper's), once an infill round."""

    population: int = 5120
    parents: int = 2560
    generations: int = 30
    p_mutation: float = 0.2
    seed: int = 0
    infill_rounds: int = 4


class Front(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Candidates for the front, by predicted latency, and all that led to them."""

    space: str
    space_hash: str
    run: str
    device_class: str
    target: Target
    surrogates: dict[str, Chosen]
    settings: Settings
    candidates: tuple[Candidate, ...]

    def non_dominated(self) -> tuple[Candidate, ...]:
        """The verified candidates that no other beats in measured top-1 and p90, fast to slow."""
        verified = [c for c in self.candidates if c.measured]
        if not verified:
            raise DataError("no candidate of this front is verified yet: ramnas verify")
        values = np.array([[c.measured.p90_ms, -c.measured.top1] for c in verified if c.measured])
        best = search.non_dominated(values)
        return tuple(verified[i] for i in best[np.argsort(values[best, 0])])


def save(front: Front, path: Path) -> None:
    write_file(path, msgspec.json.format(msgspec.json.encode(front), indent=1))


def load(path: Path) -> Front:
    """Read a front; DataError if it is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Front)
    except (OSError, msgspec.DecodeError) as error:
        raise DataError(f"{path} is no front of ramnas: {error}") from error


class _Tried(msgspec.Struct, frozen=True):
    """An arch whose true top-1 is known, and what was predicted before it was."""

    arch: Arch
    true: float
    predicted: float


def find(
    space: Space,
    records: Sequence[LatencyRecord],
    samples: Sequence[tuple[Arch, float]],
    evaluate: Callable[[Sequence[Arch]], Sequence[float]],
    settings: Settings,
    *,
    most: int,
    on_generation: Callable[[int], None] = lambda number: None,
) -> Front:
    """Fit surrogates on what was measured, search, and keep at most `most` candidates.

    `samples` are archs with their true top-1, `evaluate` gives that of others. Each infill round
    tries the most promising new arch at each of `most` latencies, and the accuracy surrogate
    learns from them. Kept at the end is the non-dominated set, by predicted latency and true
    top-1, of all tried, and the next ranks until there are `most` / 2: which of them is better only
    a measurement can tell. `on_generation` hears how many generations are done.
    """
    latency = corrected_ms(records)
    latency_of, latency_scores = surrogate.fit_best(
        space,
        space.encode_all([r.arch for r in records]),
        np.array([latency[r.arch_id] for r in records]),
        log=True,
    )
    top1_of, top1_scores = _fit_top1(space, *zip(*samples, strict=True))
    tried = {
        arch: _Tried(arch, value, float(held_out))
        for (arch, value), held_out in zip(samples, top1_of.held_out, strict=True)
    }
    generation = 0

    def count(_: int) -> None:
        nonlocal generation
        generation += 1
        on_generation(generation)

    for number in range(settings.infill_rounds):
        rows, values = search.search(
            space,
            [lambda rows: latency_of.predict(rows)[0], _negative(top1_of)],
            population=settings.population,
            parents=settings.parents,
            generations=settings.generations,
            p_mutation=settings.p_mutation,
            seed=settings.seed + number,
            on_generation=count,
        )
        known = {tuple(arch.integers) for arch in tried}
        fresh = np.array([tuple(row) not in known for row in rows.tolist()])
        chosen = _best_by_latency(values[fresh], most)
        promised = {space.decode(rows[fresh][i]): -values[fresh][i, 1] for i in chosen}
        new = list(promised)
        for arch, value in zip(new, evaluate(new), strict=True):
            tried[arch] = _Tried(arch, value, float(promised[arch]))
        top1_of, top1_scores = _fit_top1(space, list(tried), [t.true for t in tried.values()])
    return Front(
        space=space.name,
        space_hash=space.hash,
        run=records[0].run,
        device_class=records[0].device_class,
        target=records[0].target,
        surrogates={
            "latency": Chosen(latency_of.family, latency_scores),
            "top1": Chosen(top1_of.family, top1_scores),
        },
        settings=settings,
        candidates=_candidates(space, list(tried.values()), latency_of, latency, records, most),
    )


def _best_by_latency(values: Floats, bins: int) -> list[int]:
    """The row with the least second objective in each of `bins` equal parts of log latency."""
    log_ms = np.log(values[:, 0])
    part = np.minimum(bins - 1, bins * (log_ms - log_ms.min()) / np.ptp(log_ms)).astype(int)
    best = {}
    for i in np.argsort(-values[:, 1]):
        best[part[i]] = int(i)
    return sorted(best.values())


def _fit_top1(
    space: Space, archs: Sequence[Arch], truth: Sequence[float]
) -> tuple[Surrogate, dict[str, Score]]:
    return surrogate.fit_best(space, space.encode_all(archs), np.array(truth), log=False)


def _negative(top1_of: Surrogate) -> search.Objective:
    return lambda rows: -top1_of.predict(rows)[0]


def _candidates(
    space: Space,
    tried: Sequence[_Tried],
    latency_of: Surrogate,
    latency: dict[str, float],
    records: Sequence[LatencyRecord],
    most: int,
) -> tuple[Candidate, ...]:
    # p90 follows the median by what the records show; it is too noisy to be learnt by itself
    ratio = float(np.median([r.p90_ms / latency[r.arch_id] for r in records if r.p90_ms]))
    ms = latency_of.predict(space.encode_all([t.arch for t in tried]))[0]
    ranks = search.ranks(np.column_stack([ms, [-t.true for t in tried]]))
    near = ranks[0]
    for rank in ranks[1:]:  # latency is predicted and top-1 counted on few images: close calls
        if len(near) < most // 2:
            near = np.concatenate([near, rank])
    near = near[np.argsort(ms[near])]
    chosen = [near[i] for i in spread(ms[near], most)]
    return tuple(
        Candidate(
            arch=tried[i].arch,
            arch_id=tried[i].arch.id,
            macs=plan(space, tried[i].arch).macs,
            predicted=Figures(min(1.0, tried[i].predicted), float(ms[i]), float(ms[i]) * ratio),
        )
        for i in chosen
    )


def spread(latency: Floats, most: int) -> list[int]:
    """Indices of at most `most` of the rising `latency` values, even in log, both ends included."""
    if len(latency) <= most:
        return list(range(len(latency)))
    wanted = np.geomspace(latency[0], latency[-1], most)
    return sorted({int(np.abs(np.log(latency / w)).argmin()) for w in wanted})


def verified(front: Front, accuracies: Sequence[float], records: Sequence[LatencyRecord]) -> Front:
    """The same front with measured figures; a candidate without a valid record stays unmeasured."""
    latency = corrected_ms(records)
    p90 = {r.arch_id: r.p90_ms for r in records if r.validity == OK and r.p90_ms is not None}
    candidates = [
        msgspec.structs.replace(
            c, measured=Figures(value, latency[c.arch_id], p90[c.arch_id])
        ) if c.arch_id in p90 else c
        for c, value in zip(front.candidates, accuracies, strict=True)
    ]  # fmt: skip
    return msgspec.structs.replace(front, candidates=tuple(candidates))


def table(front: Front) -> str:
    """Predicted and measured side by side, one candidate a line."""
    lines = ["arch          MMACs   top-1 pred  meas   median ms pred  meas    p90 ms pred  meas"]
    for c in front.candidates:
        p, m = c.predicted, c.measured
        top1, median, p90 = (
            (f"{m.top1:.1%}", f"{m.latency_ms:.3f}", f"{m.p90_ms:.3f}") if m else ("-", "-", "-")
        )
        lines.append(
            f"{c.arch_id}  {c.macs / 1e6:5.2f}  {p.top1:10.1%} {top1:>6}"
            f"  {p.latency_ms:13.3f} {median:>6}  {p.p90_ms:12.3f} {p90:>6}"
        )
    return "\n".join(lines)
