"""How many measurements --until-tau saves, on simulated latencies and real surrogates.

The latency of a network is the sum over its layers: each takes the time of its MACs or a fixed
time, whichever is longer, and the sum has 2 % noise. Archs are measured until the target is held.
The tau that counts is then taken on measurements of other archs: of archs that are spread over MACs
as the first ones, and of archs that are drawn uniformly.
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
    """How many archs were `measured`, and four taus.

    `cross_validated` foretells `held_out`, the one on other archs that are spread over MACs.
    `expected` foretells `uniform`, the one on archs that are drawn uniformly.
    """

    measured: int
    cross_validated: float
    held_out: float
    expected: float
    uniform: float


def latency_ms(space: Space, arch: Arch) -> float:
    return sum(max(layer.macs / MACS_PER_MS, LAYER_MS) for layer in plan(space, arch).layers())


def measured_ms(space: Space, arch: Arch) -> float:
    """What a measurement of an arch shows, the same each time."""
    rng = np.random.default_rng(int(arch.id, 16))
    return latency_ms(space, arch) * float(np.exp(NOISE * rng.normal()))


def record(space: Space, arch: Arch) -> LatencyRecord:
    """A record such as a board sends, of 8 visits."""
    rng = np.random.default_rng(int(arch.id, 16) + 1)
    level = measured_ms(space, arch)
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
    rng = np.random.default_rng(10**6)
    held_out_tau, uniform = (
        _tau_held_out(space, surrogate, records, drawn)
        for drawn in (
            sample_by_macs(space, rng, held_out),
            [space.decode(row) for row in space.sample_rows(held_out, rng)],
        )
    )
    expected = surrogate.score.tau_uniform or 0.0
    return Outcome(len(records), surrogate.score.tau, held_out_tau, expected, uniform)


def _fitted(space: Space, records: Sequence[LatencyRecord]) -> Surrogate:
    levels = corrected_ms(records)
    rows = space.encode_all([r.arch for r in records])
    return fit(space, rows, np.array([levels[r.arch_id] for r in records]), COST, log=True)


def _tau_held_out(
    space: Space, surrogate: Surrogate, records: Sequence[LatencyRecord], drawn: Sequence[Arch]
) -> float:
    """Kendall tau on measurements of the archs `drawn`, less those that are among `records`."""
    seen = {r.arch_id for r in records}
    archs = [arch for arch in drawn if arch.id not in seen]
    truth = np.array([measured_ms(space, arch) for arch in archs])
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
            f"{found.held_out:.3f} on other archs; over uniform archs "
            f"{found.expected:.3f} expected, {found.uniform:.3f} true",
            flush=True,
        )


if __name__ == "__main__":
    main()
