"""The node's counters and settings -> one status for /diagnostics: a level, a sentence, values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Dict, Iterator, List, Optional, Tuple

import msgspec

if TYPE_CHECKING:
    from ramnas_edge.board.device import Device
    from ramnas_edge.board.telemetry import Sample

OK, WARN, ERROR = 0, 1, 2  # as in diagnostic_msgs/DiagnosticStatus
LOST_SHARE = 0.05  # a larger share of lost frames is a warning
ENOUGH = 10  # with fewer calls their p90 does not count as a missed budget
SILENT_S = 5.0
LOSS_REMEDY = (
    "the transport is the likely cause: give the camera and this node the shared-memory profile "
    "(FASTRTPS_DEFAULT_PROFILES_FILE=<share of ramnas>/config/fastdds_image.xml)"
)


class CameraState(msgspec.Struct, frozen=True):
    """What is known of one camera's topic; the counts start at configure."""

    name: str
    topic: str
    received: int
    dropped: int  # replaced by a newer image before their turn came
    lost: int  # missing on arrival, by the gaps in the stamps
    lost_share: Optional[float] = None  # among the latest frames; None while too few have come
    silent_s: Optional[float] = None  # since the last image or the activation, the later of the two
    refused: int = 0
    refusal: str = ""  # why the last image was refused, if that was recently
    incompatible: str = ""  # the QoS policy that a publisher does not offer


class RunningModels(msgspec.Struct, frozen=True):
    """The models that run, their engine and budget, and the latencies of the last calls."""

    models: Tuple[Tuple[str, str, str], ...]  # (task, file, arch)
    engine: str
    providers: Tuple[str, ...]
    policy: str
    switches: int
    processed: int
    failures: int
    source: str  # where the expected p90 comes from
    calibrated: bool
    expected_p90_ms: Optional[float] = None
    budget_ms: Optional[float] = None
    calls: int = 0
    p50_ms: Optional[float] = None
    p90_ms: Optional[float] = None
    failed_engines: Tuple[Tuple[str, str], ...] = ()  # (engine, why it failed)

    @property
    def margin_ms(self) -> Optional[float]:
        """How far p90 stays below the budget; negative if it exceeds it."""
        if self.budget_ms is None or self.p90_ms is None:
            return None
        return self.budget_ms - self.p90_ms


class Diagnosis(msgspec.Struct, frozen=True):
    """The content of one diagnostic_msgs/DiagnosticStatus."""

    level: int
    message: str
    values: Tuple[Tuple[str, str], ...]


def diagnose(
    state: str,
    failure: str,
    running: Optional[RunningModels],
    cameras: Tuple[CameraState, ...] = (),
    board: Optional[Dict[str, str]] = None,
) -> Diagnosis:
    """Turn what is known about the node into a level, a message and values.

    `state` is the life-cycle state. `failure` says why nothing runs or why the last frame had no
    result; it is empty if all is well. `board` holds values such as temperature and power mode,
    which are passed on unchanged.
    """
    warnings = [*_model_warnings(running)] if running else []
    if state == "active":
        several = len(cameras) > 1
        warnings += [text for camera in cameras for text in _camera_warnings(camera, several)]
    level = ERROR if failure else WARN if warnings else OK
    message = "; ".join([failure, *warnings] if failure else warnings or [_ok_message(running)])
    values = [("state", state), *_values(running, cameras), *(board or {}).items()]
    return Diagnosis(level, message, tuple(values))


def board_values(device: Device, now: Optional[Sample]) -> Dict[str, str]:
    """The board's name, power mode, hottest temperature and throttling; unknown ones are absent."""
    values = {"board": device.module}
    mode = (now and now.power_mode) or device.power_mode
    if mode:
        values["power mode"] = mode
    if now and now.temperature_c:
        hottest = max(now.temperature_c, key=lambda zone: now.temperature_c[zone])
        values["temperature (degrees C)"] = f"{now.temperature_c[hottest]:.1f} ({hottest})"
    if now and now.limits:
        values["throttled by"] = ", ".join(now.limits)
    return values


def _ok_message(running: Optional[RunningModels]) -> str:
    if running is None:
        return "not configured"
    if running.p90_ms is None:
        return "no frame yet"
    budget = f", budget {running.budget_ms:g} ms" if running.budget_ms is not None else ""
    return f"p90 {running.p90_ms:.3g} ms{budget}"


def _model_warnings(running: RunningModels) -> Iterator[str]:
    margin = running.margin_ms
    if margin is not None and margin < 0 and running.calls >= ENOUGH:
        yield (
            f"p90 is {running.p90_ms:.3g} ms, over the budget of {running.budget_ms:g} ms: raise "
            "latency_budget_ms, or set policy to adaptive, which switches to a faster model"
        )
    if running.budget_ms is not None and not running.calibrated:
        yield (
            "the models were chosen by latencies that were not calibrated on this board "
            f"({running.source}): run ramnas-edge calibrate --bundle DIR"
        )
    for engine, reason in running.failed_engines:
        yield f"engine {engine} failed and {running.engine} took over: {reason}"


def _camera_warnings(camera: CameraState, several: bool) -> Iterator[str]:
    which = f"{camera.topic}: " if several else ""
    if camera.incompatible:
        yield (
            f"{camera.topic}: a publisher does not offer the requested {camera.incompatible}, so "
            "its images do not arrive: set input_qos to sensor_data"
        )
    if camera.silent_s is not None and camera.silent_s > SILENT_S:
        yield f"no image on {camera.topic} for {camera.silent_s:.0f} s"
    if camera.lost_share is not None and camera.lost_share > LOST_SHARE:
        yield (
            f"{which}{camera.lost_share:.0%} of the frames were lost before they reached the node "
            f"(their stamps have gaps); {LOSS_REMEDY}"
        )
    if camera.refusal:
        yield f"{which}image refused: {camera.refusal}"


def _values(
    running: Optional[RunningModels], cameras: Tuple[CameraState, ...]
) -> Iterator[Tuple[str, str]]:
    if running:
        for task, file, arch in running.models:
            yield f"{task} model", file
            yield f"{task} arch", arch
        yield "engine", running.engine
        yield "providers", ", ".join(running.providers)
        yield "policy", running.policy
        yield "switches", str(running.switches)
        yield "figures", running.source
        figures: List[Tuple[str, Optional[float]]] = [
            ("budget (ms)", running.budget_ms),
            ("expected p90 (ms)", running.expected_p90_ms),
            ("p50 (ms)", running.p50_ms),
            ("p90 (ms)", running.p90_ms),
            ("margin (ms)", running.margin_ms),
        ]
        for name, ms in figures:
            if ms is not None:
                yield name, f"{ms:.4g}"
        yield "frames processed", str(running.processed)
        yield "failures", str(running.failures)
    for camera in cameras:
        which = f"{camera.name}: " if len(cameras) > 1 else ""
        yield f"{which}topic", camera.topic
        yield f"{which}frames in", str(camera.received)
        yield f"{which}frames dropped", str(camera.dropped)
        yield f"{which}frames lost before", str(camera.lost)
        yield f"{which}frames refused", str(camera.refused)
