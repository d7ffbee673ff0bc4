"""A front as a file: what is read back is what was written, and it holds together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ramnas_host.search import front as fronts
from ramnas_host.search.front import ObjectiveValue
from ramnas_host.search.objectives import TOP1, Constraint
from ramnas_models.errors import DataError
from tests.host.search.fronts import BOARD, SPACE, front, timed


def test_a_front_is_read_as_it_was_written(tmp_path: Path) -> None:
    for found in (timed((1, 0.9), (2, 0.95)), front({TOP1: ObjectiveValue(0.9)}, {})):
        fronts.save(found, tmp_path / "front.json")
        assert fronts.load(tmp_path / "front.json") == found


def test_non_dominated_goes_by_p90_and_skips_what_was_not_measured() -> None:
    found = front(
        {TOP1: ObjectiveValue(0.90), BOARD.name: ObjectiveValue(1.0, 3.0)},
        {TOP1: ObjectiveValue(0.92), BOARD.name: ObjectiveValue(2.0, 2.0)},
        {TOP1: ObjectiveValue(0.95), BOARD.name: ObjectiveValue(4.0, 5.0)},
        {TOP1: ObjectiveValue(0.99)},
    )
    assert [c.measured[TOP1].value for c in found.non_dominated()] == [0.92, 0.95]
    with pytest.raises(DataError, match="ramnas verify"):
        front({TOP1: ObjectiveValue(0.9)}).non_dominated()


def test_a_front_of_an_earlier_ramnas_says_to_search_again(tmp_path: Path) -> None:
    old = {"space": "micro", "run": "run", "device_class": "d", "candidates": [{"macs": 1}]}
    (tmp_path / "old.json").write_text(json.dumps(old))
    with pytest.raises(DataError, match=r"old\.json is a front of format 1.*: search again"):
        fronts.load(tmp_path / "old.json")


def changed(content: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    *way, last = path.split("/")
    at: Any = content
    for key in way:
        at = at[int(key)] if isinstance(at, list) else at[key]
    at[int(last) if isinstance(at, list) else last] = value
    return content


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("candidates/0/arch_id", "f" * 12, "candidate ffffffffffff is arch"),
        ("candidates/0/predicted", {"top1": {"value": 0.9}}, "figures of other objectives"),
        ("candidates/1/measured/macs", {"value": 1}, "figures of other objectives"),
        ("candidates/1/measured/top1/value", float("inf"), "JSON is malformed"),
        ("candidates/1/measured/top1/value", None, "Expected `float`"),
        ("objectives/0/kind", "speed", "objective 'speed' is unknown"),
        ("objectives/1/target", None, "does not go with its target"),
        ("objectives/1", {"kind": "top1"}, "its objectives are top1, top1"),
        ("constraints", [{"objective": "macs", "limit": 1}], "a constraint on 'macs'"),
        ("candidates/0/macs", "many", "Expected `int`"),
        ("surprise", 1, "unknown field `surprise`"),
    ],
)
def test_a_front_that_does_not_hold_together_is_refused(
    tmp_path: Path, path: str, value: object, message: str
) -> None:
    file = tmp_path / "front.json"
    fronts.save(timed((1, 0.9), (2, 0.95)), file)
    file.write_text(json.dumps(changed(json.loads(file.read_text()), path, value)))
    with pytest.raises(DataError, match=message):
        fronts.load(file)


def test_text_and_nothing_are_no_fronts(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"\xff text")
    for name in ("text", "missing"):
        with pytest.raises(DataError, match=f"{name} is no front of ramnas"):
            fronts.load(tmp_path / name)


def test_cost_is_the_latency_of_the_classifier() -> None:
    assert timed((1, 0.9)).cost == BOARD
    assert Constraint(BOARD.name, 1.0).objective == "latency@board"
    assert SPACE.hash == timed((1, 0.9)).space_hash
