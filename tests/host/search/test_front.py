"""Fronts as files: they are read back unchanged, and contradictions are refused."""

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


def test_a_front_is_read_back_unchanged(tmp_path: Path) -> None:
    for written in (timed((1, 0.9), (2, 0.95)), front({TOP1: ObjectiveValue(0.9)}, {})):
        fronts.save(written, tmp_path / "front.json")
        assert fronts.load(tmp_path / "front.json") == written


def test_non_dominated_compares_p90_and_skips_unverified_candidates() -> None:
    verified = front(
        {TOP1: ObjectiveValue(0.90), BOARD.name: ObjectiveValue(1.0, 3.0)},
        {TOP1: ObjectiveValue(0.92), BOARD.name: ObjectiveValue(2.0, 2.0)},
        {TOP1: ObjectiveValue(0.95), BOARD.name: ObjectiveValue(4.0, 5.0)},
        {TOP1: ObjectiveValue(0.99)},
    )
    assert [c.measured[TOP1].value for c in verified.non_dominated()] == [0.92, 0.95]
    with pytest.raises(DataError, match="ramnas verify"):
        front({TOP1: ObjectiveValue(0.9)}).non_dominated()


def test_a_front_of_format_1_is_refused(tmp_path: Path) -> None:
    old = {"space": "micro", "run": "run", "device_class": "d", "candidates": [{"macs": 1}]}
    (tmp_path / "old.json").write_text(json.dumps(old))
    with pytest.raises(DataError, match=r"old\.json is a front of format 1.*search again"):
        fronts.load(tmp_path / "old.json")


def changed(content: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """`content` with `value` at a path such as candidates/0/arch_id."""
    *parents, last = path.split("/")
    node: Any = content
    for key in parents:
        node = node[int(key)] if isinstance(node, list) else node[key]
    node[int(last) if isinstance(node, list) else last] = value
    return content


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("candidates/0/arch_id", "f" * 12, "the arch of candidate ffffffffffff has the id"),
        ("candidates/0/predicted", {"top1": {"value": 0.9}}, "one predicted value for each"),
        ("candidates/1/measured/macs", {"value": 1}, "has measured values of other objectives"),
        ("candidates/1/measured/top1/value", float("inf"), "JSON is malformed"),
        ("candidates/1/measured/top1/value", None, "Expected `float`"),
        ("objectives/0/kind", "speed", "objective 'speed' is unknown"),
        ("objectives/1/target", None, "has no target"),
        ("objectives/1", {"kind": "top1"}, "each once, and has: top1, top1"),
        ("constraints", [{"objective": "macs", "limit": 1}], "constraint on 'macs', which is not"),
        ("candidates/0/macs", "many", "Expected `int`"),
        ("surprise", 1, "unknown field `surprise`"),
        ("candidates/0/accuracies/1/value", 0.8, "another top-1 on the report split than"),
    ],
)
def test_a_front_that_contradicts_itself_is_refused(
    tmp_path: Path, path: str, value: object, message: str
) -> None:
    file = tmp_path / "front.json"
    fronts.save(timed((1, 0.9), (2, 0.95)), file)
    file.write_text(json.dumps(changed(json.loads(file.read_text()), path, value)))
    with pytest.raises(DataError, match=message):
        fronts.load(file)


def test_a_text_file_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"\xff text")
    for name in ("text", "missing"):
        with pytest.raises(DataError, match=f"{name} is not a front of ramnas"):
            fronts.load(tmp_path / name)


def test_the_cost_of_a_front_is_the_latency_of_the_classifier() -> None:
    assert timed((1, 0.9)).cost == BOARD
    assert Constraint(BOARD.name, 1.0).objective == "latency@board"
    assert SPACE.hash == timed((1, 0.9)).space_hash
