"""Networks that no space of ramnas describes are learnt from a table of what they cost."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")

from ramnas_host.surrogates import surrogate
from ramnas_host.surrogates.costs import Costs, read_costs
from ramnas_models.cost_table import COSTS
from ramnas_models.errors import DataError
from ramnas_models.sampling import sample_by_macs
from ramnas_models.space import load_space

SPACE = load_space("micro")
PAGE = Path(__file__).parents[3] / "docs" / "surrogates.md"
HEADER = "arch,part,layers,macs,params,elements_in,elements_out"


@pytest.fixture(scope="module")
def example() -> dict[str, object]:
    """What the example of docs/surrogates.md defines: a cell space and what its networks cost."""
    (code,) = re.findall(r"```python\n(# A cell space.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, object] = {}
    exec(code, names)
    return names


def cells(rows: np.ndarray, costs: Costs) -> np.ndarray:
    """Latencies of a device that computes at one speed and moves data at another, 1 % noise."""
    _, macs, _, read, written = costs(rows).sum(1).T
    ms = 0.3 + macs / 2e8 + (read + written) / 1e7
    return ms * np.exp(np.random.default_rng(0).normal(0, 0.01, len(rows)))


def test_the_example_of_the_page_ranks_a_cell_space_from_20_records(
    example: dict[str, object],
) -> None:
    costs = example["costs"]
    assert isinstance(costs, Costs)
    assert costs.listed is not None
    rows = np.random.default_rng(0).permutation(costs.listed)[:500]
    ms = cells(rows, costs)
    fitted = surrogate.fit(costs, rows[:20], ms[:20], "cost", log=True)
    found = surrogate.score(ms[20:], fitted.predict(rows[20:])[0])
    assert found.tau > 0.95
    assert found.mape < 0.03
    assert fitted.score.tau_uniform == pytest.approx(found.tau, abs=0.03)
    top1 = 0.5 + 0.03 * np.log(ms)
    accuracies = surrogate.fit(costs, rows[:20], top1[:20], "cost", log=False)
    assert surrogate.score(top1[20:], accuracies.predict(rows[20:])[0]).tau > 0.8


def written(costs: Costs, rows: np.ndarray, path: Path) -> Path:
    """A CSV file of the costs of `rows`, without the parts that cost nothing."""
    lines = [HEADER]
    for row, parts in zip(rows.tolist(), costs(rows).tolist(), strict=True):
        arch = " ".join(map(str, row))
        lines += [
            ",".join([arch, f"part {i}", *map(str, part)])
            for i, part in enumerate(parts)
            if any(part)
        ]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_csv_file_says_the_same_as_the_space_it_was_written_from(tmp_path: Path) -> None:
    archs = SPACE.encode_all(sample_by_macs(SPACE, np.random.default_rng(0), 80))
    own = surrogate.space_costs(SPACE)
    costs = read_costs(written(own, archs, tmp_path / "costs.csv"))
    np.testing.assert_array_equal(costs.listed, archs)
    np.testing.assert_allclose(costs(archs).sum(1), own(archs).sum(1))
    ms = cells(archs, own)
    fitted, same = (
        surrogate.fit(one, archs[:40], ms[:40], "cost", log=True).predict(archs[40:])[0]
        for one in (costs, Costs(own.table))
    )
    np.testing.assert_allclose(fitted, same, rtol=0.01)


LINE = "1 2,stem,1,900,27,300,600"


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("arch,part,layers,macs\n", "lacks the column params, elements_in, elements_out"),
        ("", "lacks the column arch, part"),
        (f"{HEADER}\n", "has no arch"),
        (f"{HEADER}\n{LINE}\n{LINE}\n", "line 3: part 'stem' of arch '1 2' is there twice"),
        (f"{HEADER}\n{LINE.replace('900', 'nan')}\n", "line 2: macs is 'nan'"),
        (f"{HEADER}\n{LINE.replace('900', '')}\n", "line 2: macs is ''"),
        (f"{HEADER}\n{LINE.replace('900', '-1')}\n", "line 2: macs is '-1'"),
        (f"{HEADER}\n1 2,stem,1\n", "line 2: macs is ''"),
        (f"{HEADER}\n{LINE}\n1,stem,1,9,2,3,6\n", "line 3: arch '1' has 1 integers"),
        (f"{HEADER}\n{LINE.replace('1 2', '1 x')}\n", "'1 x' is not an arch"),
        (f"{HEADER}\n{LINE.replace('stem', '')}\n", "line 2: the part has no name"),
        (f"{HEADER}\n{LINE.replace('1 2', '1 ' + '9' * 30)}\n", "is not an arch"),
        (f"{HEADER}\n{LINE.replace('900', '1e300')}\n", "line 2: macs is '1e300'"),
        (f"{HEADER}\n{LINE},7\n", "line 2: it has more cells than there are columns"),
        (f"{HEADER},macs\n{LINE},7\n", "line 1: the column macs is there twice"),
    ],
)
def test_a_fault_of_the_csv_file_is_named(tmp_path: Path, content: str, fault: str) -> None:
    path = tmp_path / "costs.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=re.escape(fault)):
        read_costs(path)


def test_an_arch_that_the_csv_file_lacks_is_named(tmp_path: Path) -> None:
    path = tmp_path / "costs.csv"
    path.write_text(f"{HEADER}\n{LINE}\n")
    with pytest.raises(DataError, match="has no arch '1 3'; add its lines"):
        read_costs(path)(np.array([[1, 2], [1, 3]]))
    with pytest.raises(DataError, match="not a readable CSV file"):
        read_costs(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("returned", "fault"),
    [
        (np.ones((2, 5)), r"an array of shape \(2, 5\) for 2 archs"),
        (np.ones((2, 3, 4)), r"it must be \[2, columns, 5\]"),
        (np.full((2, 3, 5), np.nan), r"not between 0 and 1e\+18 for arch '1 2'"),
        (-np.ones((2, 3, 5)), r"not between 0 and 1e\+18 for arch '1 2'"),
        (np.full((2, 3, 5), 1e300), r"not between 0 and 1e\+18 for arch '1 2'"),
        (np.zeros((2, 3, 5)), "have 0 layers in all parts together; count stem and head too"),
    ],
    ids=["no columns", "four costs", "nan", "negative", "huge", "nothing"],
)
def test_a_function_that_returns_no_costs_is_refused(returned: np.ndarray, fault: str) -> None:
    with pytest.raises(DataError, match=fault):
        Costs(lambda rows: returned)(np.array([[1, 2], [1, 3]]))


@pytest.mark.parametrize("listed", [0, 1])
def test_no_tau_is_expected_over_fewer_than_two_archs(listed: int) -> None:
    rows, own = SPACE.sample_rows(20, np.random.default_rng(0)), surrogate.space_costs(SPACE)
    costs = Costs(own.table, listed=rows[:listed])
    found = surrogate.fit(costs, rows, cells(rows, own), "cost", log=True).score
    assert found.tau_uniform is None


def test_other_families_need_a_space() -> None:
    costs = Costs(lambda rows: np.ones((len(rows), 1, len(COSTS))))
    with pytest.raises(DataError, match="enough for the family cost, but not for gp"):
        surrogate.fit(costs, np.arange(40).reshape(20, 2), np.arange(1.0, 21.0), "gp", log=True)
