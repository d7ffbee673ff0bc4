"""The perception node between real ROS 2 processes: its own time, the age of frames, its CPU.

The peer is a plain node. Needs rclpy: `make bench-ros`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ramnas_models.head_plan import for_task
from ramnas_models.plan import plan
from ramnas_models.space import load_space
from tests.benchmarks.one_model import write_one_model

HW = ("480", "640")
SECONDS = 20
WARM_UP = 10  # results at the start that do not count
TOO_FAST = 1.25  # rate of the camera over the rate at which the runtime alone could work


class Run(NamedTuple):
    """The times of a node's frames, in ms, and how many cores the node used."""

    pipeline: Any  # from the stamp until the result is published
    age: Any  # from the stamp until the runtime's call begins
    call: Any  # the runtime's call
    own: Any  # from arrival until published, without the call and the wait for the frame before
    around: Any  # from the stamp until published, again without the call and that wait
    cpu: float
    frames: int


def run() -> dict[str, float | str]:
    """Run table1's smallest detector: 320 px, 100 boxes, 90 classes, 640x480 rgb8, one thread."""
    if not importlib.util.find_spec("rclpy"):
        return {"skipped": "rclpy is missing here: run make bench-ros"}
    os.environ.update(ROS_DOMAIN_ID="99", ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST")
    space = load_space("table1")
    layout = for_task("detection", plan(space, space.min(), num_classes=90, input_hw=(320, 320)))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        bundle = Path(folder) / "bundle"
        write_one_model(bundle, "detection", space, space.min(), layout)
        slow = _run("ours", bundle, rate_hz=10)
        at_30 = _run("ours", bundle, rate_hz=30)
        alone_cpu = _alone(bundle, at_30.frames)
        rate_hz = TOO_FAST * 1e3 / float(np.median(slow.call))
        plain, ours = (_run(which, bundle, rate_hz) for which in ("plain", "ours"))
    call = float(np.median(slow.call))
    return {
        "call_p50_ms": call,
        "own_p50_ms": float(np.median(slow.own)),
        "own_p99_ms": float(np.percentile(slow.own, 99)),
        "own_over_call": float(np.median(slow.own)) / call,
        "camera_to_result_over_call": float(np.median(slow.around)) / call,
        "age_at_start_30hz_p50_ms": float(np.median(at_30.age)),
        "age_at_start_30hz_p99_ms": float(np.percentile(at_30.age, 99)),
        "results_of_30hz": at_30.frames / SECONDS / 30,
        "cores_30hz": at_30.cpu,
        "cores_30hz_over_runtime_alone": at_30.cpu / alone_cpu,
        "too_fast_hz": rate_hz,
        "plain_pipeline_p50_ms": float(np.median(plain.pipeline)),
        "ours_pipeline_p50_ms": float(np.median(ours.pipeline)),
        "ours_over_plain_pipeline_p50": float(np.median(ours.pipeline) / np.median(plain.pipeline)),
        "ours_age_at_start_p50_ms": float(np.median(ours.age)),
        "plain_age_at_start_p50_ms": float(np.median(plain.age)),
    }


def _run(which: str, bundle: Path, rate_hz: float) -> Run:
    """Run a camera, the node and a listener for SECONDS, each in its own process."""
    from vision_msgs.msg import Detection2DArray

    from tests.ros2.real.station import PROFILE, Station, process, until

    out = bundle.with_name(f"{which}-{rate_hz:.0f}.json")
    station = Station()
    try:
        found = station.listen_before(Detection2DArray, "/perception/detections", depth=1000)
        node = process("tests.benchmarks.ros_nodes", which, str(bundle), str(out), **PROFILE)
        camera = ("tests.ros2.real.camera", "/image", str(rate_hz), "1000000", *HW)
        with node, process(*camera, **PROFILE):
            until(lambda: len(found) > WARM_UP, "the first results")
            time.sleep(SECONDS)
        rows = np.array(json.loads(out.read_text()), np.int64)[WARM_UP:]
    finally:
        station.close()
    stamp, arrived, begun, ended, published, cpu = rows.T / 1e6
    # while a frame waited, the worker was busy with the frame before
    free = np.concatenate([[0.0], published[:-1]])
    waited = np.clip(free - arrived, 0, None)
    call = ended - begun
    return Run(
        pipeline=published - stamp,
        age=begun - stamp,
        call=call,
        own=published - arrived - waited - call,
        around=published - stamp - waited - call,
        cpu=(cpu[-1] - cpu[0]) / (published[-1] - published[0]),
        frames=len(rows),
    )


def _alone(bundle: Path, frames: int) -> float:
    """How many cores the runtime alone needs for that number of frames in SECONDS."""
    from ramnas_edge.runtime.perception import Perception

    frame = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    with Perception.open(bundle, tasks=("detection",), engine="onnxruntime-cpu") as perception:
        for _ in range(5):
            perception([frame])
        start = time.process_time()
        for _ in range(100):
            perception([frame])
        return (time.process_time() - start) / 100 * frames / SECONDS
