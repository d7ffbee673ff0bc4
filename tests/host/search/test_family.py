"""Naming the models of a front, and listing them beside published networks."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from ramnas_host.search.family import PUBLISHED, name_candidates, table
from ramnas_host.search.front import arch_of, load, save
from ramnas_models.accuracy import share
from ramnas_models.errors import DataError, SpaceError
from ramnas_models.named import find_arch
from ramnas_models.space import load_space
from tests.host.search.fronts import SPACE, seen, timed

EIGHT = timed(*((2.0**i, 0.7 + i / 100) for i in (3, 0, 1, 2, 7, 4, 5, 6)), (300.0, 0.6))


def test_names_span_the_front_by_rising_cost_and_skip_dominated_models() -> None:
    front = name_candidates(EIGHT, 3)
    by_name = {c.name: c.measured["latency@board"].p90 for c in front.candidates if c.name}
    assert sorted(by_name) == ["A0", "A1", "A2"]
    assert (by_name["A0"], by_name["A2"]) == (1.0, 128.0)
    assert 4 <= by_name["A1"] <= 32
    assert [msgspec.structs.replace(c, name="") for c in front.candidates] == list(EIGHT.candidates)


def test_at_most_the_whole_front_can_be_named() -> None:
    assert sum(bool(c.name) for c in name_candidates(EIGHT, 8).candidates) == 8
    for n in (0, 9):
        with pytest.raises(DataError, match=f"--family {n}: .*latency on board has 8 models"):
            name_candidates(EIGHT, n)


def test_the_table_puts_each_model_into_its_band() -> None:
    front = msgspec.structs.replace(name_candidates(EIGHT, 2), dataset="imagenet")
    macs = iter((150e6, 250e6, 350e6, 450e6, 550e6, 650e6, 750e6, 850e6, 950e6))
    candidates = (msgspec.structs.replace(c, macs_bn=int(next(macs))) for c in front.candidates)
    front = msgspec.structs.replace(front, candidates=tuple(candidates))
    lines = table(front).splitlines()
    bands = [line for line in lines if line.startswith("--")]
    assert bands == [
        "-- 200 to 400 M", "-- 400 to 600 M", "-- 600 to 800 M", "-- above 800 M",
    ]  # fmt: skip
    own = [i for i, line in enumerate(lines) if "  A0 " in line or "  A1 " in line]
    assert len(own) == 2
    assert lines.index("-- 200 to 400 M") < own[0] < lines.index("-- 400 to 600 M") < own[1]
    assert lines[own[0]].split()[3:6] == ["70.0%", "1.000", "ms"]
    assert lines[own[0]].endswith("report split, n 250, 95 % interval 64.1 to 75.3 %")
    assert sum(name in table(front) for name, _, _ in PUBLISHED) == len(PUBLISHED)


def test_published_networks_stand_only_beside_report_accuracies_on_imagenet() -> None:
    front = name_candidates(EIGHT, 2)
    assert not any(name in table(front) for name, _, _ in PUBLISHED)
    searched = tuple(
        msgspec.structs.replace(c, measured={}, accuracies=(share("top1", 0.7, "selection", 500),))
        for c in front.candidates
    )
    front = msgspec.structs.replace(front, candidates=searched, dataset="imagenet")
    assert "selection split" in table(front)
    assert not any(name in table(front) for name, _, _ in PUBLISHED)


def test_names_go_by_the_selection_split_and_the_table_shows_the_report_split() -> None:
    # by the report split the second one would be dominated
    front = name_candidates(seen((1, 0.90, 0.93), (2, 0.92, 0.91), (4, 0.95, 0.94)), 3)
    assert [c.name for c in front.candidates] == ["A0", "A1", "A2"]
    (line,) = (line for line in table(front).splitlines() if "  A1 " in line)
    assert "91.0%" in line
    searched = tuple(
        msgspec.structs.replace(c, measured={}, accuracies=c.accuracies[:1])
        for c in front.candidates
    )
    unverified = table(msgspec.structs.replace(front, candidates=searched))
    assert "92.0%" in unverified
    assert "selection split, n 500" in unverified


def test_a_name_of_the_front_takes_precedence_over_a_published_one(tmp_path: Path) -> None:
    front = name_candidates(EIGHT, 3)
    save(front, tmp_path / "front.json")
    for name, arch in front.family.items():
        assert arch_of(SPACE, name, tmp_path / "front.json") == arch
    first = front.candidates[0]
    assert arch_of(SPACE, first.arch_id, tmp_path / "front.json") == first.arch
    published = load_space("attentivenas")
    assert find_arch(published, "A0", family={"A0": published.max()}) == published.max()
    assert arch_of(published, "A0", None) == published.min()
    with pytest.raises(SpaceError, match="the id or name of an arch in the given front"):
        arch_of(SPACE, "A7", tmp_path / "front.json")


def test_a_front_with_the_same_name_twice_is_refused(tmp_path: Path) -> None:
    twice = msgspec.structs.replace(
        EIGHT, candidates=tuple(msgspec.structs.replace(c, name="A0") for c in EIGHT.candidates)
    )
    save(twice, tmp_path / "front.json")
    with pytest.raises(DataError, match="two candidates have the same name: A0"):
        load(tmp_path / "front.json")
