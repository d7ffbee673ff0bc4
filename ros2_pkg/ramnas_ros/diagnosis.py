"""What the node has counted -> one status of /diagnostics: a level, a sentence, values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Dict, Iterator, List, Optional, Tuple

import msgspec

if TYPE_CHECKING:
    from ramnas_edge.board.device import Device
    from ramnas_edge.board.telemetry import Sample

OK, WARN, ERROR = 0, 1, 2  # as in diagnostic_msgs/DiagnosticStatus
LOST_SHARE = 0.05  # of the frames: more is worth a word
ENOUGH = 10  # calls before one speaks of their p90
SILENT_S = 5.0
CURE = (
    "likely by the transport: give the camera and this node the shared-memory profile "
    "(FASTRTPS_DEFAULT_PROFILES_FILE=<share of ramnas>/config/fastdds_image.xml)"
)


class Camera(msgspec.Struct, frozen=True):
    """One camera's topic; counts since it was configured, None where there is nothing to say."""

    name: str
    topic: str
    received: int
    dropped: int  # newer ones came before their turn
    lost: int  # before they arrived, by the gaps in the stamps
    lost_share: Optional[float] = None  # lately
    silent_s: Optional[float] = None  # since the last image, or since activated
    refused: int = 0
    refusal: str = ""  # why, if it was lately
    incompatible: str = ""  # policy of QoS that a publisher does not offer


class Running(msgspec.Struct, frozen=True):
    """What runs; p50 and p90 (ms) of the last calls."""

    models: Tuple[Tuple[str, str, str], ...]  # (task, file, arch)
    engine: str
    providers: Tuple[str, ...]
    policy: str
    switches: int
    processed: int
    failures: int
    source: str  # of the figures
    calibrated: bool
    expected_p90_ms: Optional[float] = None
    budget_ms: Optional[float] = None
    calls: int = 0
    p50_ms: Optional[float] = None
    p90_ms: Optional[float] = None
    left: Tuple[Tuple[str, str], ...] = ()  # engines that failed, and why

    @property
    def margin_ms(self) -> Optional[float]:
        """What is left of the budget; negative: it is missed."""
        if self.budget_ms is None or self.p90_ms is None:
            return None
        return self.budget_ms - self.p90_ms


class Status(msgspec.Struct, frozen=True):
    level: int
    message: str
    values: Tuple[Tuple[str, str], ...]


def diagnose(
    state: str,
    failure: str,
    running: Optional[Running],
    cameras: Tuple[Camera, ...] = (),
    board: Optional[Dict[str, str]] = None,
) -> Status:
    """`state` of the life cycle; `failure`: why nothing runs, or the last frame had no result.

    `board`: temperature, power mode and the like, as they are.
    """
    warnings = [*_of_running(running)] if running else []
    if state == "active":
        warnings += [text for camera in cameras for text in _of_camera(camera, len(cameras) > 1)]
    level = ERROR if failure else WARN if warnings else OK
    message = "; ".join([failure, *warnings] if failure else warnings or [_all_is_well(running)])
    values = [("state", state), *_values(running, cameras), *(board or {}).items()]
    return Status(level, message, tuple(values))


def board_values(device: Device, now: Optional[Sample]) -> Dict[str, str]:
    """What the board says of itself; what it does not say is not there."""
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


def _all_is_well(running: Optional[Running]) -> str:
    if running is None:
        return "not configured"
    if running.p90_ms is None:
        return "no frame yet"
    budget = f", budget {running.budget_ms:g} ms" if running.budget_ms is not None else ""
    return f"p90 {running.p90_ms:.3g} ms{budget}"


def _of_running(running: Running) -> Iterator[str]:
    margin = running.margin_ms
    if margin is not None and margin < 0 and running.calls >= ENOUGH:
        yield (
            f"the budget of {running.budget_ms:g} ms is missed: p90 is {running.p90_ms:.3g} ms; "
            "raise latency_budget_ms, or policy adaptive takes a faster model"
        )
    if running.budget_ms is not None and not running.calibrated:
        yield (
            f"chosen by figures that are not calibrated on this board ({running.source}): "
            "run ramnas-edge calibrate --bundle DIR"
        )
    for engine, reason in running.left:
        yield f"engine {engine} failed and was left for {running.engine}: {reason}"


def _of_camera(camera: Camera, several: bool) -> Iterator[str]:
    which = f"{camera.topic}: " if several else ""
    if camera.incompatible:
        yield (
            f"{camera.topic}: a publisher does not offer the {camera.incompatible} asked for and "
            "sends nothing here: set input_qos to sensor_data"
        )
    if camera.silent_s is not None and camera.silent_s > SILENT_S:
        yield f"no image on {camera.topic} for {camera.silent_s:.0f} s"
    if camera.lost_share is not None and camera.lost_share > LOST_SHARE:
        yield (
            f"{which}{camera.lost_share:.0%} of the frames were lost before they arrived (gaps in "
            f"their stamps), {CURE}"
        )
    if camera.refusal:
        yield f"{which}image refused: {camera.refusal}"


def _values(running: Optional[Running], cameras: Tuple[Camera, ...]) -> Iterator[Tuple[str, str]]:
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
