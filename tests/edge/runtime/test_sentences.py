"""What is said about a choice reads as a sentence, for every source of a latency and no budget."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import List, Optional, Tuple

import msgspec
import pytest

from ramnas_edge.board.device import this_device
from ramnas_edge.engines import backends
from ramnas_edge.runtime import latency_file
from ramnas_edge.runtime.choosing import Choice, choose, eligible
from ramnas_edge.runtime.combinations import combinations
from ramnas_edge.runtime.expected_latency import ExpectedLatencies
from ramnas_edge.runtime.perception import Perception
from ramnas_models.errors import BudgetError
from tests.edge.runtime.test_choosing import FRAME, Board, front, never
from tests.models.bundles import classifiers, figure, written

TODAY = latency_file.today()
ACCURACIES: Tuple[Optional[float], ...] = (0.2, 0.4)
UNKNOWN = "expected p90 unknown, because nothing is timed without a latency budget"


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def choice_of(
    state: str,
    budget_ms: Optional[float],
    monkeypatch: pytest.MonkeyPatch,
    accuracies: Tuple[Optional[float], ...] = ACCURACIES,
    tasks: Tuple[str, ...] = ("detection",),
) -> Choice:
    """The choice among models of 2 ms and 4 ms per task, whose latencies are in `state`."""
    cost = [2.0, 4.0][: len(accuracies)]
    fronts = [front(task, [1, 2][: len(cost)], [*accuracies]) for task in tasks]
    every = combinations(fronts)
    board = Board(
        {pair.name: sum(2.0 * model.cost.macs for model in pair.models) for pair in every},
        monkeypatch,
    )
    known: List[latency_file.StoredLatency] = []
    if state in ("calibrated", "timed before"):
        known = [
            latency_file.StoredLatency(
                model.sha256, FRAME, "fp32", 1, ms, 44, state == "calibrated"
            )
            for each in fronts
            for model, ms in zip(each.models, cost)
        ]
    latency_file.keep("board", known)
    latencies = board.latencies()
    return choose(eligible(every, latencies), latencies, budget_ms)


@pytest.mark.parametrize(
    ("state", "budget_ms", "sentence"),
    [
        ("unknown", None, f"model d1 (the most accurate, because no latency budget was given): "
         f"{UNKNOWN}"),
        ("calibrated", None, "model d1 (the most accurate, because no latency budget was given): "
         f"expected p90 4 ms, calibrated on {TODAY}, board"),
        ("timed before", None, "model d1 (the most accurate, because no latency budget was given): "
         f"expected p90 4 ms, uncalibrated, timed at start-up on {TODAY}, board"),
        ("unknown", 3.5, "model d0 (the most accurate within 3.5 ms): expected p90 2 ms, "
         f"uncalibrated, timed at start-up on {TODAY}, board"),
        ("calibrated", 3.5, "model d0 (the most accurate within 3.5 ms): expected p90 2 ms, "
         f"calibrated on {TODAY}, board"),
        ("timed before", 25, "model d1 (the most accurate within 25 ms): expected p90 4 ms, "
         f"uncalibrated, timed at start-up on {TODAY}, board"),
    ],
)  # fmt: skip
def test_a_choice_is_told_in_one_sentence(
    state: str, budget_ms: Optional[float], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choice_of(state, budget_ms, monkeypatch).sentence == sentence


@pytest.mark.parametrize(
    ("accuracies", "budget_ms", "why"),
    [
        ((0.2,), None, "the only choice"),
        ((0.2,), 3.5, "the only choice, within 3.5 ms"),
        ((None, None), None, "the fastest, because its accuracy is unknown"),
        ((None, None), 5, "the fastest within 5 ms, because its accuracy is unknown"),
        ((None, 0.4), 3.5, "the fastest within 3.5 ms, because its accuracy is unknown"),
        ((None, 0.4), 5, "the most accurate within 5 ms"),
    ],
)
def test_a_choice_without_an_alternative_or_an_accuracy_is_told_so(
    accuracies: Tuple[Optional[float], ...],
    budget_ms: Optional[float],
    why: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert choice_of("calibrated", budget_ms, monkeypatch, accuracies).why == why


@pytest.mark.parametrize(
    ("state", "budget_ms", "sentence"),
    [
        ("unknown", None, "models d1 + s1 (the most accurate, because no latency budget was "
         f"given): {UNKNOWN}"),
        ("calibrated", 30, "models d1 + s1 (the most accurate within 30 ms): expected p90 8 ms, "
         f"each calibrated, all timed together at start-up on {TODAY}, board"),
        ("unknown", 30, "models d1 + s1 (the most accurate within 30 ms): expected p90 8 ms, "
         f"uncalibrated, timed together at start-up on {TODAY}, board"),
    ],
)  # fmt: skip
def test_a_choice_for_two_tasks_is_told_in_one_sentence(
    state: str, budget_ms: Optional[float], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = ("detection", "segmentation")
    assert choice_of(state, budget_ms, monkeypatch, tasks=tasks).sentence == sentence


@pytest.mark.parametrize("state", ["unknown", "calibrated", "timed before"])
def test_a_budget_that_no_model_meets_is_told_with_the_fastest_one(
    state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = (
        "no model fits 1.5 ms: the fastest, d0, has a p90 of 2 ms here and misses by 0.5 ms; raise "
        "the budget or search for smaller models"
    )
    with pytest.raises(BudgetError) as refused:
        choice_of(state, 1.5, monkeypatch)
    assert str(refused.value) == message


def test_a_figure_of_the_manifest_is_told_as_such() -> None:
    made = front("detection", [1], [0.5])
    known = msgspec.structs.replace(made.models[0], latency=figure("board", 3.0, FRAME))
    every = combinations([msgspec.structs.replace(made, models=(known,))])
    latencies = ExpectedLatencies("board", backends.Options(), FRAME, never)
    assert choose(every, latencies, 25).sentence == (
        "model d0 (the only choice, within 25 ms): expected p90 3 ms, from the bundle, measured on "
        "this device class, board"
    )


@pytest.mark.parametrize(
    ("count", "policy", "ending"),
    [
        (3, "fixed", ""),
        (3, "adaptive", "; policy adaptive may change to 2 others"),
        (2, "adaptive", "; policy adaptive may change to 1 other"),
        (1, "adaptive", "; policy adaptive may change to no others"),
    ],
)
def test_the_log_says_what_a_policy_may_change_to(
    count: int, policy: str, ending: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    version = backends.load("onnxruntime-cpu").version
    device_class = this_device().class_key("onnxruntime-cpu", version)
    made, files = classifiers([figure(device_class, ms, FRAME) for ms in (1.0, 2.0, 4.0)])
    written(tmp_path / "b", (msgspec.structs.replace(made, models=made.models[:count]), files))
    with caplog.at_level(logging.INFO), Perception.open(
        tmp_path / "b", tasks=[None], latency_budget_ms=1e3, policy=policy, frame_hw=FRAME,
        engine="onnxruntime-cpu",
    ) as perception:  # fmt: skip
        sentence = perception.choice.sentence
    assert f"{sentence}{ending}" in [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("budget_ms", [0.0, -1.0, float("nan")])
def test_a_budget_that_is_no_time_is_refused(budget_ms: float, tmp_path: Path) -> None:
    written(tmp_path / "b", classifiers())
    with pytest.raises(BudgetError, match="the latency budget must be above 0 ms, not"):
        Perception.open(tmp_path / "b", tasks=[None], latency_budget_ms=budget_ms)
