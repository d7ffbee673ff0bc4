"""A board with few records is predicted from boards measured before."""

from __future__ import annotations

import pytest

from ramnas_host.search.objectives import read_objectives
from ramnas_host.search.predictors import Predictors
from ramnas_host.surrogates import surrogate
from ramnas_host.surrogates.prior_boards import prior_boards
from ramnas_models.errors import DataError
from tests.host.search.fronts import SPACE, ms_of, record, records

OLD = [
    *records(40, device="old"),
    *records(10, device="scarce"),
    *records(30, device="new", seed=5),
]


def test_ten_records_are_enough_where_other_boards_were_measured() -> None:
    boards = prior_boards(OLD, SPACE)
    assert set(boards) == {("old", "classification"), ("new", "classification")}
    few = [record(r.arch, 3 * ms_of(r.arch), device="new", run="few") for r in records(10)]
    known = read_objectives("top1,latency", few, SPACE)
    with pytest.raises(DataError, match="latency on new: a surrogate needs 20 records or more"):
        Predictors(SPACE, known, ())
    predictors = Predictors(SPACE, known, (), boards)
    best, scores = predictors.fitted["latency@new"]
    assert best.priors == (boards["old", "classification"],)  # not the records of the board itself
    assert set(scores) == {surrogate.COST}
    asked = [r.arch for r in records(40, seed=3)]
    mean, _ = best.predict(SPACE.encode_all(asked))
    assert mean == pytest.approx([3 * ms_of(arch) for arch in asked], rel=0.15)


def test_records_that_no_board_can_start_from_are_refused() -> None:
    with pytest.raises(DataError, match="none has 20 valid records for one task"):
        prior_boards(records(19, device="old"), SPACE)
    with pytest.raises(DataError, match="another space than micro"):
        prior_boards(records(20, space="elsewhere"), SPACE)
