"""The node's parameters: their names, defaults, limits and meaning for the runtime; no rclpy."""

from __future__ import annotations

import math
import os
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
_EXCLUDED: Dict[str, FrozenSet[str]] = {
    "auto": frozenset(),
    "cpu": frozenset(ENGINES) - frozenset(_CPU),
    "gpu": frozenset(_CPU),
}


class Parameter(msgspec.Struct, frozen=True):
    """One parameter of the node.

    The ends of the range `between` are allowed values. A `live` parameter takes effect at once, any
    other one at the next configure.
    """

    name: str
    default: Any
    description: str
    between: Optional[Tuple[float, float]] = None
    choices: Tuple[str, ...] = ()
    live: bool = False

    @property
    def constraints(self) -> str:
        """The allowed choices in words, as `ros2 param describe` shows them."""
        return f"one of {', '.join(self.choices)}" if self.choices else ""


PARAMETERS = (
    Parameter("bundle", "", "folder of the bundle of models; empty: the one shipped with ramnas"),
    Parameter("task", DETECTION, "find objects, segment the image, or both", choices=tuple(TASKS)),
    Parameter(
        "latency_budget_ms", 0.0,
        "limit for the p90 of the work on one frame, all tasks together; "
        "0: no budget, so the most accurate models",
        between=(0, 60_000), live=True,
    ),
    Parameter(
        "policy", "fixed",
        "adaptive switches models while frames come, so that the budget holds on a busy board",
        choices=("fixed", "adaptive"), live=True,
    ),
    Parameter(
        "engine", "auto", "inference engine; auto: the fastest that works here",
        choices=("auto", *ENGINES),
    ),
    Parameter(
        "device", "auto", "the processor that engine auto may use", choices=tuple(_EXCLUDED)
    ),
    Parameter(
        "precision", "fp32", "numeric precision; the engine must support it",
        choices=("fp32", "tf32", "fp16", "int8"),
    ),
    Parameter(
        "threads", 1, "threads of an engine that runs on the CPU, at most one per processor",
        between=(1, os.cpu_count() or 1),
    ),
    Parameter(
        "score_threshold", 0.3, "lowest score of a published detection",
        between=(0.01, 0.99), live=True,
    ),
    Parameter(
        "max_detections", 100, "largest number of detections per image; the best are kept",
        between=(1, 1000), live=True,
    ),
    Parameter("image_topics", ["image"], "image topics of one or more cameras"),
    Parameter(
        "cameras", "in_turn",
        "with several cameras: run their frames one after the other, or together as one batch",
        choices=("in_turn", "batch"),
    ),
    Parameter("compressed", False, "subscribe to <image topic>/compressed instead"),
    Parameter(
        "input_qos", "sensor_data",
        "sensor_data (best effort) receives images from every camera, "
        "reliable only from cameras that publish reliably",
        choices=("sensor_data", "reliable"),
    ),
    Parameter(
        "input_depth", 1,
        "images that may wait in the transport; each makes results one frame older",
        between=(1, 100),
    ),
    Parameter(
        "publish_overlay", True, "offer ~/overlay, which is drawn only while it has subscribers",
        live=True,
    ),
    Parameter("autostart", False, "configure and activate the node when its process starts"),
)  # fmt: skip
BY_NAME = {parameter.name: parameter for parameter in PARAMETERS}


def refusal(changes: Values, now: Values, configured: bool) -> str:
    """Why the node must refuse to change its values `now` by `changes`; empty if it can accept."""
    for name, value in changes.items():
        reason = name in BY_NAME and _refusal(BY_NAME[name], value)
        if reason:
            return f"{name}: {value!r} {reason}"
        if configured and name in BY_NAME and not BY_NAME[name].live and value != now[name]:
            return f"{name} cannot change while the node is configured: clean the node up first"
    new = {**now, **changes}
    if new["policy"] == "adaptive" and not new["latency_budget_ms"]:
        return "policy adaptive needs a budget to keep: set latency_budget_ms too"
    if new["engine"] in _EXCLUDED[new["device"]]:
        return f"engine {new['engine']} does not run on device {new['device']}: set one to auto"
    return ""


def _refusal(parameter: Parameter, value: Any) -> str:
    number = isinstance(parameter.default, (int, float)) and not isinstance(parameter.default, bool)
    if number and (isinstance(value, bool) or not isinstance(value, (int, float))):
        return "is not a number"
    if not number and type(value) is not type(parameter.default):
        return f"is not a {type(parameter.default).__name__}"
    if parameter.choices and value not in parameter.choices:
        return f"is not {parameter.constraints}"
    if parameter.between:
        low, high = parameter.between
        if not (math.isfinite(value) and low <= value <= high):
            return f"is not between {low:g} and {high:g}"
    if parameter.name == "image_topics":
        if not value or not all(value):
            return "has no topic or an empty one"
        if len(set(camera_names(value))) < len(value):
            return "gives two cameras the same name: their outputs would go to the same topics"
    return ""


def camera_names(topics: Sequence[str]) -> Tuple[str, ...]:
    """The names under which the cameras' outputs are published.

    A name is the topic without its last part: /front/left/image_raw gives front_left.
    """
    parts = [[part for part in topic.split("/") if part and part != "~"] for topic in topics]
    return tuple("_".join(some[:-1] or some) for some in parts)


def batch(values: Values) -> int:
    """The number of frames in one inference."""
    return len(values["image_topics"]) if values["cameras"] == "batch" else 1


def budget_ms(values: Values) -> Optional[float]:
    return float(values["latency_budget_ms"]) or None


def limits(values: Values) -> Limits:
    return Limits(score=float(values["score_threshold"]), count=values["max_detections"])


def without_engines(values: Values) -> FrozenSet[str]:
    """The engines that parameter `device` excludes."""
    return _EXCLUDED[values["device"]]


def apply(values: Values, perception: Perception) -> None:
    """Set all live values on the perception.

    BudgetError if no model fits the budget; then nothing has changed.
    """
    budget, policy = budget_ms(values), values["policy"]
    if (
        budget is None and policy != perception.policy
    ):  # policy adaptive must go before the budget does
        perception.set_policy(policy)
    if budget != perception.latency_budget_ms:  # this is the only call that may be refused
        perception.set_latency_budget(budget)
    if policy != perception.policy:
        perception.set_policy(policy)
    perception.set_limits(limits(values))
