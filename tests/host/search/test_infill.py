"""From records and true accuracies to the candidates of a front."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

pytest.importorskip("pymoo")
pytest.importorskip("sklearn")

from ramnas_edge.measuring.record import LatencyRecord
from ramnas_host.search.front import Front, Settings
from ramnas_host.search.infill import find, spread
from ramnas_host.search.nsga2 import non_dominated
from ramnas_host.search.objectives import Known, read_constraint, read_objectives
from ramnas_models.errors import DataError
from ramnas_models.plan import plan
from ramnas_models.sampling import sample_by_macs
from ramnas_models.space import Arch
from tests.host.search.fronts import SPACE, ms_of, record, records, top1_of

SMALL = Settings(population=150, parents=60, generations=6, infill_rounds=3)
BRIEF = Settings(population=100, parents=40, generations=4, infill_rounds=1)
RECORDS = records(60, mj=1.0)


class Supernet:
    """Tells true accuracies and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[Arch]] = []

    def __call__(self, archs: Sequence[Arch]) -> list[float]:
        self.asked.append(list(archs))
        return top1_of(archs)


def searched(
    objectives: str = "top1,latency",
    constraints: Sequence[str] = (),
    supernet: Supernet | None = None,
    settings: Settings = BRIEF,
) -> Front:
    known = read_objectives(objectives, RECORDS, SPACE)
    archs = sample_by_macs(SPACE, np.random.default_rng(1), 40)
    return find(
        SPACE,
        known,
        list(zip(archs, top1_of(archs), strict=True)),
        supernet or Supernet(),
        settings,
        constraints=[read_constraint(text, known, RECORDS, SPACE) for text in constraints],
        most=12,
    )


@pytest.fixture(scope="module")
def plain() -> tuple[Supernet, Front]:
    supernet = Supernet()
    return supernet, searched(supernet=supernet, settings=SMALL)


@pytest.fixture(scope="module")
def of_three() -> Front:
    return searched("top1,latency,macs")


def test_candidates_are_the_front_of_all_that_was_tried(plain: tuple[Supernet, Front]) -> None:
    _, found = plain
    names = [objective.name for objective in found.objectives]
    assert names == ["top1", "latency@board"]
    assert 6 <= len(found.candidates) <= 12
    ms = [c.predicted["latency@board"].value for c in found.candidates]
    assert ms == sorted(ms)
    for c in found.candidates:
        assert c.predicted["latency@board"].p90 == pytest.approx(
            1.2 * c.predicted["latency@board"].value
        )
        assert c.macs == plan(SPACE, c.arch).macs
        assert c.predicted["latency@board"].value == pytest.approx(ms_of(c.arch), rel=0.2)
    truth = np.array([[ms_of(c.arch), -t] for c, t in zip(
        found.candidates, top1_of([c.arch for c in found.candidates]), strict=True)])  # fmt: skip
    assert len(non_dominated(truth)) >= 4


def test_infill_tries_new_archs_at_all_costs_and_the_front_grows(
    plain: tuple[Supernet, Front],
) -> None:
    supernet, found = plain
    asked = [arch for batch in supernet.asked for arch in batch]
    assert len(set(asked)) == len(asked) <= 3 * 12
    assert len(found.hypervolumes) == 1 + len(supernet.asked)
    assert list(found.hypervolumes) == sorted(found.hypervolumes)
    assert found.hypervolumes[-1] > found.hypervolumes[0]
    ms = [ms_of(arch) for arch in supernet.asked[0]]
    everything = [ms_of(SPACE.min()), ms_of(SPACE.max())]
    assert np.ptp(np.log(ms)) > 0.5 * np.ptp(np.log(everything))


def test_the_rounds_end_when_the_front_grows_no_more() -> None:
    class Disappointing(Supernet):
        def __call__(self, archs: Sequence[Arch]) -> list[float]:
            return [0.01 * value for value in super().__call__(archs)]

    supernet = Disappointing()
    settings = msgspec.structs.replace(BRIEF, infill_rounds=8)
    found = searched(supernet=supernet, settings=settings)
    assert len(supernet.asked) == 2
    assert len(set(found.hypervolumes)) == 1


def test_same_seed_same_front(of_three: Front) -> None:
    assert searched("top1,latency,macs") == of_three
    other = searched("top1,latency,macs", settings=msgspec.structs.replace(BRIEF, seed=1))
    assert other.candidates != of_three.candidates


def test_three_objectives(of_three: Front) -> None:
    assert set(of_three.candidates[0].predicted) == {"top1", "latency@board", "macs"}
    assert all(c.predicted["macs"].value == c.macs for c in of_three.candidates)
    assert set(of_three.surrogates) == {"top1", "latency@board"}


def test_measured_ones_are_learnt_from_and_hypervolumes_stay_comparable() -> None:
    """Deep archs turn out to be three times slower than the records, all shallow, had it."""

    def slow(arch: Arch) -> float:
        return ms_of(arch) * (3.0 if sum(stage.depth for stage in arch.stages) > 12 else 1.0)

    shallow = [r for r in records(150) if slow(r.arch) == ms_of(r.arch)][:60]
    asked: list[list[Arch]] = []
    made: list[LatencyRecord] = []

    def measure(archs: Sequence[Arch]) -> list[Known]:
        asked.append(list(archs))
        made.extend(record(arch, slow(arch), run="infill") for arch in archs)
        return read_objectives("top1,latency", [*shallow, *made], SPACE)

    known = read_objectives("top1,latency", shallow, SPACE)
    archs = sample_by_macs(SPACE, np.random.default_rng(1), 40)
    samples = list(zip(archs, top1_of(archs), strict=True))
    supernet, twice = Supernet(), msgspec.structs.replace(BRIEF, infill_rounds=2)
    found = find(SPACE, known, samples, supernet, twice, most=12, measure=measure)
    blind = find(SPACE, known, samples, Supernet(), BRIEF, most=12)
    assert asked == supernet.asked
    assert found.objectives[1].runs == ("run", "infill")
    assert list(found.hypervolumes) == sorted(found.hypervolumes)

    def error(front: Front) -> float:
        predicted = [c.predicted["latency@board"].value for c in front.candidates]
        true = [slow(c.arch) for c in front.candidates]
        return float(np.mean(np.abs(np.log(np.divide(predicted, true)))))

    assert error(found) < 0.5 * error(blind)


def test_constraints_hold_for_every_candidate(of_three: Front) -> None:
    ms = np.median([c.predicted["latency@board"].value for c in of_three.candidates])
    found = searched("top1,latency,macs", [f"latency<={ms}", "macs<=2e6"])
    assert [constraint.objective for constraint in found.constraints] == ["latency@board", "macs"]
    assert len(found.candidates) >= 3
    for c in found.candidates:
        assert c.predicted["latency@board"].value <= ms
        assert c.macs <= 2e6


def test_an_infeasible_constraint_names_the_nearest_value_and_that_one_works() -> None:
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


def test_too_few_records_are_named_with_their_objective() -> None:
    known = read_objectives("top1,latency", RECORDS[:9], SPACE)
    archs = sample_by_macs(SPACE, np.random.default_rng(1), 40)
    with pytest.raises(DataError, match="latency@board: a surrogate needs 20 records or more"):
        find(SPACE, known, list(zip(archs, top1_of(archs), strict=True)), Supernet(), BRIEF, most=8)


def test_spread_takes_the_ends_and_even_steps() -> None:
    ms = np.geomspace(1, 100, 1000)
    chosen, nearest = spread(np.log(np.column_stack([ms, 1 / ms])), 5)
    np.testing.assert_allclose(sorted(ms[chosen]), [1, 3.16, 10, 31.6, 100], rtol=0.01)
    assert set(nearest) == set(range(5))
    np.testing.assert_array_equal(nearest[chosen], range(5))


def test_spread_takes_equal_points_once() -> None:
    points = np.array([[1.0, 2.0], [1.0, 2.0], [2.0, 1.0], [1.0, 2.0]])
    chosen, nearest = spread(points, 3)
    assert chosen.tolist() == [0, 2]
    assert nearest.tolist() == [0, 0, 1, 0]
