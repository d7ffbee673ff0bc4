"""The policy on a simulated machine, whose times are made up instead of measured."""

from __future__ import annotations

from typing import Callable, List, Tuple

import numpy as np

from ramnas_edge.runtime.policy import MAX_HOLD_S, WINDOW, Policy

IDLE = (5.0, 10.0, 20.0)  # p90 in ms, fastest to most accurate
BUDGET = 24.0
OPENING_S = 0.3


def simulate(
    policy: Policy, slowdown: Callable[[float, int], float], until_s: float
) -> List[Tuple[float, int, float]]:
    """Return (second, model, ms) of every call.

    A step takes OPENING_S, during which calls go on with the current model.
    """
    now, calls, pending = 0.0, [], None
    rng = np.random.default_rng(0)
    while now < until_s:
        ms = IDLE[policy.model] * slowdown(now, policy.model) * float(rng.uniform(0.97, 1.0))
        now += ms / 1e3
        calls.append((now, policy.model, ms))
        wanted = policy.add(ms, now)
        if pending is not None:
            if now >= pending[0]:
                policy.step(pending[1], now)
                pending = None
        elif wanted != policy.model:
            pending = (now + OPENING_S, wanted)
    return calls


def test_on_an_idle_machine_the_most_accurate_model_stays() -> None:
    calls = simulate(Policy(IDLE, BUDGET, 2), lambda s, m: 1.0, 30)
    assert {model for _, model, _ in calls} == {2}


def test_under_load_the_most_accurate_model_that_fits_runs_and_afterwards_the_top_one() -> None:
    calls = simulate(Policy(IDLE, BUDGET, 2), lambda s, m: 2.0 if 10 <= s < 20 else 1.0, 40)
    assert {model for s, model, _ in calls if 11 < s < 20} == {1}
    assert {model for s, model, _ in calls if s > 25} == {2}
    assert np.mean([ms <= BUDGET for _, _, ms in calls]) > 0.97


def test_it_steps_down_at_once_as_far_as_needed() -> None:
    calls = simulate(Policy(IDLE, BUDGET, 2), lambda s, m: 4.0 if s >= 5 else 1.0, 10)
    order = [model for _, model, _ in calls]
    assert order.index(0) > 0
    assert 1 not in order


def test_the_fastest_stays_when_nothing_fits() -> None:
    calls = simulate(Policy(IDLE, BUDGET, 2), lambda s, m: 50.0, 60)
    assert calls[-1][1] == 0
    assert Policy(IDLE, BUDGET, 0).add(1000.0, 0.0) == 0


def test_a_few_slow_calls_do_not_break_the_budget() -> None:
    policy = Policy(IDLE, BUDGET, 2)
    for call in range(200):
        slow = call % (WINDOW // 2) == 0  # one in ten, which a p90 just tolerates
        assert policy.add(100.0 if slow else 20.0, call / 50) == 2


def test_failed_steps_up_become_rarer() -> None:
    """Only the larger models are slowed down, so the small one never sees the load."""
    calls = simulate(Policy(IDLE, BUDGET, 2), lambda s, m: 2.6 if m else 1.0, 60)
    steps = [b for (_, a, _), (_, b, _) in zip(calls, calls[1:]) if b > a]
    assert 5 < len(steps) < 60 / MAX_HOLD_S
    assert np.mean([model == 0 for _, model, _ in calls]) > 0.8


def test_rare_long_interruptions_of_a_small_model_rule_out_a_large_one() -> None:
    """The small model's p90 is as when idle, but each long call would be interrupted."""
    policy = Policy(IDLE, BUDGET, 0)
    wanted = {policy.add(55.0 if call % 15 == 7 else 5.0, 0.05 * call) for call in range(300)}
    assert policy.p90_ms == 5.0
    assert wanted == {0, 1}
    assert {policy.add(5.0, 20 + 0.05 * call) for call in range(100)} >= {2}


def test_calls_from_before_the_load_do_not_count() -> None:
    policy = Policy(IDLE, BUDGET, 2)
    wanted = [policy.add(20.0, 0.02 * call) for call in range(100)]
    wanted += [policy.add(60.0, 2 + 0.06 * call) for call in range(3)]
    assert wanted == [2] * 102 + [0]  # three times as slow, so 10 ms would become 30


def test_after_a_failed_step_up_the_model_that_kept_the_budget_returns() -> None:
    policy = Policy(IDLE, BUDGET, 0)
    assert {policy.add(5.0, 0.1 * call) for call in range(40)} == {0, 2}
    policy.step(2, 4.0)
    wanted = [policy.add(30.0, 4.1 + 0.1 * call) for call in range(3)]
    assert wanted == [2, 2, 0]  # although model 1 would fit too


def test_it_does_not_flip_back_and_forth_at_the_limit() -> None:
    """At 1.19 times its idle p90 the top model just fits, so it is not left."""
    calls = simulate(Policy(IDLE, BUDGET, 2), lambda s, m: 1.19, 30)
    assert {model for _, model, _ in calls} == {2}
    calls = simulate(Policy(IDLE, BUDGET, 1), lambda s, m: 1.19, 30)
    assert {model for _, model, _ in calls} == {1}  # there is too little room to step up


def test_a_model_that_cannot_be_opened_is_not_asked_for_again() -> None:
    policy = Policy(IDLE, BUDGET, 1)
    wanted = {policy.add(9.0, 0.1 * call) for call in range(100)}
    assert wanted == {1, 2}
    policy.refuse(2)
    assert {policy.add(9.0, 10 + 0.1 * call) for call in range(100)} == {1}
    policy.refuse(0)
    assert {policy.add(99.0, 30 + 0.1 * call) for call in range(100)} == {1}


def test_a_single_model_stays_and_its_p90_is_still_known() -> None:
    policy = Policy([10.0], 5.0, 0)
    assert [policy.add(10.0 + i, float(i)) for i in range(2 * WINDOW)] == [0] * 2 * WINDOW
    assert policy.p90_ms == 10 + WINDOW + 17  # of the last calls
    assert policy.broken
