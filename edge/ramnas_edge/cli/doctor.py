"""`ramnas-edge doctor`: what this machine is, what works on it, and how to repair what does not."""

from __future__ import annotations

import argparse
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Callable, Iterable, List, Optional, Tuple

import msgspec

from ramnas_edge.board.answering import Sensor, answers
from ramnas_edge.board.cores import Quota, Throttling
from ramnas_edge.board.device import Device, this_device
from ramnas_edge.cli.terminal import Verbs, add_verb
from ramnas_edge.engines import backends
from ramnas_edge.engines.trial import Trial, try_engine
from ramnas_edge.measuring.board_lock import holder
from ramnas_models.errors import BackendError

# Distributions with the same module: if two are installed, the later one has overwritten the other.
_SAME_MODULE = {
    "onnxruntime": (
        "onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml",
        "onnxruntime-training", "onnxruntime-silicon",
    ),
    "cv2": (
        "opencv-python", "opencv-python-headless", "opencv-contrib-python",
        "opencv-contrib-python-headless",
    ),
}  # fmt: skip
_PACKAGES = ("numpy", "onnx", "pyzmq", "msgspec", "psutil", "jetson-stats", "pycuda", "tensorrt")


class DoctorReport(msgspec.Struct, frozen=True):
    """What was found out about this machine; each of `problems` is one sentence with its cure."""

    device: Device
    python: str
    packages: Tuple[Tuple[str, str], ...]
    engines: Tuple[Trial, ...]
    sensors: Tuple[Sensor, ...]
    problems: Tuple[str, ...]
    throttling: Optional[Throttling] = None  # by the CPU quota, so far
    measuring: Optional[str] = None  # the process that measures on this board now


def add(verbs: Verbs) -> None:
    """Add this verb to the command line."""
    doctor = add_verb(
        verbs, "doctor",
        help="find out which engines and sensors work here, and how to repair the others",
        purpose="Shows what this machine is, tries every inference engine and sensor on it, and "
        "says how to repair what does not work.",
        example="ramnas-edge doctor",
    )  # fmt: skip
    doctor.add_argument("--json", action="store_true", help="print the report as JSON")
    doctor.set_defaults(call=_doctor)


def _doctor(args: argparse.Namespace) -> None:
    report = examine(on_step=lambda step: print(step, file=sys.stderr))
    print(msgspec.json.encode(report).decode() if args.json else text(report))
    if not any(engine.works for engine in report.engines):
        raise BackendError("no engine works on this machine; the report says what to do")


def examine(
    *, root: Path = Path("/"), on_step: Callable[[str], None] = lambda step: None
) -> DoctorReport:
    """Examine the machine whose files are below `root`; `on_step` is told what comes next.

    Each engine is tried in a process of its own, because it may crash.
    """
    device, measuring = this_device(root), holder()
    engines = []
    for name in backends.ENGINES:
        on_step(f"trying {name}")
        engines.append(try_engine(name))
    sensors = tuple(answers(root))
    packages = tuple(_packages())
    problems = [*_duplicates(name for name, _ in packages), *_problems(device, engines, sensors)]
    return DoctorReport(
        device, platform.python_version(), packages, tuple(engines), sensors, tuple(problems),
        throttling=Quota(root).throttling(), measuring=measuring,
    )  # fmt: skip


def text(report: DoctorReport) -> str:
    """The report as lines for people to read."""
    device = report.device
    lines = [
        f"machine   {device.module}, {device.cores} cores, {device.memory_gib} GiB, "
        f"{device.system}, Python {report.python}",
        f"packages  {', '.join(f'{name} {version}' for name, version in report.packages)}",
    ]
    if device.cpu_quota is not None:
        share = f"{device.cpu_quota:.3g} of {device.cores} cores"
        found = report.throttling or Throttling(0, 0)
        lines.append(
            f"CPU quota {share}; it stopped this group in {found.throttled} of {found.periods} "
            "periods so far"
        )
    if report.measuring:
        lines.append(f"measuring {report.measuring}, and other processes wait until it is done")
    for engine in report.engines:
        lines.append(f"engine    {engine.name}: {'works, ' if engine.works else ''}{engine.says}")
    for sensor in report.sensors:
        lines.append(f"sensor    {sensor.name}: {sensor.says or 'no answer'}")
    lines += [f"problem   {problem}" for problem in report.problems] or ["no problem found"]
    return "\n".join(lines)


def _packages() -> List[Tuple[str, str]]:
    """(distribution, version) of every package that matters here and is installed."""
    found = []
    for name in (*_PACKAGES, *(n for names in _SAME_MODULE.values() for n in names)):
        try:
            found.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            continue
    return found


def _duplicates(installed: Iterable[str]) -> List[str]:
    """Problems with modules that are there twice.

    Two of the `installed` distributions may hold the same module, or two copies of it may lie on
    the path, such as pip's and apt's.
    """
    known, found = set(installed), []
    for module, names in _SAME_MODULE.items():
        clashing = [name for name in names if name in known]
        if len(clashing) > 1:
            found.append(
                f"{' and '.join(clashing)} are installed together and overwrite each other's "
                f"files: pip uninstall {' '.join(clashing)}, then install the one that you want"
            )
        folders = {str(Path(p).resolve()) for p in sys.path if p and (Path(p) / module).is_dir()}
        if len(folders) > 1:
            found.append(
                f"{module} is in {' and in '.join(sorted(folders))}, and Python takes the first on "
                "its path: remove one of them, or make the virtual environment without "
                "--system-site-packages"
            )
    return found


def _problems(device: Device, engines: List[Trial], sensors: Tuple[Sensor, ...]) -> Iterable[str]:
    if device.is_throttled:
        yield (
            f"the CPU quota of {device.cpu_quota:.3g} cores is less than the {device.cores} cores "
            "here: the kernel stops this container for the rest of a period when its share is used "
            "up, so a p90 is several times the median. What is measured here holds for this quota "
            "only (the device class says it). Raise the quota (docker --cpus, limits.cpu, "
            "CPUQuota=), or give whole cores instead (docker --cpuset-cpus)"
        )
    jetson = device.system.startswith("L4T")
    working = {engine.name for engine in engines if engine.works}
    if not working:
        yield (
            "no engine works: on a Jetson install onnxruntime-gpu from JetPack's own index; "
            "elsewhere pip install 'ramnas[cpu]'"
        )
    elif jetson and working == {"onnxruntime-cpu"}:
        yield (
            "this Jetson runs on its CPU only, because PyPI's onnxruntime has no CUDA for it: pip "
            "uninstall onnxruntime, and install onnxruntime-gpu from JetPack's own index"
        )
    if jetson and not any(s.name == "jtop" and s.says for s in sensors):
        yield "jtop is not running: sudo pip3 install jetson-stats, then restart the board"
    if not any(sensor.says for sensor in sensors):
        yield "no sensor answers, so a throttled board cannot be told from a slow network"
