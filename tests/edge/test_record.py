from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramnas_edge.record import LatencyRecord, Target, Visit, corrected_ms, record_key, spread
from ramnas_models.space import Arch, load_space

SPACE = load_space("micro")


def records(
    archs: list[Arch], true_ms: list[float], drift: np.ndarray, noise: float, seed: int
) -> list[LatencyRecord]:
    """Two blocks, eight rounds each: arch 0 and 1 are anchors, the rest is split in two."""
    rng = np.random.default_rng(seed)
    result = []
    half = len(archs) // 2 + 1
    for block, members in (("a", archs[2:half]), ("b", archs[half:])):
        anchors: list[Visit] = []
        own: dict[str, list[Visit]] = {a.id: [] for a in members}
        for number in range(8):
            factor = drift[number + (8 if block == "b" else 0)]
            ladder = [*archs[:2], *members, *archs[:2]]
            for position, arch in enumerate(ladder):
                ms = true_ms[archs.index(arch)] * factor * np.exp(rng.normal(0, noise))
                visit = Visit(arch.id, block, number, position, (ms * 1.01, ms, ms * 0.99))
                is_anchor = position in (0, 1, len(ladder) - 2, len(ladder) - 1)
                (anchors if is_anchor else own[arch.id]).append(visit)
        for arch in members:
            result.append(
                LatencyRecord(
                    "run", Target(), arch, arch.id, SPACE.hash, (24, 24), "dev", "1", (), "ok",
                    visits=tuple(own[arch.id]), anchors=tuple(anchors),
                )
            )  # fmt: skip
    return result


ARCHS = SPACE.sample_by_macs(np.random.default_rng(0), 14)
TRUE_MS = [float(ms) for ms in np.geomspace(1, 5, 14)]


@given(st.integers(0, 1000))
def test_drift_between_rounds_and_blocks_comes_out(seed: int) -> None:
    rng = np.random.default_rng(seed)
    drift = np.exp(rng.normal(0, 0.2, 16))  # a machine that speeds up and slows down by 20 %
    found = corrected_ms(records(ARCHS, TRUE_MS, drift, 0.0, seed))
    ratio = np.array([found[a.id] / ms for a, ms in zip(ARCHS, TRUE_MS)])
    assert ratio.std() / ratio.mean() < 1e-3  # all off by one common factor: the mean drift


def test_correction_beats_the_plain_median_under_drift() -> None:
    rng = np.random.default_rng(1)
    drift = np.exp(np.cumsum(rng.normal(0, 0.08, 16)))
    measured = records(ARCHS, TRUE_MS, drift, 0.01, 1)
    found = corrected_ms(measured)
    plain = {r.arch_id: float(np.median([v.median_ms for v in r.visits])) for r in measured}

    def error(values: dict[str, float]) -> float:
        ratio = [np.log(values[a.id] / ms) for a, ms in zip(ARCHS, TRUE_MS) if a.id in plain]
        return float(np.std(ratio))

    assert error(found) < 0.01 < error(plain)


def test_no_records_no_figures() -> None:
    assert corrected_ms([]) == {}


def test_spread_sees_a_network_that_jumps() -> None:
    visits = [
        Visit(arch, "b", number, position, (ms * (2 if arch == "c" and number % 2 else 1),))
        for number in range(8)
        for position, (arch, ms) in enumerate([("a", 1.0), ("b", 2.0), ("c", 3.0), ("d", 4.0)])
    ]
    found = spread(visits)
    assert found["a"] < 0.01
    assert found["c"] > 0.1


def test_key_tells_every_set_up_apart() -> None:
    arch = SPACE.min()
    base = Target()
    others = [
        Target(task="detection"), Target(input_hw=(8, 8)), Target(engine="tensorrt"),
        Target(precision="fp16"), Target(threads=2), Target(batch=8),
    ]  # fmt: skip
    keys = {record_key("run", target, arch, "dev") for target in [base, *others]}
    keys |= {record_key("other", base, arch, "dev"), record_key("run", base, arch, "dev2")}
    keys |= {record_key("run", base, SPACE.max(), "dev")}
    assert len(keys) == 10


@pytest.mark.parametrize("explicit", [None, (11, 13)])
def test_input_size_defaults_to_the_archs_resolution(explicit: tuple[int, int] | None) -> None:
    target = Target(input_hw=explicit)
    assert target.hw(SPACE.min()) == (explicit or (24, 24))
