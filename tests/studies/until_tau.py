"""What --until-tau saves, and what its order of archs brings: simulated latencies, real surrogates.

A network's latency is its layers' one by one, each the time of its MACs or a fixed one, whichever
is longer, with 2 % noise. Both orders measure archs of the same draw until the target is held; the
tau that counts is then taken on archs that were never measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import msgspec
import numpy as np

from ramnas_edge.measuring.record import LatencyRecord, Target, Visit
from ramnas_host.fleet.until_tau import UntilTau
from ramnas_host.surrogates.surrogate import score
from ramnas_models.plan import plan
from ramnas_models.sampling import sample_by_macs
from ramnas_models.space import Arch, Space, load_space

BLOCK, HELD_OUT = 12, 400
MACS_PER_MS, LAYER_MS, NOISE = 2e6, 3e-3, 0.02


class Outcome(msgspec.Struct, frozen=True):
    """`measured` archs of those drawn; tau cross-validated, and on archs never measured."""

    measured: int
    cross_validated: float
    held_out: float


def latency_ms(space: Space, arch: Arch) -> float:
    return sum(max(layer.macs / MACS_PER_MS, LAYER_MS) for layer in plan(space, arch).layers())


def record(space: Space, arch: Arch) -> LatencyRecord:
    """As a board sends it, of 8 visits."""
    rng = np.random.default_rng(int(arch.id, 16))
    level = latency_ms(space, arch) * np.exp(NOISE * rng.normal())
    times = (level * np.exp(0.005 * rng.normal(size=(8, 6)))).tolist()
    visits = tuple(Visit(arch.id, arch.id, r, 0, tuple(t)) for r, t in enumerate(times))
    hw = (arch.resolution, arch.resolution)
    return LatencyRecord(
        "study", Target(), arch, arch.id, space.hash, hw, "board", "1", (), "ok", visits=visits
    )


def run(space: Space, *, target: float, samples: int, seed: int, ordered: bool) -> Outcome:
    """Measure block by block until the target is held, or all is measured."""
    rng = np.random.default_rng(seed)
    archs = sample_by_macs(space, rng, samples)
    left = [archs[i] for i in rng.permutation(samples)]
    until = UntilTau(space, target, seed=seed)
    records: list[LatencyRecord] = []
    while left and not until.finished("board", records):
        if ordered:
            left = until.order("board", left, records)
        records += [record(space, arch) for arch in left[:BLOCK]]
        left = left[BLOCK:]
    known = until._fitted("board", records)
    assert known.surrogate
    return Outcome(len(records), known.taus[-1], _held_out(space, known.surrogate, records))


def _held_out(space: Space, surrogate: object, records: Sequence[LatencyRecord]) -> float:
    seen = {r.arch_id for r in records}
    drawn = sample_by_macs(space, np.random.default_rng(10**6), HELD_OUT)
    archs = [arch for arch in drawn if arch.id not in seen]
    truth = np.array([latency_ms(space, arch) for arch in archs])
    mean, _ = surrogate.predict(space.encode_all(archs))  # type: ignore[attr-defined]
    return score(truth, mean).tau


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--space", default="table1")
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--target", type=float, default=0.95)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    space = load_space(args.space)
    for seed in range(args.seeds):
        for ordered in (False, True):
            found = run(space, target=args.target, samples=args.samples, seed=seed, ordered=ordered)
            print(
                f"seed {seed}, {'ordered' if ordered else 'as drawn'}: {found.measured} of "
                f"{args.samples} measured; tau {found.cross_validated:.3f} cross-validated, "
                f"{found.held_out:.3f} on archs never measured",
                flush=True,
            )


if __name__ == "__main__":
    main()
