"""Finding a front from records and true accuracies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
import pytest

pytest.importorskip("pymoo")
pytest.importorskip("sklearn")

from ramnas_edge.measuring.record import LatencyRecord
from ramnas_host.search.front import Front, Settings
from ramnas_host.search.infill import find_front, spread
from ramnas_host.search.nsga2 import non_dominated
from ramnas_host.search.objectives import Observations, read_constraint, read_objectives
from ramnas_host.surrogates import surrogate
from ramnas_models.errors import DataError
from ramnas_models.plan import plan
from ramnas_models.sampling import sample_by_macs
from ramnas_models.space import Arch
from tests.host.search.fronts import SPACE, ms_of, record, records, top1_of

THREE_ROUNDS = Settings(population=150, parents=60, generations=6, infill_rounds=3)
ONE_ROUND = Settings(population=100, parents=40, generations=4, infill_rounds=1)
RECORDS = records(40, mj=1.0)
SAMPLES = sample_by_macs(SPACE, np.random.default_rng(1), 30)


@pytest.fixture(scope="module", autouse=True)
def two_families() -> Iterator[None]:
    """These tests are about the search. tests/host/surrogates has those of all families."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(surrogate, "FAMILIES", (surrogate.COST, "rbf"))
        yield


class Supernet:
    """Returns made-up true accuracies and remembers for which archs."""

    def __init__(self) -> None:
        self.rounds: list[list[Arch]] = []

    def __call__(self, archs: Sequence[Arch]) -> list[float]:
        self.rounds.append(list(archs))
        return top1_of(archs)


def searched(
    objectives: str = "top1,latency",
    constraints: Sequence[str] = (),
    supernet: Supernet | None = None,
    settings: Settings = ONE_ROUND,
) -> Front:
    observations = read_objectives(objectives, RECORDS, SPACE)
    return find_front(
        SPACE,
        observations,
        list(zip(SAMPLES, top1_of(SAMPLES), strict=True)),
        supernet or Supernet(),
        settings,
        constraints=[read_constraint(text, observations, RECORDS, SPACE) for text in constraints],
        most=12,
        images=500,
        dataset="digits",
    )


@pytest.fixture(scope="module")
def three_rounds() -> tuple[Supernet, Front]:
    supernet = Supernet()
    return supernet, searched(supernet=supernet, settings=THREE_ROUNDS)


@pytest.fixture(scope="module")
def three_objectives() -> Front:
    return searched("top1,latency,macs")


def test_candidates_are_ordered_by_cost_and_close_to_the_true_front(
    three_rounds: tuple[Supernet, Front],
) -> None:
    _, front = three_rounds
    assert [objective.name for objective in front.objectives] == ["top1", "latency@board"]
    assert 6 <= len(front.candidates) <= 12
    latencies = [c.predicted["latency@board"] for c in front.candidates]
    assert latencies == sorted(latencies, key=lambda latency: latency.value)
    for candidate, latency in zip(front.candidates, latencies, strict=True):
        assert candidate.macs == plan(SPACE, candidate.arch).macs
        assert latency.value == pytest.approx(ms_of(candidate.arch), rel=0.2)
        assert latency.p90 == pytest.approx(1.2 * latency.value)
    top1 = top1_of([c.arch for c in front.candidates])
    truth = np.array([[ms_of(c.arch), -t] for c, t in zip(front.candidates, top1, strict=True)])
    assert len(non_dominated(truth)) >= 4


def test_infill_evaluates_new_archs_at_all_costs_and_the_front_grows(
    three_rounds: tuple[Supernet, Front],
) -> None:
    supernet, front = three_rounds
    evaluated = [arch for archs in supernet.rounds for arch in archs]
    assert len(set(evaluated)) == len(evaluated) <= 3 * 12
    assert not set(evaluated) & set(SAMPLES)
    assert len(front.hypervolumes) == 1 + len(supernet.rounds)
    assert list(front.hypervolumes) == sorted(front.hypervolumes)
    assert front.hypervolumes[-1] > front.hypervolumes[0]
    ms = [ms_of(arch) for arch in supernet.rounds[0]]
    whole_space = [ms_of(SPACE.min()), ms_of(SPACE.max())]
    assert np.ptp(np.log(ms)) > 0.5 * np.ptp(np.log(whole_space))


def test_the_rounds_end_when_the_front_stops_growing() -> None:
    class Disappointing(Supernet):
        def __call__(self, archs: Sequence[Arch]) -> list[float]:
            return [0.01 * value for value in super().__call__(archs)]

    supernet = Disappointing()
    settings = msgspec.structs.replace(ONE_ROUND, infill_rounds=8)
    front = searched(supernet=supernet, settings=settings)
    assert len(supernet.rounds) == 2
    assert len(set(front.hypervolumes)) == 1


def test_the_same_seed_gives_the_same_front(three_objectives: Front) -> None:
    assert searched("top1,latency,macs") == three_objectives
    other_seed = msgspec.structs.replace(ONE_ROUND, seed=1)
    other = searched("top1,latency,macs", settings=other_seed)
    assert other.candidates != three_objectives.candidates


def test_three_objectives_are_searched_together(three_objectives: Front) -> None:
    candidates = three_objectives.candidates
    assert set(candidates[0].predicted) == {"top1", "latency@board", "macs"}
    assert all(c.predicted["macs"].value == c.macs for c in candidates)
    assert set(three_objectives.surrogates) == {"top1", "latency@board"}


def is_deep(arch: Arch) -> bool:
    return sum(stage.depth for stage in arch.stages) > 12


def surprising_ms(arch: Arch) -> float:
    """As in the records of shallow archs, but three times as long for deep archs."""
    return ms_of(arch) * (3.0 if is_deep(arch) else 1.0)


def top1_with_depth(archs: Sequence[Arch]) -> list[float]:
    """A top-1 that rises with the depth as well, so that every front holds deep archs."""
    depths = [sum(stage.depth for stage in arch.stages) for arch in archs]
    return [t - 0.1 + 0.005 * d for t, d in zip(top1_of(archs), depths, strict=True)]


def error_of_deep_archs(front: Front) -> float:
    """The mean absolute error of the predicted log latency over the deep candidates."""
    deep = [c for c in front.candidates if is_deep(c.arch)]
    assert deep
    ratios = [c.predicted["latency@board"].value / surprising_ms(c.arch) for c in deep]
    return float(np.mean(np.abs(np.log(ratios))))


def test_the_surrogates_learn_from_what_is_measured_in_between() -> None:
    """All records are of shallow archs, and deep archs turn out to be three times as slow."""
    shallow = [r for r in records(100) if not is_deep(r.arch)][:40]
    measured: list[LatencyRecord] = []

    def measure(archs: Sequence[Arch]) -> list[Observations]:
        measured.extend(record(arch, surprising_ms(arch), run="infill") for arch in archs)
        return read_objectives("top1,latency", [*shallow, *measured], SPACE)

    observations = read_objectives("top1,latency", shallow, SPACE)
    samples = list(zip(SAMPLES, top1_with_depth(SAMPLES), strict=True))
    settings = msgspec.structs.replace(ONE_ROUND, infill_rounds=2)
    front = find_front(
        SPACE,
        observations,
        samples,
        top1_with_depth,
        settings,
        most=12,
        images=500,
        measure=measure,
    )
    no_rounds = msgspec.structs.replace(ONE_ROUND, infill_rounds=0)
    blind = find_front(
        SPACE, observations, samples, top1_with_depth, no_rounds, most=12, images=500
    )

    assert front.objectives[1].runs == ("run", "infill")
    learnt = [truth for truth, _ in front.surrogates["latency@board"].held_out]
    truths = [surprising_ms(r.arch) for r in (*shallow, *measured)]
    assert sorted(learnt) == pytest.approx(sorted(truths))
    assert any(is_deep(r.arch) for r in measured)
    assert error_of_deep_archs(front) < error_of_deep_archs(blind)
    # recomputed with the last surrogates, so that more evaluated archs never lose volume
    assert list(front.hypervolumes) == sorted(front.hypervolumes)


def test_constraints_hold_for_every_candidate(three_objectives: Front) -> None:
    ms = np.median([c.predicted["latency@board"].value for c in three_objectives.candidates])
    front = searched("top1,latency,macs", [f"latency<={ms}", "macs<=2e6"])
    assert [constraint.objective for constraint in front.constraints] == ["latency@board", "macs"]
    assert len(front.candidates) >= 3
    for c in front.candidates:
        assert c.predicted["latency@board"].value <= ms
        assert c.macs <= 2e6


def test_an_infeasible_constraint_is_answered_with_the_nearest_feasible_one() -> None:
    with pytest.raises(DataError, match="no arch of space micro meets macs<=1000") as caught:
        searched("top1,macs", ["macs<=1000"])
    nearest = str(caught.value).rpartition("macs<=")[2]
    least = plan(SPACE, SPACE.min()).macs
    assert least <= float(nearest) <= 1.01 * least
    assert searched("top1,macs", [f"macs<={nearest}"]).candidates
    with pytest.raises(
        DataError, match=r"top1>=0.99 and latency@board<=0.001; .*latency@board<=0\.1"
    ):
        searched(constraints=["latency<=0.001", "top1>=0.99"])


def test_with_too_few_records_the_objective_is_named() -> None:
    observations = read_objectives("top1,latency", RECORDS[:9], SPACE)
    samples = list(zip(SAMPLES, top1_of(SAMPLES), strict=True))
    with pytest.raises(DataError, match="latency on board: a surrogate needs 20 records or more"):
        find_front(SPACE, observations, samples, Supernet(), ONE_ROUND, most=8, images=500)


def test_a_candidate_keeps_the_accuracy_that_it_was_chosen_by(
    three_rounds: tuple[Supernet, Front],
) -> None:
    _, front = three_rounds
    assert front.dataset == "digits"
    for c in front.candidates:
        (accuracy,) = c.accuracies
        assert (accuracy.split, accuracy.n) == ("selection", 500)
        assert accuracy.value == pytest.approx(top1_of([c.arch])[0])
        assert accuracy.interval[0] < accuracy.value < accuracy.interval[1]
        assert c.macs_bn == plan(SPACE, c.arch).macs_bn > c.macs


def test_spread_chooses_the_ends_and_even_steps() -> None:
    ms = np.geomspace(1, 100, 1000)
    chosen, nearest = spread(np.log(np.column_stack([ms, 1 / ms])), 5)
    np.testing.assert_allclose(sorted(ms[chosen]), [1, 3.16, 10, 31.6, 100], rtol=0.01)
    assert set(nearest) == set(range(5))
    np.testing.assert_array_equal(nearest[chosen], range(5))


def test_spread_chooses_equal_points_once() -> None:
    points = np.array([[1.0, 2.0], [1.0, 2.0], [2.0, 1.0], [1.0, 2.0]])
    chosen, nearest = spread(points, 3)
    assert chosen.tolist() == [0, 2]
    assert nearest.tolist() == [0, 0, 1, 0]
