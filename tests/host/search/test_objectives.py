"""Reading `--objectives` and `--constraint` with the records of a store."""

from __future__ import annotations

from pathlib import Path

import pytest

from ramnas_edge.measuring.record import LatencyRecord
from ramnas_edge.measuring.store import Store
from ramnas_host.search.objectives import (
    Constraint,
    read_constraint,
    read_objectives,
    records_in_runs,
)
from ramnas_models.errors import DataError
from tests.host.search.fronts import SPACE, record, records

ORIN, NANO = "orin-nx_8c_16gib_onnxruntime", "orin-nano_6c_8gib_onnxruntime"
TWO_BOARDS = [*records(6, device=ORIN), *records(6, device=NANO)]


def names(text: str, measured: list[LatencyRecord]) -> list[str]:
    return [one.objective.name for one in read_objectives(text, measured, SPACE)]


def test_a_board_is_named_in_full_or_in_part_and_the_only_board_needs_no_name() -> None:
    assert names(f"top1,latency@{ORIN}", TWO_BOARDS) == ["top1", f"latency@{ORIN}"]
    assert names("top1, latency@NX", TWO_BOARDS) == ["top1", f"latency@{ORIN}"]
    for one in ("latency", "latency@any", "latency@"):
        assert names(f"top1,{one}", records(6, device=NANO)) == ["top1", f"latency@{NANO}"]


def test_a_full_name_counts_even_if_it_is_a_part_of_another_name() -> None:
    both = [*records(6, device="nano"), *records(6, device="orin-nano")]
    assert names("top1,latency@nano", both) == ["top1", "latency@nano"]


def test_the_observations_are_the_measured_values() -> None:
    measured = records(8, mj=3.0)
    _, latency, energy = read_objectives("top1,latency,energy@board", measured, SPACE)
    by_arch = dict(zip(latency.archs, latency.values, strict=True))
    for one in measured:
        assert by_arch[one.arch] == pytest.approx(one.p50_ms)
    assert latency.p90_ratio == pytest.approx(1.2)
    assert latency.objective.runs == ("run",)
    assert energy.values == pytest.approx([3.0] * 8)
    assert energy.p90_ratio is None


def test_each_task_uses_its_own_records() -> None:
    both = [*records(6), *records(6, seed=1, task="detection", num_classes=80)]
    text = "top1,latency@board,latency@board:detection"
    observations = read_objectives(text, both, SPACE)
    assert [one.objective.name for one in observations] == text.split(",")
    detection = observations[2]
    assert detection.objective.target.num_classes == 80
    ids = {r.arch_id for r in both if r.target.task == "detection"}
    assert {arch.id for arch in detection.archs} == ids


def test_invalid_records_are_left_out() -> None:
    doubtful = [record(r.arch, 9.0, validity="inconclusive") for r in records(6)[:2]]
    (_, latency) = read_objectives("top1,latency", [*records(6)[2:], *doubtful], SPACE)
    assert len(latency.archs) == 4


@pytest.mark.parametrize(
    ("text", "measured", "message"),
    [
        ("top1,speed", records(3), "unknown objective 'speed': known are top1, macs, latency@"),
        ("top1,latency@agx", TWO_BOARDS, f"no device class 'agx'.*known are {NANO}, {ORIN}"),
        ("top1,latency@orin", TWO_BOARDS, f"name one of them,.*: {NANO}, {ORIN}"),
        ("top1,latency", TWO_BOARDS, "several device classes match"),
        ("top1,latency", [], "there are no records; name a --store"),
        ("top1,latency@board:detection", records(3), "no record for task detection, only for"),
        ("top1,energy", records(3), "no record carries an energy"),
        ("top1", records(3), "name top1 and at least one other"),
        ("latency,macs", records(3), "name top1 and at least one other"),
        ("top1,latency,latency@board", records(3), "'latency' and 'latency@board' are the same"),
        (
            "top1,latency",
            [*records(3), *records(3, run="other", precision="fp16", batch=8)],
            r"run other, run were .* different conditions \(batch 1, 8; precision fp16, fp32\)",
        ),
        (
            "top1,latency",
            [*records(3), *records(3, run="other", input_hw=(64, 96))],
            r"\(input_hw 64x96, each arch's own\)",
        ),
        ("top1,latency", records(3, space="f" * 12), "holds 3 records of a space other than micro"),
        ("top1,latency", records(3, validity="failed"), "none of its records is valid"),
    ],
)  # fmt: skip
def test_wrong_or_ambiguous_objectives_are_refused(
    text: str, measured: list[LatencyRecord], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_objectives(text, measured, SPACE)


def test_the_records_of_several_runs_are_combined(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite")
    for one in (*records(6), *records(6, seed=7, run="more")):
        store.add(one)
    measured = records_in_runs(store, ["run", "more", "run"])
    assert len(measured) == 12
    latency = read_objectives("top1,latency", measured, SPACE)[1]
    assert latency.objective.runs == ("run", "more")
    assert len(latency.archs) == len({r.arch_id for r in measured})
    with pytest.raises(DataError, match=r"no record of run 'ru'.*the store has: more, run"):
        records_in_runs(store, ["ru"])
    store.close()


def test_a_constraint_limits_an_objective_on_its_bad_side() -> None:
    measured = records(6)
    observations = read_objectives("top1,latency", measured, SPACE)

    def read(text: str) -> Constraint:
        return read_constraint(text, observations, measured, SPACE)

    for text in ("latency<=0.5", "latency@board <= 5e-1", "latency@any<=0.5"):
        assert read(text) == Constraint("latency@board", 0.5)
    assert read("top1>=0.9") == Constraint("top1", 0.9)
    for text, message in (
        ("latency<0.5", "does not have the form latency@DEVICE<=20"),
        ("latency<=fast", "does not have the form latency@DEVICE<=20"),
        ("latency<=1-1", "does not have the form latency@DEVICE<=20"),
        ("macs<=1e6", "macs is not an objective; add it to --objectives"),
        ("latency>=1", "write >= for top1"),
        ("top1<=1", "write >= for top1"),
        ("latency@agx<=1", "known are board"),
    ):
        with pytest.raises(DataError, match=message):
            read(text)


def test_only_top1_has_a_negative_sign() -> None:
    observations = read_objectives("top1,macs,latency", records(3), SPACE)
    assert [one.objective.sign for one in observations] == [-1, 1, 1]
