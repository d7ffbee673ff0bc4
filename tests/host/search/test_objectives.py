"""`--objectives` and `--constraint` against what boards have measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

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


def names(asked: str, found: list) -> list[str]:
    return [known.objective.name for known in read_objectives(asked, found, SPACE)]


def test_a_board_is_named_in_full_by_a_part_or_not_where_it_is_the_only_one() -> None:
    assert names(f"top1,latency@{ORIN}", TWO_BOARDS) == ["top1", f"latency@{ORIN}"]
    assert names("top1, latency@NX", TWO_BOARDS) == ["top1", f"latency@{ORIN}"]
    for one in ("latency", "latency@any", "latency@"):
        assert names(f"top1,{one}", records(6, device=NANO)) == ["top1", f"latency@{NANO}"]


def test_a_name_that_is_another_ones_part_is_still_a_name() -> None:
    both = [*records(6, device="nano"), *records(6, device="orin-nano")]
    assert names("top1,latency@nano", both) == ["top1", "latency@nano"]


def test_values_are_those_measured() -> None:
    found = records(8, mj=3.0)
    _, latency, energy = read_objectives("top1,latency,energy@board", found, SPACE)
    by_arch = dict(zip(latency.archs, latency.values, strict=True))
    for one in found:
        assert by_arch[one.arch] == pytest.approx(one.p50_ms)
    assert latency.p90_ratio == pytest.approx(1.2)
    assert latency.objective.runs == ("run",)
    assert energy.values == pytest.approx([3.0] * 8)
    assert energy.p90_ratio is None


def test_the_task_picks_the_records() -> None:
    both = [*records(6), *records(6, seed=1, task="detection", num_classes=80)]
    found = read_objectives("top1,latency@board,latency@board:detection", both, SPACE)
    assert [known.objective.name for known in found] == [
        "top1", "latency@board", "latency@board:detection",
    ]  # fmt: skip
    assert found[2].objective.target.num_classes == 80
    detected = {r.arch_id for r in both if r.target.task == "detection"}
    assert {arch.id for arch in found[2].archs} == detected


def test_invalid_records_are_left_out() -> None:
    doubtful = [record(r.arch, 9.0, validity="inconclusive") for r in records(6)[:2]]
    (_, latency) = read_objectives("top1,latency", [*records(6)[2:], *doubtful], SPACE)
    assert len(latency.archs) == 4


@pytest.mark.parametrize(
    ("asked", "found", "message"),
    [
        ("top1,speed", records(3), "unknown objective 'speed': known are top1, macs, latency@"),
        ("top1,latency@agx", TWO_BOARDS, f"no device class 'agx'.*known are {NANO}, {ORIN}"),
        ("top1,latency@orin", TWO_BOARDS, f"name one device class of {NANO}, {ORIN}"),
        ("top1,latency", TWO_BOARDS, "name one device class of"),
        ("top1,latency", [], "no records; name a --store"),
        ("top1,latency@board:detection", records(3), "no record of task detection, only of class"),
        ("top1,energy", records(3), "no record carries energy"),
        ("top1", records(3), "top1 and one more at least"),
        ("latency,macs", records(3), "top1 and one more at least"),
        ("top1,latency,latency@board", records(3), "latency@board stands there twice"),
        (
            "top1,latency",
            [*records(3), *records(3, run="other", precision="fp16", batch=8)],
            "run other, run mixes records of batch 1, 8; precision fp16, fp32",
        ),
        (
            "top1,latency",
            [*records(3), *records(3, run="other", input_hw=(64, 96))],
            "mixes records of input_hw 64x96, of each arch",
        ),
        ("top1,latency", records(3, space="f" * 12), "holds 3 records of another space than micro"),
        ("top1,latency", records(3, validity="failed"), "none of its records is valid"),
    ],
)  # fmt: skip
def test_what_is_unclear_is_named(asked: str, found: list, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_objectives(asked, found, SPACE)


def test_several_runs_are_learnt_from_together(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite")
    for one in (*records(6), *records(6, seed=7, run="more")):
        store.add(one)
    found = records_in_runs(store, ["run", "more", "run"])
    assert len(found) == 12
    latency = read_objectives("top1,latency", found, SPACE)[1]
    assert latency.objective.runs == ("run", "more")
    assert len(latency.archs) == len({r.arch_id for r in found})
    with pytest.raises(DataError, match=r"no record of run 'ru'.*there: more, run"):
        records_in_runs(store, ["ru"])
    store.close()


def test_constraints_are_of_an_objective_and_bound_its_bad_side() -> None:
    found = records(6)
    known = read_objectives("top1,latency", found, SPACE)
    for text in ("latency<=0.5", "latency@board <= 5e-1", "latency@any<=0.5"):
        constraint = read_constraint(text, known, found, SPACE)
        assert constraint == Constraint("latency@board", 0.5)
    assert read_constraint("top1>=0.9", known, found, SPACE) == Constraint("top1", 0.9)
    for text, message in (
        ("latency<0.5", "is not like latency@DEVICE<=20"),
        ("latency<=fast", "is not like latency@DEVICE<=20"),
        ("latency<=1-1", "is not like latency@DEVICE<=20"),
        ("macs<=1e6", "is on no objective: add macs to --objectives"),
        ("latency>=1", "top1 has a least value"),
        ("top1<=1", "top1 has a least value"),
        ("latency@agx<=1", "known are board"),
    ):
        with pytest.raises(DataError, match=message):
            read_constraint(text, known, found, SPACE)


def test_sign_turns_the_value_into_one_to_minimise() -> None:
    known = read_objectives("top1,macs,latency", records(3), SPACE)
    np.testing.assert_array_equal([one.objective.sign for one in known], [-1, 1, 1])
