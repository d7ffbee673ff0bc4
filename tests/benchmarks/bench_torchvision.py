"""Frames to boxes and masks, against torchvision: eager, and exported to ONNX Runtime."""

from __future__ import annotations

import functools
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import onnxruntime as ort

from ramnas_edge.engines import backends
from ramnas_edge.runtime.runtime import Runtime
from ramnas_edge.vision.detection import Limits
from ramnas_models.bundle import open_bundle
from ramnas_models.errors import SpaceError
from ramnas_models.head_plan import FORMS, AnyPlan, lraspp, ssdlite
from ramnas_models.named import find_arch
from ramnas_models.plan import plan
from ramnas_models.space import Arch, load_space
from tests.benchmarks.one_model import objects, write_one_model

PYTHON = Path(__file__).parents[2] / ".venv-torchvision/bin/python"
PEER = Path(__file__).with_name("torchvision_peer.py")
RNG = np.random.default_rng(0)
FRAMES = {
    "detection": RNG.integers(0, 256, (480, 640, 3), np.uint8),
    "segmentation": RNG.integers(0, 256, (512, 1024, 3), np.uint8),
}
CLASSES = {"detection": 90, "segmentation": 19}  # COCO, Cityscapes
DETECTOR_HW = (320, 320)
LIMITS = Limits()
SPACE = load_space("table1")
# from the paper's table; the task sets the resolution anyway, and table1 does not have A4's 256
A4 = msgspec.structs.replace(find_arch(load_space("attentivenas"), "A4"), resolution=288)
ROUNDS = {"detection": (30, 5), "segmentation": (20, 1)}  # (rounds, calls per round)

Timer = Callable[[int], Sequence[float]]  # number of calls -> the seconds of each call


def run(rounds: Mapping[str, tuple[int, int]] = ROUNDS) -> dict[str, float | str]:
    """Time whole calls, uint8 frame in and detections or mask out: random weights, one thread each.

    Every candidate is timed in every round, so that all see the same machine; a ratio is the median
    over the rounds. In our detector 600 anchors see an object, in torchvision's the same ones, and
    both have the same limits; 100 boxes remain on both sides.
    """
    if not PYTHON.exists():
        return {
            "skipped": f"no {PYTHON.parents[1].name}: run make bench-torchvision, which makes it"
        }
    with tempfile.TemporaryDirectory() as name, _peer(Path(name)) as (sizes, eager):
        found: dict[str, float | str] = {k: sizes[k] for k in ("torch", "torchvision")}
        found["onnxruntime"] = ort.__version__
        for task, (count, calls) in rounds.items():
            ours = _detectors(sizes) if task == "detection" else _segmenters()
            found |= _compare(task, Path(name), sizes[task], eager, ours, count, calls)
        if "detection" in rounds:
            found |= _networks(Path(name), *rounds["detection"])
    return found


def _compare(
    task: str, folder: Path, size: Mapping[str, int], eager: Callable[[str, int], list[float]],
    ours: Mapping[str, tuple[Arch, AnyPlan]], count: int, calls: int,
) -> dict[str, float | str]:  # fmt: skip
    frame = FRAMES[task]
    macs = {"eager": size["macs"], "onnxruntime": size["macs"]}
    params = {"eager": size["params"], "onnxruntime": size["params"]}
    timers: dict[str, Timer] = {"eager": functools.partial(eager, task)}
    exported = _exported(folder / f"{task}.onnx")
    timers["onnxruntime"] = functools.partial(_seconds, lambda: exported(_tensor(frame)))
    _check_same(task, exported(_tensor(frame)), np.load(folder / f"{task}.npz"))
    with ExitStack() as stack:
        for name, (arch, layout) in ours.items():
            write_one_model(folder / name, task, SPACE, arch, layout)
            runtime = stack.enter_context(
                Runtime.open(folder / name, engine="onnxruntime-cpu", limits=LIMITS)
            )
            assert task != "detection" or len(runtime(frame).boxes) == LIMITS.count
            timers[name] = functools.partial(_seconds, functools.partial(runtime, frame))
            macs[name], params[name] = layout.macs, layout.params
        seconds = _in_rounds(timers, count, calls)
    found: dict[str, float | str] = {}
    for name, by_round in seconds.items():
        key = f"{task}.{name}"
        found[f"{key}.macs_m"], found[f"{key}.params_m"] = macs[name] / 1e6, params[name] / 1e6
        p50, p90 = np.percentile(by_round, (50, 90)).tolist()
        found[f"{key}.p50_ms"], found[f"{key}.p90_ms"] = 1e3 * p50, 1e3 * p90
        found[f"{key}.frames_per_s"] = 1 / p50
        for peer in ("eager", "onnxruntime") if name in ours else ():
            found[f"{key}.times_{peer}"] = _times(seconds[peer], by_round)
    return found


def _networks(folder: Path, count: int, calls: int) -> dict[str, float]:
    """Time only the network of both detectors, without the steps before and after it."""
    image = RNG.random((1, 3, *DETECTOR_HW), np.float32)
    network = _exported(folder / "network.onnx")
    bundle = open_bundle(folder / "ours")
    (model,) = bundle.front("detection").models
    session = backends.load("onnxruntime-cpu").open(bundle.read_model(model), backends.Options())
    feeds = {"image": RNG.integers(0, 256, (1, *DETECTOR_HW, 3), np.uint8)}
    timers: dict[str, Timer] = {
        "onnxruntime": functools.partial(_seconds, lambda: network(image)),
        "ours": functools.partial(_seconds, lambda: session.infer(feeds)),
    }
    seconds = _in_rounds(timers, count, calls)
    session.close()
    p50_ms = {name: 1e3 * float(np.median(by_round)) for name, by_round in seconds.items()}
    found = {f"detection.network.{name}_p50_ms": ms for name, ms in p50_ms.items()}
    found["detection.network.times_onnxruntime"] = _times(seconds["onnxruntime"], seconds["ours"])
    return found


def _detectors(sizes: Mapping[str, Any]) -> dict[str, tuple[Arch, AnyPlan]]:
    classes = CLASSES["detection"]

    def detector(arch: Arch) -> AnyPlan:
        return ssdlite(plan(SPACE, arch, input_hw=DETECTOR_HW), classes)

    arch = least(sizes["detection"]["macs"], lambda arch: detector(arch).macs)
    return {"ours": (arch, detector(arch)), "ours_a4": (A4, detector(A4))}


def least(macs: int, cost: Callable[[Arch], int]) -> Arch:
    """The cheapest arch that costs at least `macs`.

    Taken from the smallest arch of `SPACE` and all archs that differ from it in one slot.
    """
    low, high = SPACE.encode(SPACE.min()), SPACE.encode(SPACE.max())
    archs = [SPACE.min()]
    for slot in range(len(low)):
        for value in range(low[slot] + 1, high[slot] + 1):
            row = low.copy()
            row[slot] = value
            try:
                archs.append(SPACE.decode(row))
            except SpaceError:  # the value is not a choice of that slot
                continue
    return min((arch for arch in archs if cost(arch) >= macs), key=cost)


def _segmenters() -> dict[str, tuple[Arch, AnyPlan]]:
    """Both forms of the head at both strides; torchvision's form is two_input at stride 16."""

    def segmenter(arch: Arch, form: str, stride: int) -> tuple[Arch, AnyPlan]:
        hw, classes = FRAMES["segmentation"].shape[:2], CLASSES["segmentation"]
        return arch, lraspp(plan(SPACE, arch, input_hw=hw), classes, form, stride)

    found = {
        f"{form}_{stride}": segmenter(SPACE.min(), form, stride)
        for form in FORMS[::-1]
        for stride in (16, 32)
    }
    return {**found, "three_input_32_a4": segmenter(A4, "three_input", 32)}


# -- the peer ------------------------------------------------------------------------------------


@contextmanager
def _peer(folder: Path) -> Iterator[tuple[dict[str, Any], Callable[[str, int], list[float]]]]:
    """Run torchvision in its own process.

    Yields the sizes of its models and a function that returns the seconds of n eager calls.
    """
    classes = CLASSES["detection"]
    layout = ssdlite(plan(SPACE, SPACE.min(), input_hw=DETECTOR_HW), classes)
    np.savez(
        folder / "given.npz", **FRAMES, classes=CLASSES["segmentation"],
        objects=objects(layout.anchors.count, classes),  # torchvision has as many anchors
        limits=[LIMITS.score, LIMITS.iou, LIMITS.count],
    )  # fmt: skip
    with subprocess.Popen(
        [str(PYTHON), str(PEER), str(folder)], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:  # fmt: skip
        assert process.stdin and process.stdout

        def answer() -> Any:
            line = process.stdout.readline()
            assert line, f"{PEER.name} ended; its error is above"
            return json.loads(line)

        def eager(task: str, calls: int) -> list[float]:
            print(task, calls, file=process.stdin, flush=True)
            return answer()

        try:
            yield answer(), eager
        finally:
            process.kill()


def _exported(path: Path) -> Callable[[Any], list[Any]]:
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    session = ort.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"image": image})


def _tensor(frame: Any) -> Any:
    """The input of torchvision's graphs, made in OpenCV's fastest way."""
    return cv2.dnn.blobFromImage(frame, 1 / 255, swapRB=True)[0]


def _check_same(task: str, exported: Sequence[Any], eager: Mapping[str, Any]) -> None:
    """Check that the exported graph finds what the model finds; else its time means nothing."""
    if task == "segmentation":
        assert (
            exported[0] == eager["arr_0"]
        ).mean() > 0.99  # with random weights some logits are nearly equal
        return
    for ours, theirs in zip(exported, eager.values(), strict=True):
        assert len(ours) == LIMITS.count
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-2)


# -- time ----------------------------------------------------------------------------------------


def _in_rounds(
    timers: Mapping[str, Timer], rounds: int, calls: int
) -> dict[str, list[Sequence[float]]]:
    """The seconds of every round, by timer; one round before them warms up and does not count."""
    seconds: dict[str, list[Sequence[float]]] = {name: [] for name in timers}
    for _ in range(1 + rounds):
        for name, timer in timers.items():
            seconds[name].append(timer(calls))
    return {name: by_round[1:] for name, by_round in seconds.items()}


def _times(peer: Sequence[Sequence[float]], ours: Sequence[Sequence[float]]) -> float:
    """Our frame rate over the peer's: the median of the ratios of the rounds."""
    pairs = zip(peer, ours, strict=True)
    return statistics.median(statistics.median(a) / statistics.median(b) for a, b in pairs)


def _seconds(call: Callable[[], object], calls: int) -> list[float]:
    found = []
    for _ in range(calls):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return found
