"""Power samples -> energy of an inference, and the cases in which there is none."""

from __future__ import annotations

import pytest

from ramnas_edge.board.telemetry import Sample
from ramnas_edge.measuring.energy import MIN_SAMPLES, energy


def samples(*power_mw: float, rail: str = "total") -> list[Sample]:
    return [Sample(float(t), power_mw={rail: mw}) for t, mw in enumerate(power_mw)]


def test_energy_of_an_inference_is_power_above_idle_times_its_time() -> None:
    found = energy(samples(9000, 11000, 10000), samples(4000, 4000, 4000), seconds=2.0, runs=400)
    assert found is not None
    assert found.per_inference_mj == pytest.approx((10000 - 4000) * 2.0 / 400)  # mW s = mJ
    assert (found.loaded_mw, found.idle_mw, found.rail) == (10000, 4000, "total")
    assert (found.runs, found.seconds) == (400, 2.0)


@pytest.mark.parametrize("rail", ["total", "VDD_IN", "VIN", "POM_5V_IN"])
def test_the_total_rail_is_used_alone_and_not_added_to_its_parts(rail: str) -> None:
    busy = [Sample(0.0, power_mw={"VDD_CPU_GPU_CV": 3000, rail: 8000})] * MIN_SAMPLES
    idle = [Sample(0.0, power_mw={"VDD_CPU_GPU_CV": 500, rail: 5000})] * MIN_SAMPLES
    found = energy(busy, idle, seconds=1.0, runs=10)
    assert found is not None
    assert (found.rail, found.loaded_mw) == (rail, 8000)


def test_without_a_total_the_rails_are_summed_and_named() -> None:
    busy = [Sample(0.0, power_mw={"VDD_GPU": 3000, "VDD_CPU": 2000})] * MIN_SAMPLES
    idle = [Sample(0.0, power_mw={"VDD_GPU": 1000, "VDD_CPU": 1000})] * MIN_SAMPLES
    found = energy(busy, idle, seconds=1.0, runs=10)
    assert found is not None
    assert found.rail == "sum of VDD_CPU, VDD_GPU"
    assert found.per_inference_mj == pytest.approx(300)


def test_a_rail_that_only_some_samples_show_is_left_out() -> None:
    """If jtop dies, the kernel's files take over, and they do not have jtop's total."""
    busy = [*samples(8000), *[Sample(0.0, power_mw={"total": 8000, "VDD_GPU": 1})] * MIN_SAMPLES]
    found = energy(busy, samples(5000, 5000, 5000), seconds=1.0, runs=10)
    assert found is not None
    assert found.rail == "total"
    lost = [Sample(0.0, power_mw={"VDD_GPU": 4000})] * MIN_SAMPLES
    idle = [Sample(0.0, power_mw={"total": 2, "VDD_GPU": 1000})] * MIN_SAMPLES
    found = energy([*busy[1:], *lost], idle, seconds=1.0, runs=10)
    assert found is not None
    assert found.rail == "VDD_GPU"
    assert energy(busy, samples(1, 1, 1, rail="other"), seconds=1.0, runs=1) is None


def test_there_is_no_energy_without_enough_samples_or_a_visible_load() -> None:
    enough, few = samples(9000, 9000, 9000), samples(9000, 9000)
    idle = samples(4000, 4000, 4000)
    assert energy(few, idle, seconds=1.0, runs=10) is None
    assert energy(enough, few, seconds=1.0, runs=10) is None
    no_sensor, no_more_than_idle = [Sample(0.0)] * 9, idle
    assert energy(no_sensor, no_sensor, seconds=1.0, runs=10) is None
    assert energy(no_more_than_idle, idle, seconds=1.0, runs=10) is None
    assert energy(enough, idle, seconds=1.0, runs=0) is None
    assert energy([], [], seconds=1.0, runs=10) is None
