"""Completing a front with measurements, and how well the predictions agree with them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from ramnas_edge.measuring.record import Target
from ramnas_edge.measuring.store import Store
from ramnas_host.search import verification
from ramnas_host.search.front import Front, ObjectiveValue
from ramnas_host.search.objectives import ENERGY, LATENCY, MACS, TOP1, Objective
from ramnas_models.accuracy import share
from ramnas_models.errors import DataError
from tests.host.search.fronts import BOARD, front, record, timed

DETECTOR = Objective(LATENCY, "board", Target(task="detection", num_classes=80))
NANO = Objective(LATENCY, "nano", Target())
ENERGY_MJ = Objective(ENERGY, "board", Target())


def unverified(*objectives: Objective, n: int = 3) -> Front:
    return front(*[{}] * n, objectives=(Objective(TOP1), *objectives))


def test_a_front_of_format_3_is_evaluated_on_selection_before_models_are_chosen() -> None:
    older = front({TOP1: ObjectiveValue(0.99)}, {TOP1: ObjectiveValue(0.98)})
    seen = [share(TOP1, value, "selection", 500) for value in (0.7, 0.8)]
    found = verification.with_selection(older, seen)
    report = [share(TOP1, value, "report", 250) for value in (0.9, 0.6)]
    verified = verification.verified(found, report, {BOARD.name: []})
    assert [c.to_choose_by(TOP1) for c in verified.candidates] == [0.7, 0.8]
    assert [c.measured[TOP1].value for c in verified.candidates] == [0.9, 0.6]


def test_each_target_has_a_run_of_its_own() -> None:
    objectives = unverified(BOARD, NANO, DETECTOR, ENERGY_MJ, Objective(MACS)).objectives
    assert verification.runs(objectives, "verify") == {
        "verify": Target(),
        "verify-2": DETECTOR.target,
    }
    assert verification.runs([Objective(MACS)], "verify") == {}


def test_measured_values_come_from_the_records_of_that_board_and_task(tmp_path: Path) -> None:
    searched = unverified(BOARD, NANO, DETECTOR, ENERGY_MJ, Objective(MACS))
    first, second, _ = (c.arch for c in searched.candidates)
    store = Store(tmp_path / "s.sqlite")
    for one in (
        record(first, 3.0, run="verify", mj=7.0),
        record(second, 5.0, run="verify", validity="inconclusive"),
        record(first, 9.0, run="verify", device="nano"),
        record(second, 20.0, run="verify-2", task="detection", num_classes=80),
        record(second, 1.0, run="other"),
    ):
        store.add(one)
    records = verification.verification_records(store, searched, "verify")
    store.close()
    report = [share(TOP1, value, "report", 250) for value in (0.8, 0.9, 0.7)]
    verified = verification.verified(searched, report, records)
    macs = ObjectiveValue(0.5)  # the predicted value, because MACs are counted
    assert [c.measured for c in verified.candidates] == [
        {
            BOARD.name: ObjectiveValue(pytest.approx(3.0), pytest.approx(3.6)),
            NANO.name: ObjectiveValue(pytest.approx(9.0), pytest.approx(10.8)),
            ENERGY_MJ.name: ObjectiveValue(7.0),
            TOP1: ObjectiveValue(0.8),
            MACS: macs,
        },
        {
            DETECTOR.name: ObjectiveValue(pytest.approx(20.0), 24.0),
            TOP1: ObjectiveValue(0.9),
            MACS: macs,
        },
        {TOP1: ObjectiveValue(0.7), MACS: macs},
    ]
    assert [c.accuracy("report") for c in verified.candidates] == report
    ids = [c.arch_id for c in verified.candidates]
    assert verification.unmeasured(verified) == {
        BOARD.name: ids[1:],
        NANO.name: ids[1:],
        DETECTOR.name: [ids[0], ids[2]],
        ENERGY_MJ.name: ids[1:],
    }
    assert verification.unmeasured(timed((1, 0.9))) == {}


def test_a_device_class_that_has_measured_nothing_is_named(tmp_path: Path) -> None:
    xeon = "intel-r-xeon-r-processor_2c_24gib_linux-x86-64_onnxruntime-cpu-1.32"
    searched = unverified(BOARD, NANO)
    arch = searched.candidates[0].arch
    store = Store(tmp_path / "s.sqlite")
    for device_class in (BOARD.device_class, xeon):
        store.add(record(arch, 3.0, run="verify", device=device_class))
    message = r"has measured latency on nano\. .*boards: board; xeon 2c, onnxruntime-cpu\."
    with pytest.raises(DataError, match=message):
        verification.verification_records(store, searched, "verify")
    store.close()


def test_agreement_is_the_rank_correlation_over_the_measured_candidates() -> None:
    verified = timed((1, 0.9), (2, 0.8), (3, 0.95), (4, 0.99))
    candidates = [
        msgspec.structs.replace(
            c, predicted={TOP1: ObjectiveValue(0.5 + i / 10), BOARD.name: ObjectiveValue(9 - i)}
        )
        for i, c in enumerate(verified.candidates)
    ]
    candidates.append(msgspec.structs.replace(candidates[0], measured={}))
    verified = msgspec.structs.replace(verified, candidates=tuple(candidates))
    tau = verification.agreement(verified)
    assert tau == {TOP1: (pytest.approx(2 / 3), 4), BOARD.name: (pytest.approx(-1.0), 4)}


def test_without_an_order_there_is_no_tau() -> None:
    equal = timed((1, 0.9), (2, 0.8))  # the predicted values are equal
    assert verification.agreement(equal) == {TOP1: (None, 2), BOARD.name: (None, 2)}
    assert verification.agreement(unverified(BOARD)) == {TOP1: (None, 0), BOARD.name: (None, 0)}
