"""Which models a budget chooses for several tasks, compared with brute force."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Dict, List, Optional, Tuple

import msgspec
import numpy as np
import pytest

from ramnas_edge.engines import backends
from ramnas_edge.runtime import expected_latency, latency_file
from ramnas_edge.runtime.choosing import choose, eligible, ladder
from ramnas_edge.runtime.combinations import Combination, combinations
from ramnas_edge.runtime.expected_latency import ExpectedLatencies
from ramnas_edge.vision.pipeline import Pipelines
from ramnas_models.accuracy import Accuracy
from ramnas_models.bundle import Cost, Model, TaskFront
from ramnas_models.errors import BudgetError
from ramnas_models.space import load_space
from tests.models.bundles import CLASSES, WHOLE

FRAME = (8, 8)
ARCH = load_space("micro").min()
Models = Tuple[Model, ...]


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def front(task: str, macs: List[int], accuracies: List[Optional[float]]) -> TaskFront:
    models = tuple(
        Model(
            f"{task[0]}{i}", ARCH.id, "micro", ARCH, f"models/{task}{i}.onnx", f"{task}-{i}",
            (8, 8), WHOLE, () if accuracy is None else (Accuracy("mAP50-95", accuracy, "test"),),
            Cost(n, n, n), (),
        )
        for i, (n, accuracy) in enumerate(zip(macs, accuracies))
    )  # fmt: skip
    return TaskFront(task, CLASSES, models)


def two_fronts(rng: np.random.Generator, sizes: Tuple[int, int] = (5, 4)) -> List[TaskFront]:
    return [
        front(
            task,
            sorted(rng.integers(1_000, 100_000, size).tolist()),
            sorted(rng.uniform(0.1, 0.9, size).tolist()),
        )
        for task, size in zip(("detection", "segmentation"), sizes)
    ]


def mean_share(models: Models, fronts: List[TaskFront]) -> float:
    """Accuracy over the best of its front, averaged over the tasks: written independently."""
    return float(
        np.mean([
            m.accuracies[0].value / max(x.accuracies[0].value for x in f.models)
            for m, f in zip(models, fronts)
        ])
    )  # fmt: skip


def keep(models: Models, ms: float, calibrated: bool = False) -> None:
    joined = "+".join(model.sha256 for model in models)
    stored = latency_file.StoredLatency(joined, FRAME, "fp32", 1, ms, 44, calibrated)
    latency_file.keep("board", [stored])


def never(models: Models) -> Pipelines:
    raise AssertionError("nothing should be timed")


class Board:
    """A board on which each combination takes its `cost` in ms; records which were timed."""

    def __init__(self, cost: Dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
        self.cost, self.timed = cost, []  # type: ignore[var-annotated]
        monkeypatch.setattr(expected_latency, "quick_p90", lambda opened, hw, batch: (opened, 44))

    def start(self, models: Models) -> float:
        name = " + ".join(model.name for model in models)
        self.timed.append(name)
        return self.cost[name]

    def latencies(self) -> ExpectedLatencies:
        return ExpectedLatencies("board", backends.Options(), FRAME, self.start)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(10))
def test_with_all_latencies_known_the_choice_is_that_of_brute_force(seed: int) -> None:
    """This holds for any latencies: a larger model need not be slower."""
    rng = np.random.default_rng(seed)
    fronts = two_fronts(rng)
    pairs = [*itertools.product(*(f.models for f in fronts))]
    ms = dict(zip(((a.name, b.name) for a, b in pairs), rng.uniform(1, 100, len(pairs)).tolist()))
    for a, b in pairs:
        keep((a, b), ms[a.name, b.name])
    known = ExpectedLatencies("board", backends.Options(), FRAME, never)
    candidates = eligible(combinations(fronts), known)
    for budget in rng.uniform(0, 110, 20):
        fits = [pair for pair in pairs if ms[pair[0].name, pair[1].name] <= budget]
        if not fits:
            with pytest.raises(BudgetError, match=r"the fastest, d\d \+ s\d, has a p90 of"):
                choose(candidates, known, budget)
            continue
        choice = choose(candidates, known, budget)
        assert choice.models == max(fits, key=lambda pair: mean_share(pair, fronts))
        assert choice.p90_ms == ms[choice.models[0].name, choice.models[1].name]


@pytest.mark.parametrize("parts_known", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_a_few_timings_find_what_brute_force_finds_and_are_remembered(
    seed: int, parts_known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pairs take 0.9 of the sum of their parts; this sum is known or follows the MACs."""
    rng = np.random.default_rng(seed)
    fronts = two_fronts(rng, (8, 8))
    own = {m.name: m.cost.macs / 1e3 for f in fronts for m in f.models}
    if parts_known:
        own = {arch: ms * float(rng.uniform(0.5, 2)) for arch, ms in own.items()}
        for f in fronts:
            for model in f.models:
                keep((model,), own[model.name], calibrated=True)
    every = combinations(fronts)
    cost = {pair.name: 0.9 * sum(own[m.name] for m in pair.models) for pair in every}
    board = Board(cost, monkeypatch)
    for budget in np.quantile([*cost.values()], [0.05, 0.3, 0.6, 0.95]):
        candidates = eligible(every, board.latencies())
        choice = choose(candidates, board.latencies(), budget)
        fits = [pair for pair in every if cost[pair.name] <= budget]
        best = max(fits, key=lambda pair: mean_share(pair.models, fronts))
        assert mean_share(choice.models, fronts) == pytest.approx(mean_share(best.models, fronts))
        assert len(board.timed) <= math.ceil(math.log2(len(candidates) + 1))
        assert len(candidates) < len(every)
        assert choice.calibrated == parts_known
        assert "timed together at start-up on 20" in choice.source
        board.timed.clear()
        candidates = eligible(every, board.latencies())
        assert choose(candidates, board.latencies(), budget) == choice
        assert board.timed == []


def test_a_pair_is_timed_together_even_if_the_sum_of_its_parts_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The models slow each other down: by the sums the best pair fits, but together it does not."""
    fronts = [front("detection", [1, 2], [0.2, 0.4]), front("segmentation", [1, 2], [0.3, 0.4])]
    for f in fronts:
        for model, ms in zip(f.models, (2.0, 5.0)):
            keep((model,), ms, calibrated=True)
    cost = {"d0 + s0": 6.0, "d0 + s1": 8.0, "d1 + s0": 9.5, "d1 + s1": 13.0}
    board = Board(cost, monkeypatch)
    every = combinations(fronts)
    choice = choose(eligible(every, board.latencies()), board.latencies(), 10.0)
    assert [model.name for model in choice.models] == ["d1", "s0"]
    assert choice.p90_ms == 9.5


def test_a_ladder_of_pairs_rises_in_value_and_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    fronts = two_fronts(rng)
    for f in fronts:
        for model in f.models:
            keep((model,), model.cost.macs / 1e3, calibrated=True)
    known = ExpectedLatencies("board", backends.Options(), FRAME, never)
    candidates = eligible(combinations(fronts), known)
    steps = ladder(candidates, known, candidates[2].models)
    assert candidates[2].models in [models for models, _ in steps]
    times = [ms for _, ms in steps]
    values = [mean_share(models, fronts) for models, _ in steps]
    assert times == sorted(times)
    assert values == sorted(values)
    assert values[-1] == 1.0


def test_a_pair_that_another_one_beats_is_not_eligible() -> None:
    fronts = two_fronts(np.random.default_rng(3))
    known = ExpectedLatencies("board", backends.Options(), FRAME, never)
    every = combinations(fronts)
    candidates = eligible(every, known)

    def beaten(pair: Combination) -> bool:
        return any(other.value >= pair.value and other.macs < pair.macs for other in every)

    assert {pair.name for pair in candidates} == {pair.name for pair in every if not beaten(pair)}


@pytest.mark.parametrize("seed", range(5))
def test_a_model_that_a_faster_one_beats_is_never_chosen(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with two trainings of one arch: which of them are timed depends on the bisection."""
    rng = np.random.default_rng(seed)
    macs = sorted(rng.integers(1, 6, 9).tolist())
    accuracies = rng.uniform(0.1, 0.9, 9).tolist()
    pairs = sorted(zip(macs, accuracies), key=lambda pair: (pair[0], -pair[1]))
    every = combinations([front("detection", [*macs], [accuracy for _, accuracy in pairs])])
    board = Board({one.name: float(one.macs) for one in every}, monkeypatch)
    for budget in (1.0, 2.5, 3.0, 9.0):
        fits = [one for one in every if one.macs <= budget]
        if fits:
            choice = choose(eligible(every, board.latencies()), board.latencies(), budget)
            (model,) = choice.models
            assert model == max(fits, key=lambda one: one.value).models[0]
    assert len(board.timed) < len(every)


def test_models_of_unknown_accuracy_come_last() -> None:
    fronts = [front("detection", [1, 2, 3], [None, 0.5, None])]
    every = combinations(fronts)
    assert [candidate.value for candidate in every] == [-1.0, 1.0, -1.0]
    known = ExpectedLatencies("board", backends.Options(), FRAME, never)
    assert choose(eligible(every, known), known, None).model.name == "d1"
    unknown = [msgspec.structs.replace(fronts[0], models=fronts[0].models[::2])]
    assert {candidate.value for candidate in combinations(unknown)} == {-1.0}
