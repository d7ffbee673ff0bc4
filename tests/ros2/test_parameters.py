from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Dict, Optional

import pytest

from ramnas_edge.engines.backends import ENGINES
from ramnas_edge.vision.detection import Limits
from ramnas_models.errors import BudgetError
from ramnas_ros.parameters import (
    PARAMETERS,
    apply,
    budget_ms,
    camera_names,
    limits,
    refusal,
    without_engines,
)

DEFAULTS: Dict[str, Any] = {parameter.name: parameter.default for parameter in PARAMETERS}


def test_every_parameter_is_documented_with_its_default() -> None:
    text = (Path(__file__).parents[2] / "docs/ros2-node.md").read_text()
    for parameter in PARAMETERS:
        default = '""' if parameter.default == "" else parameter.default
        if isinstance(default, (bool, list)):
            default = str(default).lower().replace("'", "")
        live = "yes" if parameter.live else ""
        row = re.search(rf"^\| `{parameter.name}` \| `(.*?)` \| (.*?) ?\|", text, re.MULTILINE)
        assert row, parameter.name
        assert (row.group(1), row.group(2)) == (str(default), live)


def test_the_defaults_are_accepted() -> None:
    assert refusal(DEFAULTS, DEFAULTS, configured=False) == ""


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"latency_budget_ms": -1.0}, "latency_budget_ms: -1.0 is not between 0 and 60000"),
        ({"latency_budget_ms": float("nan")}, "is not between"),
        ({"latency_budget_ms": "fast"}, "'fast' is not a number"),
        ({"latency_budget_ms": True}, "True is not a number"),
        ({"score_threshold": 1}, "is not between 0.01 and 0.99"),
        ({"max_detections": 0}, "is not between 1 and 1000"),
        ({"threads": 99_999}, "threads: 99999 is not between 1 and "),
        ({"task": "classification"}, "is not one of detection, segmentation, both"),
        ({"policy": "adaptive"}, "needs a budget to keep: set latency_budget_ms too"),
        ({"engine": "tensorrt", "device": "cpu"}, "tensorrt does not run on device cpu"),
        ({"image_topics": []}, "has no topic or an empty one"),
        ({"image_topics": ["/a/image", "/a/color"]}, "gives two cameras the same name"),
        ({"publish_overlay": 1}, "is not a bool"),
        ({"bundle": None}, "is not a str"),
    ],
)
def test_a_bad_value_is_refused_with_a_reason(changes: Dict[str, Any], reason: str) -> None:
    assert reason in refusal(changes, DEFAULTS, configured=False)


def test_a_whole_number_is_accepted_for_a_float() -> None:
    assert refusal({"latency_budget_ms": 25}, DEFAULTS, configured=True) == ""
    assert budget_ms({**DEFAULTS, "latency_budget_ms": 25}) == 25.0
    assert budget_ms(DEFAULTS) is None


def test_once_configured_only_live_parameters_can_change() -> None:
    new = {"policy": "adaptive", "latency_budget_ms": 9.0, "score_threshold": 0.5}
    assert refusal(new, DEFAULTS, configured=True) == ""
    reason = refusal({"task": "both"}, DEFAULTS, configured=True)
    assert reason == "task cannot change while the node is configured: clean the node up first"
    assert refusal({"task": "detection"}, DEFAULTS, configured=True) == ""  # not a change


def test_a_camera_is_named_by_its_topic_without_the_last_part() -> None:
    topics = ("/front/left/image_raw", "rear/image", "image", "~/image")
    assert camera_names(topics) == ("front_left", "rear", "image", "image")


def test_a_device_excludes_the_engines_of_the_other_device() -> None:
    assert without_engines(DEFAULTS) == frozenset()
    cpu = without_engines({**DEFAULTS, "device": "cpu"})
    gpu = without_engines({**DEFAULTS, "device": "gpu"})
    assert cpu | gpu == set(ENGINES)
    assert not cpu & gpu
    assert "onnxruntime-cpu" in gpu


def test_threshold_and_count_become_limits_of_the_runtime() -> None:
    assert limits({**DEFAULTS, "score_threshold": 0.6, "max_detections": 3}) == Limits(
        score=0.6, count=3
    )


class FakePerception:
    """Refuses what a Perception refuses: adaptive without a budget, and a budget below 5 ms."""

    def __init__(self, budget: Optional[float], policy: str) -> None:
        self.latency_budget_ms, self.policy, self.limits = budget, policy, Limits()

    def set_latency_budget(self, ms: Optional[float]) -> None:
        if (ms is None and self.policy == "adaptive") or (ms is not None and ms < 5):
            raise BudgetError("refused")
        self.latency_budget_ms = ms

    def set_policy(self, policy: str) -> None:
        if policy == "adaptive" and self.latency_budget_ms is None:
            raise BudgetError("refused")
        self.policy = policy

    def set_limits(self, new: Limits) -> None:
        self.limits = new


@pytest.mark.parametrize("before", [(None, "fixed"), (20.0, "fixed"), (20.0, "adaptive")])
@pytest.mark.parametrize("after", [(0.0, "fixed"), (30, "fixed"), (30.0, "adaptive")])
def test_budget_and_policy_can_change_together_in_any_combination(before: Any, after: Any) -> None:
    fake: Any = FakePerception(*before)
    values = {**DEFAULTS, "latency_budget_ms": after[0], "policy": after[1], "max_detections": 2}
    apply(values, fake)
    assert (fake.latency_budget_ms, fake.policy) == (after[0] or None, after[1])
    assert fake.limits.count == 2


def test_a_refused_budget_leaves_everything_unchanged() -> None:
    fake: Any = FakePerception(20.0, "fixed")
    values = {**DEFAULTS, "latency_budget_ms": 1.0, "policy": "adaptive", "max_detections": 2}
    with pytest.raises(BudgetError):
        apply(values, fake)
    assert (fake.latency_budget_ms, fake.policy, fake.limits) == (20.0, "fixed", Limits())
