"""How many measurements --until-tau saves, on simulated latencies and real surrogates.

The latency of a network is the sum over its layers: each takes the time of its MACs or a fixed
time, whichever is longer, and the sum has 2 % noise. Archs are measured until the target is held.
The tau that counts is then taken on archs that were never measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import msgspec
import numpy as np

from ramnas_edge.measuring.drift import corrected_ms
from ramnas_edge.measuring.record import LatencyRecord, Target, Visit
from ramnas_host.fleet.until_tau import UntilTau
from ramnas_host.surrogates.surrogate import COST, Surrogate, fit, score
from ramnas_models.plan import plan
from ramnas_models.sampling import sample_by_macs
from ramnas_models.space import Arch, Space, load_space

BLOCK, HELD_OUT = 12, 400
MACS_PER_MS, LAYER_MS, NOISE = 2e6, 3e-3, 0.02


class Outcome(msgspec.Struct, frozen=True):
    """How many archs were `measured`, and tau: cross-validated, and on archs never measured."""

    measured: int
    cross_validated: float
    held_out: float


def latency_ms(space: Space, arch: Arch) -> float:
    return sum(max(layer.macs / MACS_PER_MS, LAYER_MS) for layer in plan(space, arch).layers())


def record(space: Space, arch: Arch) -> LatencyRecord:
    """A record such as a board sends, of 8 visits."""
    rng = np.random.default_rng(int(arch.id, 16))
    level = latency_ms(space, arch) * np.exp(NOISE * rng.normal())
    times = (level * np.exp(0.005 * rng.normal(size=(8, 6)))).tolist()
    visits = tuple(Visit(arch.id, arch.id, r, 0, tuple(t)) for r, t in enumerate(times))
    hw = (arch.resolution, arch.resolution)
    return LatencyRecord(
        "study", Target(), arch, arch.id, space.hash, hw, "board", "1", (), "ok", visits=visits
    )


def run(
    space: Space, *, target: float, samples: int, seed: int, held_out: int = HELD_OUT
) -> Outcome:
    """Measure block by block until the target is held, or all archs are measured."""
    rng = np.random.default_rng(seed)
    archs = sample_by_macs(space, rng, samples)
    left = [archs[i] for i in rng.permutation(samples)]
    until = UntilTau(space, target)
    records: list[LatencyRecord] = []
    while left and not until.finished("board", records):
        records += [record(space, arch) for arch in left[:BLOCK]]
        left = left[BLOCK:]
    surrogate = _fitted(space, records)
    tau = _tau_held_out(space, surrogate, records, held_out)
    return Outcome(len(records), surrogate.score.tau, tau)


def _fitted(space: Space, records: Sequence[LatencyRecord]) -> Surrogate:
    levels = corrected_ms(records)
    rows = space.encode_all([r.arch for r in records])
    return fit(space, rows, np.array([levels[r.arch_id] for r in records]), COST, log=True)


def _tau_held_out(
    space: Space, surrogate: Surrogate, records: Sequence[LatencyRecord], count: int
) -> float:
    """Kendall tau on `count` archs, less those that are among `records`."""
    seen = {r.arch_id for r in records}
    drawn = sample_by_macs(space, np.random.default_rng(10**6), count)
    archs = [arch for arch in drawn if arch.id not in seen]
    truth = np.array([latency_ms(space, arch) for arch in archs])
    mean, _ = surrogate.predict(space.encode_all(archs))
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
        found = run(space, target=args.target, samples=args.samples, seed=seed)
        print(
            f"seed {seed}: {found.measured} of {args.samples} measured; "
            f"tau {found.cross_validated:.3f} cross-validated, "
            f"{found.held_out:.3f} on archs never measured",
            flush=True,
        )


if __name__ == "__main__":
    main()
