"""The policy against a simulated machine: times are told, nothing is measured."""

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
    """(second, model, ms) of every call; a step takes OPENING_S, while calls go on."""
    now, calls, pending = 0.0, [], None
    rng = np.random.default_rng(0)
    while now < until_s:
        ms = IDLE[policy.model] * slowdown(now, policy.model) * float(rng.uniform(0.97, 1.0))
        now += ms / 1e3
        calls.append((now, policy.model, ms))
        wish = policy.add(ms, now)
        if pending is not None:
            if now >= pending[0]:
                policy.step(pending[1], now)
                pending = None
        elif wish != policy.model:
            pending = (now + OPENING_S, wish)
    return calls


def test_an_idle_machine_never_leaves_the_most_accurate_model() -> None:
    calls = simulate(Policy(IDLE, BUDGET, 2), lambda s, m: 1.0, 30)
    assert {model for _, model, _ in calls} == {2}


def test_under_load_the_most_accurate_model_that_still_fits_runs_and_the_top_one_after_it() -> None:
    calls = simulate(Policy(IDLE, BUDGET, 2), lambda s, m: 2.0 if 10 <= s < 20 else 1.0, 40)
    assert {model for s, model, _ in calls if 11 < s < 20} == {1}
    assert {model for s, model, _ in calls if s > 25} == {2}
    assert np.mean([ms <= BUDGET for _, _, ms in calls]) > 0.97


def test_it_goes_down_at_once_as_far_as_it_must() -> None:
    calls = simulate(Policy(IDLE, BUDGET, 2), lambda s, m: 4.0 if s >= 5 else 1.0, 10)
    order = [model for _, model, _ in calls]
    assert order.index(0) > 0
    assert 1 not in order


def test_the_fastest_stays_when_nothing_fits() -> None:
    calls = simulate(Policy(IDLE, BUDGET, 2), lambda s, m: 50.0, 60)
    assert calls[-1][1] == 0
    assert Policy(IDLE, BUDGET, 0).add(1000.0, 0.0) == 0


def test_a_few_slow_calls_are_no_broken_p90() -> None:
    policy = Policy(IDLE, BUDGET, 2)
    for call in range(200):
        slow = call % (WINDOW // 2) == 0  # one in ten: p90 is about just that
        assert policy.add(100.0 if slow else 20.0, call / 50) == 2


def test_steps_up_that_fail_become_rarer() -> None:
    """A load that only the larger models feel: the small one never sees it."""
    calls = simulate(Policy(IDLE, BUDGET, 2), lambda s, m: 2.6 if m else 1.0, 60)
    steps = [b for (_, a, _), (_, b, _) in zip(calls, calls[1:]) if b > a]
    assert 5 < len(steps) < 60 / MAX_HOLD_S
    assert np.mean([model == 0 for _, model, _ in calls]) > 0.8


def test_rare_long_interruptions_of_a_small_model_are_no_room_for_a_large_one() -> None:
    """Its p90 is as on an idle machine; of the long calls each would be interrupted."""
    policy = Policy(IDLE, BUDGET, 0)
    wishes = {policy.add(55.0 if call % 15 == 7 else 5.0, 0.05 * call) for call in range(300)}
    assert policy.p90_ms == 5.0
    assert wishes == {0, 1}
    assert {Policy.add(policy, 5.0, 20 + 0.05 * call) for call in range(100)} >= {2}


def test_when_the_load_comes_the_calls_before_it_do_not_count() -> None:
    policy = Policy(IDLE, BUDGET, 2)
    wishes = [policy.add(20.0, 0.02 * call) for call in range(100)]
    wishes += [policy.add(60.0, 2 + 0.06 * call) for call in range(3)]
    assert wishes == [2] * 102 + [0]  # three times as slow: 10 ms would be 30


def test_a_step_up_that_fails_goes_back_to_the_model_that_held() -> None:
    policy = Policy(IDLE, BUDGET, 0)
    assert {policy.add(5.0, 0.1 * call) for call in range(40)} == {0, 2}
    policy.step(2, 4.0)
    assert [policy.add(30.0, 4.1 + 0.1 * call) for call in range(3)] == [2, 2, 0]  # 1 would fit


def test_it_does_not_flutter_at_the_edge() -> None:
    """1.19 times the idle p90: the top model just fits, and is not left."""
    calls = simulate(Policy(IDLE, BUDGET, 2), lambda s, m: 1.19, 30)
    assert {model for _, model, _ in calls} == {2}
    calls = simulate(Policy(IDLE, BUDGET, 1), lambda s, m: 1.19, 30)
    assert {model for _, model, _ in calls} == {1}  # no room to be sure of


def test_a_model_that_cannot_be_opened_is_not_asked_for_again() -> None:
    policy = Policy(IDLE, BUDGET, 1)
    wishes = {policy.add(9.0, 0.1 * call) for call in range(100)}
    assert wishes == {1, 2}
    policy.refuse(2)
    assert {policy.add(9.0, 10 + 0.1 * call) for call in range(100)} == {1}
    policy.refuse(0)
    assert {policy.add(99.0, 30 + 0.1 * call) for call in range(100)} == {1}


def test_where_there_is_one_model_it_stays_and_its_p90_is_known_all_the_same() -> None:
    policy = Policy([10.0], 5.0, 0)
    assert [policy.add(10.0 + i, float(i)) for i in range(2 * WINDOW)] == [0] * 2 * WINDOW
    assert policy.p90_ms == 10 + WINDOW + 17  # of the last calls
    assert policy.broken
