"""Which models a budget picks for several tasks, against all combinations counted out."""

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
from ramnas_models.bundle import Accuracy, Cost, Model, TaskFront
from ramnas_models.errors import BudgetError
from ramnas_models.space import load_space
from tests.models.bundles import CLASSES, WHOLE

FRAME = (8, 8)
ARCH = load_space("micro").min()
Models = Tuple[Model, ...]


@pytest.fixture(autouse=True)
def nothing_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def front(task: str, macs: List[int], accuracies: List[Optional[float]]) -> TaskFront:
    models = tuple(
        Model(
            f"{task[0]}{i}", ARCH, f"models/{task}{i}.onnx", f"{task}-{i}", (8, 8),
            () if accuracy is None else (Accuracy("mAP50-95", accuracy, "test"),),
            Cost(n, n, n), (),
        )
        for i, (n, accuracy) in enumerate(zip(macs, accuracies))
    )  # fmt: skip
    return TaskFront(task, CLASSES, WHOLE, models)


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
    """Written anew: accuracy over the front's best, averaged over the tasks."""
    return float(
        np.mean([
            m.accuracies[0].value / max(x.accuracies[0].value for x in f.models)
            for m, f in zip(models, fronts)
        ])
    )  # fmt: skip


def keep(models: Models, ms: float, calibrated: bool = False) -> None:
    joined = "+".join(model.sha256 for model in models)
    found = latency_file.StoredLatency(joined, FRAME, "fp32", 1, ms, 44, calibrated)
    latency_file.keep("board", [found])


def never(models: Models) -> Pipelines:
    raise AssertionError("nothing is to be timed")


class Board:
    """Figures of a board on which the combinations take what is told; says which were timed."""

    def __init__(self, cost: Dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
        self.cost, self.timed = cost, []  # type: ignore[var-annotated]
        monkeypatch.setattr(expected_latency, "quick_p90", lambda opened, hw, batch: (opened, 44))

    def start(self, models: Models) -> float:
        name = " + ".join(model.arch_id for model in models)
        self.timed.append(name)
        return self.cost[name]

    def figures(self) -> ExpectedLatencies:
        return ExpectedLatencies("board", backends.Options(), FRAME, self.start)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(10))
def test_with_all_figures_known_the_choice_is_that_of_brute_force(seed: int) -> None:
    """Whatever the figures are: not even a larger model has to be slower."""
    rng = np.random.default_rng(seed)
    fronts = two_fronts(rng)
    pairs = [*itertools.product(*(f.models for f in fronts))]
    ms = dict(
        zip(((a.arch_id, b.arch_id) for a, b in pairs), rng.uniform(1, 100, len(pairs)).tolist())
    )
    for a, b in pairs:
        keep((a, b), ms[a.arch_id, b.arch_id])
    known = ExpectedLatencies("board", backends.Options(), FRAME, never)
    found = eligible(combinations(fronts), known)
    for budget in rng.uniform(0, 110, 20):
        fits = [pair for pair in pairs if ms[pair[0].arch_id, pair[1].arch_id] <= budget]
        if not fits:
            with pytest.raises(BudgetError, match=r"the fastest, d\d \+ s\d, has a p90 of"):
                choose(found, known, budget)
            continue
        choice = choose(found, known, budget)
        assert choice.models == max(fits, key=lambda pair: mean_share(pair, fronts))
        assert choice.p90_ms == ms[choice.models[0].arch_id, choice.models[1].arch_id]


@pytest.mark.parametrize("parts_known", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_few_are_timed_to_find_what_brute_force_finds_and_they_are_remembered(
    seed: int, parts_known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Together they take 0.9 of the sum; the sum is known, or goes with the MACs."""
    rng = np.random.default_rng(seed)
    fronts = two_fronts(rng, (8, 8))
    own = {m.arch_id: m.cost.macs / 1e3 for f in fronts for m in f.models}
    if parts_known:
        own = {arch: ms * float(rng.uniform(0.5, 2)) for arch, ms in own.items()}
        for f in fronts:
            for model in f.models:
                keep((model,), own[model.arch_id], calibrated=True)
    every = combinations(fronts)
    cost = {one.name: 0.9 * sum(own[m.arch_id] for m in one.models) for one in every}
    board = Board(cost, monkeypatch)
    for budget in np.quantile([*cost.values()], [0.05, 0.3, 0.6, 0.95]):
        found = eligible(every, board.figures())
        choice = choose(found, board.figures(), budget)
        fits = [one for one in every if cost[one.name] <= budget]
        best = max(fits, key=lambda one: mean_share(one.models, fronts))
        assert mean_share(choice.models, fronts) == pytest.approx(mean_share(best.models, fronts))
        assert len(board.timed) <= math.ceil(math.log2(len(found) + 1))
        assert len(found) < len(every)
        assert choice.calibrated == parts_known
        assert "timed together at a start on 20" in choice.source
        board.timed.clear()
        assert choose(eligible(every, board.figures()), board.figures(), budget) == choice
        assert board.timed == []


def test_the_sum_of_what_each_takes_alone_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """They disturb each other: by the sums the best pair fits, together it does not."""
    fronts = [front("detection", [1, 2], [0.2, 0.4]), front("segmentation", [1, 2], [0.3, 0.4])]
    for f in fronts:
        for model, ms in zip(f.models, (2.0, 5.0)):
            keep((model,), ms, calibrated=True)
    cost = {"d0 + s0": 6.0, "d0 + s1": 8.0, "d1 + s0": 9.5, "d1 + s1": 13.0}
    board = Board(cost, monkeypatch)
    every = combinations(fronts)
    choice = choose(eligible(every, board.figures()), board.figures(), 10.0)
    assert [model.arch_id for model in choice.models] == ["d1", "s0"]
    assert choice.p90_ms == 9.5


def test_a_ladder_of_pairs_goes_up_in_value_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    fronts = two_fronts(rng)
    for f in fronts:
        for model in f.models:
            keep((model,), model.cost.macs / 1e3, calibrated=True)
    known = ExpectedLatencies("board", backends.Options(), FRAME, never)
    found = eligible(combinations(fronts), known)
    steps = ladder(found, known, found[2].models)
    assert found[2].models in [models for models, _ in steps]
    times = [ms for _, ms in steps]
    values = [mean_share(models, fronts) for models, _ in steps]
    assert times == sorted(times)
    assert values == sorted(values)
    assert values[-1] == 1.0


def test_of_pairs_none_is_a_candidate_that_another_beats() -> None:
    fronts = two_fronts(np.random.default_rng(3))
    known = ExpectedLatencies("board", backends.Options(), FRAME, never)
    every = combinations(fronts)
    found = eligible(every, known)

    def beaten(one: Combination) -> bool:
        return any(o.value >= one.value and o.macs < one.macs for o in every)

    assert {one.name for one in found} == {one.name for one in every if not beaten(one)}


def test_models_of_unknown_accuracy_come_last() -> None:
    fronts = [front("detection", [1, 2, 3], [None, 0.5, None])]
    every = combinations(fronts)
    assert [one.value for one in every] == [-1.0, 1.0, -1.0]
    known = ExpectedLatencies("board", backends.Options(), FRAME, never)
    assert choose(eligible(every, known), known, None).model.arch_id == "d1"
    unknown = [msgspec.structs.replace(fronts[0], models=fronts[0].models[::2])]
    assert {one.value for one in combinations(unknown)} == {-1.0}
