"""The node's parameters: what they are called, may be, and mean to the runtime; no rclpy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Dict, FrozenSet, Mapping, Optional, Sequence, Tuple

import msgspec

from ramnas_edge.engines.backends import ENGINES
from ramnas_edge.vision.detection import Limits
from ramnas_models.head_plan import DETECTION, SEGMENTATION

if TYPE_CHECKING:
    from ramnas_edge.runtime.perception import Perception

Values = Mapping[str, Any]
TASKS = {
    DETECTION: (DETECTION,),
    SEGMENTATION: (SEGMENTATION,),
    "both": (DETECTION, SEGMENTATION),
}
_CPU = ("onnxruntime-cpu", "onnxruntime-openvino")
_WITHOUT: Dict[str, FrozenSet[str]] = {
    "auto": frozenset(),
    "cpu": frozenset(ENGINES) - frozenset(_CPU),
    "gpu": frozenset(_CPU),
}


class Parameter(msgspec.Struct, frozen=True):
    """`between`: both ends included. `live`: takes effect at once, others when configured."""

    name: str
    default: Any
    description: str
    between: Optional[Tuple[float, float]] = None
    choices: Tuple[str, ...] = ()
    live: bool = False

    @property
    def constraints(self) -> str:
        """In words."""
        return f"one of {', '.join(self.choices)}" if self.choices else ""


PARAMETERS = (
    Parameter("bundle", "", "folder of the models; empty: those that come with ramnas"),
    Parameter("task", DETECTION, "what to look for", choices=tuple(TASKS)),
    Parameter(
        "latency_budget_ms", 0.0,
        "p90 of the work on one frame, all tasks together; 0: none, the most accurate models",
        between=(0, 60_000), live=True,
    ),
    Parameter(
        "policy", "fixed", "adaptive: change models so that the budget holds on a busy board",
        choices=("fixed", "adaptive"), live=True,
    ),
    Parameter("engine", "auto", "auto: the fastest that works", choices=("auto", *ENGINES)),
    Parameter("device", "auto", "what engine auto may run on", choices=tuple(_WITHOUT)),
    Parameter("precision", "fp32", "where the engine has it",
              choices=("fp32", "tf32", "fp16", "int8")),
    Parameter("threads", 1, "of the engines of a CPU", between=(1, 256)),
    Parameter("score_threshold", 0.3, "of a detection, at least", between=(0.01, 0.99), live=True),
    Parameter("max_detections", 100, "at most so many, the best", between=(1, 1000), live=True),
    Parameter("image_topics", ["image"], "one or more cameras"),
    Parameter(
        "cameras", "in_turn", "several: frames one after the other, or all as one batch",
        choices=("in_turn", "batch"),
    ),
    Parameter("compressed", False, "subscribe <image topic>/compressed instead"),
    Parameter(
        "input_qos", "sensor_data",
        "sensor_data (best effort) takes images of every camera, reliable of reliable ones alone",
        choices=("sensor_data", "reliable"),
    ),
    Parameter("input_depth", 1, "images that wait; every one more is that much older",
              between=(1, 100)),
    Parameter("publish_overlay", True, "offer ~/overlay, drawn while somebody looks at it",
              live=True),
    Parameter("autostart", False, "configure and activate at the start"),
)  # fmt: skip
BY_NAME = {parameter.name: parameter for parameter in PARAMETERS}


def refusal(changes: Values, now: Values, configured: bool) -> str:
    """Why the node cannot take `changes` of its values `now`; empty: it can."""
    for name, value in changes.items():
        reason = name in BY_NAME and _refusal(BY_NAME[name], value)
        if reason:
            return f"{name}: {value!r} {reason}"
        if configured and name in BY_NAME and not BY_NAME[name].live and value != now[name]:
            return f"{name} changes with the next configure: clean the node up first"
    new = {**now, **changes}
    if new["policy"] == "adaptive" and not new["latency_budget_ms"]:
        return "policy adaptive keeps a budget: set latency_budget_ms too"
    if new["engine"] in _WITHOUT[new["device"]]:
        return f"engine {new['engine']} does not run on device {new['device']}; leave one at auto"
    return ""


def _refusal(parameter: Parameter, value: Any) -> str:
    number = isinstance(parameter.default, (int, float)) and not isinstance(parameter.default, bool)
    if number and (isinstance(value, bool) or not isinstance(value, (int, float))):
        return "is no number"
    if not number and type(value) is not type(parameter.default):
        return f"is no {type(parameter.default).__name__}"
    if parameter.choices and value not in parameter.choices:
        return f"is not {parameter.constraints}"
    if parameter.between:
        low, high = parameter.between
        if not (math.isfinite(value) and low <= value <= high):
            return f"is not between {low:g} and {high:g}"
    if parameter.name == "image_topics":
        if not value or not all(value):
            return "names no topic"
        if len(set(camera_names(value))) < len(value):
            return "names two cameras alike: their outputs would go to the same topics"
    return ""


def camera_names(topics: Sequence[str]) -> Tuple[str, ...]:
    """What the outputs of each stand under: /front/left/image_raw is front_left."""
    parts = [[part for part in topic.split("/") if part and part != "~"] for topic in topics]
    return tuple("_".join(some[:-1] or some) for some in parts)


def batch(values: Values) -> int:
    """Frames that are run at once."""
    return len(values["image_topics"]) if values["cameras"] == "batch" else 1


def budget_ms(values: Values) -> Optional[float]:
    return float(values["latency_budget_ms"]) or None


def limits(values: Values) -> Limits:
    return Limits(score=float(values["score_threshold"]), count=values["max_detections"])


def without_engines(values: Values) -> FrozenSet[str]:
    """Engines that `device` leaves out."""
    return _WITHOUT[values["device"]]


def apply(values: Values, perception: Perception) -> None:
    """Set what may change at once: all of it, or nothing and BudgetError if no model fits."""
    budget, policy = budget_ms(values), values["policy"]
    if budget is None and policy != perception.policy:  # adaptive cannot do without
        perception.set_policy(policy)
    if budget != perception.latency_budget_ms:  # the one that may be refused
        perception.set_latency_budget(budget)
    if policy != perception.policy:
        perception.set_policy(policy)
    perception.set_limits(limits(values))
