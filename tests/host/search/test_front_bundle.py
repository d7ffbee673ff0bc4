"""Which candidates of a verified front go into the bundle, and with which latencies."""

from __future__ import annotations

import numpy as np
import pytest

from ramnas_edge.measuring.record import Target
from ramnas_host.search import family
from ramnas_host.search.front import Candidate, ObjectiveValue
from ramnas_host.search.front_bundle import MIN_RATIO, choose, entries, pick
from ramnas_host.search.objectives import ENERGY, LATENCY, MACS, TOP1, Objective
from ramnas_models.errors import DataError
from tests.host.search.fronts import BOARD, front, seen, timed


def p90(chosen: list[Candidate]) -> list[float]:
    return [c.measured[BOARD.name].p90 for c in chosen]


def test_dominated_candidates_are_left_out() -> None:
    chosen = choose(timed((1, 0.90), (2, 0.89), (3, 0.95), (3, 0.93), (9, 0.99)))
    assert p90(chosen) == [1, 3, 9]


def test_of_models_that_are_too_close_the_most_accurate_is_chosen() -> None:
    chosen = choose(timed((1, 0.90), (1.05, 0.93), (2, 0.95), (2.1, 0.96), (4, 0.97), (8, 0.98)))
    assert p90(chosen) == [1.05, 2.1, 4, 8]
    ratios = np.array(p90(chosen)[1:]) / np.array(p90(chosen)[:-1])
    assert (ratios >= MIN_RATIO).all()


def test_models_on_both_sides_of_a_gap_are_chosen() -> None:
    pairs = [(0.065, 0.964), (0.190, 0.968), (0.212, 0.98), (0.414, 0.982), (0.45, 0.996)]
    assert p90(choose(timed(*pairs))) == [0.065, 0.190, 0.212, 0.45]


def test_closer_models_are_chosen_if_there_were_fewer_than_four() -> None:
    chosen = choose(timed((1, 0.90), (1.08, 0.91), (1.16, 0.92), (1.24, 0.93), (1.3, 0.94)))
    assert 4 <= len(chosen) <= 5


def test_closer_models_join_the_others_without_replacing_any() -> None:
    fast = [(0.0740, 0.982), (0.0767, 0.986), (0.0817, 0.988), (0.0945, 0.990)]
    verified = timed(*fast, (0.431, 0.992), (0.4466, 0.994))
    assert p90(choose(verified, least=3)) == [0.0817, 0.0945, 0.4466]
    assert p90(choose(verified)) == [0.0740, 0.0817, 0.0945, 0.4466]


def test_at_most_eight_models_span_the_front() -> None:
    many = [(1.05**i, 0.5 + i / 200) for i in range(80)]
    chosen = choose(timed(*many))
    assert 4 <= len(chosen) <= 8
    assert p90(chosen)[-1] == 1.05**79
    assert p90(chosen)[0] < 2
    for most in (1, 2, 3):
        assert len(choose(timed(*many), most=most)) == most


def test_an_unverified_front_is_refused() -> None:
    unverified = front({}, {})
    with pytest.raises(DataError, match="ramnas verify"):
        choose(unverified)
    with pytest.raises(DataError, match="is not verified"):
        entries(unverified, unverified.candidates)


def test_models_are_picked_by_name_or_id_even_if_they_are_dominated() -> None:
    verified = family.name_candidates(timed((4, 0.95), (1, 0.90), (2, 0.85), (8, 0.99)), 2)
    slow, fast, dominated, _ = verified.candidates
    assert p90(pick(verified, ["A1", "A0"])) == [1, 8]
    assert p90(pick(verified, [slow.arch_id, dominated.arch_id, "A0"])) == [1, 2, 4]
    assert fast.name == "A0"
    with pytest.raises(DataError, match="no candidate 'A7'; named are A0, A1"):
        pick(verified, ["A0", "A7"])
    with pytest.raises(DataError, match="ramnas search --family N gives names"):
        pick(timed((1, 0.9)), ["A0"])
    with pytest.raises(DataError, match="is not verified"):
        pick(front({}), [front({}).candidates[0].arch_id])


def test_without_a_latency_the_first_cost_orders_the_models() -> None:
    objectives = (Objective(TOP1), Objective(MACS))
    verified = front(
        *({TOP1: ObjectiveValue(0.9 + i / 100), MACS: ObjectiveValue(10.0**i)} for i in (3, 1, 2)),
        objectives=objectives,
    )
    assert [c.measured[MACS].value for c in choose(verified)] == [10, 100, 1000]
    assert all(not entry.latency for entry in entries(verified, choose(verified)))


def test_the_bundle_has_the_latencies_of_the_classifier_and_no_others() -> None:
    nano = Objective(LATENCY, "nano", Target(threads=2))
    detector = Objective(LATENCY, "board", Target(task="detection", num_classes=80))
    energy = Objective(ENERGY, "board", Target())
    objectives = (Objective(TOP1), detector, nano, energy, BOARD)
    values = {one.name: ObjectiveValue(i / 2, float(i)) for i, one in enumerate(objectives)}
    verified = front({**values, TOP1: ObjectiveValue(0.9)}, objectives=objectives)
    assert verified.cost == nano
    (entry,) = entries(verified, choose(verified))
    assert entry.accuracies[0].value == 0.9
    assert [(one.device_class, one.threads, one.p90_ms) for one in entry.latency] == [
        ("nano", 2, 2.0),
        ("board", 1, 4.0),
    ]


def test_models_are_chosen_by_the_selection_split_and_reported_on_the_report_split() -> None:
    # by the report split the second model would be dominated, and the third would not
    verified = seen((1, 0.90, 0.93), (2, 0.92, 0.91), (3, 0.91, 0.95), (4, 0.95, 0.94))
    chosen = choose(verified)
    assert p90(chosen) == [1, 2, 4]
    found = entries(verified, chosen)
    assert [e.accuracies[0].value for e in found] == [0.90, 0.92, 0.95]  # a budget chooses by it
    accuracies = [entry.accuracies[1] for entry in found]
    assert [(a.value, a.split, a.n) for a in accuracies] == [
        (0.93, "report", 250), (0.91, "report", 250), (0.94, "report", 250),
    ]  # fmt: skip
    assert all(a.interval[0] < a.value < a.interval[1] for a in accuracies)


def test_a_model_that_is_best_only_in_another_objective_is_left_out() -> None:
    energy = Objective(ENERGY, "board", Target())
    verified = front(
        {
            TOP1: ObjectiveValue(0.9),
            BOARD.name: ObjectiveValue(1, 1),
            energy.name: ObjectiveValue(5),
        },
        {
            TOP1: ObjectiveValue(0.8),
            BOARD.name: ObjectiveValue(2, 2),
            energy.name: ObjectiveValue(1),
        },
        objectives=(Objective(TOP1), BOARD, energy),
    )
    assert len(verified.non_dominated()) == 2
    assert [c.measured[TOP1].value for c in choose(verified)] == [0.9]
