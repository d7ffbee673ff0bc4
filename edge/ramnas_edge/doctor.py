"""`ramnas-edge doctor`: what this machine is, what works on it, and how to mend what does not."""

from __future__ import annotations

import importlib.util
import platform
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Callable, Iterable, List, Tuple

import msgspec

from ramnas_edge import backends, sensors
from ramnas_edge.device import Device, this_device

# Distributions that hold the same module: of two, the one installed last overwrites the other.
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
_TRY = """
import sys
from ramnas_edge import backends
from ramnas_models.errors import BackendError
try:
    print(backends.probe(sys.argv[1]).version)
except BackendError as error:
    print(error)
    sys.exit(3)
"""


class Engine(msgspec.Struct, frozen=True):
    """An engine, whether it ran a small network here, and its version or what went wrong."""

    name: str
    works: bool
    says: str


class Sensor(msgspec.Struct, frozen=True):
    """A source of telemetry and what it answers, such as `acpitz 41.0 C`; empty: nothing."""

    name: str
    says: str


class Report(msgspec.Struct, frozen=True):
    """`problems` in plain words, each with the way out."""

    device: Device
    python: str
    packages: Tuple[Tuple[str, str], ...]
    engines: Tuple[Engine, ...]
    sensors: Tuple[Sensor, ...]
    problems: Tuple[str, ...]


def examine(
    *, root: Path = Path("/"), on_step: Callable[[str], None] = lambda step: None
) -> Report:
    """Look at everything; each engine in a process of its own, so that it may crash."""
    device = this_device(root)
    engines = []
    for name in backends.ENGINES:
        on_step(f"trying {name}")
        engines.append(try_engine(name))
    found = tuple(_sensors(root))
    packages = tuple(_packages())
    problems = [*_twice(name for name, _ in packages), *_problems(device, engines, found)]
    return Report(
        device, platform.python_version(), packages, tuple(engines), found, tuple(problems)
    )


def try_engine(name: str, code: str = _TRY) -> Engine:
    """Run a small network on the engine in a subprocess; a crash of a vendor library is a finding.

    `code` is the program of that process; it exits with 3 after printing why it could not.
    """
    try:
        ran = subprocess.run(
            [sys.executable, "-c", code, name],
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Engine(name, False, "did not answer within 300 s")
    lines = ran.stdout.strip().splitlines()
    if ran.returncode < 0:
        return Engine(name, False, f"crashed its process ({signal.Signals(-ran.returncode).name})")
    if ran.returncode == 0 and lines:
        return Engine(name, True, lines[-1])
    if ran.returncode == 3:
        return Engine(name, False, " ".join(lines).replace(f"engine {name}: ", "", 1))
    last = ran.stderr.strip().splitlines() or [f"exit code {ran.returncode}"]
    return Engine(name, False, last[-1])


def text(report: Report) -> str:
    """The report for people."""
    device = report.device
    lines = [
        f"machine   {device.module}, {device.cores} cores, {device.memory_gib} GiB, "
        f"{device.system}, Python {report.python}",
        f"packages  {', '.join(f'{name} {version}' for name, version in report.packages)}",
    ]
    for engine in report.engines:
        lines.append(f"engine    {engine.name}: {'works, ' if engine.works else ''}{engine.says}")
    for sensor in report.sensors:
        lines.append(f"sensor    {sensor.name}: {sensor.says or 'no answer'}")
    lines += [f"problem   {problem}" for problem in report.problems] or ["no problem found"]
    return "\n".join(lines)


def _packages() -> List[Tuple[str, str]]:
    """(distribution, version) of those that matter here and are installed."""
    found = []
    for name in (*_PACKAGES, *(n for names in _SAME_MODULE.values() for n in names)):
        try:
            found.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            continue
    return found


def _twice(installed: Iterable[str]) -> List[str]:
    """Two distributions of one module, or two copies of it on the path (pip's beside apt's)."""
    known, found = set(installed), []
    for module, names in _SAME_MODULE.items():
        both = [name for name in names if name in known]
        if len(both) > 1:
            found.append(
                f"{' and '.join(both)} are installed together and overwrite each other's files: "
                f"pip uninstall {' '.join(both)}, then install the one that you want"
            )
        folders = {str(Path(p).resolve()) for p in sys.path if p and (Path(p) / module).is_dir()}
        if len(folders) > 1:
            found.append(
                f"{module} is in {' and in '.join(sorted(folders))}; Python takes the first on its "
                "path: remove one, or leave --system-site-packages out"
            )
    return found


def _problems(device: Device, engines: List[Engine], found: Tuple[Sensor, ...]) -> Iterable[str]:
    jetson = device.system.startswith("L4T")
    working = {engine.name for engine in engines if engine.works}
    if not working:
        yield (
            "no engine works: on a Jetson install onnxruntime-gpu from JetPack's own index, "
            "elsewhere pip install 'ramnas[cpu]'"
        )
    elif jetson and working == {"onnxruntime-cpu"}:
        yield (
            "this Jetson runs on its CPU only: PyPI's onnxruntime has no CUDA for it; "
            "pip uninstall onnxruntime and install onnxruntime-gpu from JetPack's own index"
        )
    if jetson and not any(s.name == "jtop" and s.says for s in found):
        yield "no jtop: sudo pip3 install jetson-stats, then restart the board"
    if not any(sensor.says for sensor in found):
        yield "no sensor answers: a throttled measurement cannot be told from a slow network"


def _sensors(root: Path) -> Iterable[Sensor]:
    """jtop's service, and what the kernel's files say now."""
    if importlib.util.find_spec("jtop"):  # not imported: it changes how processes start
        there = (root / "run/jtop.sock").exists()
        yield Sensor("jtop", "service is running" if there else "")
    for name, look, unit in (
        ("temperatures", sensors.temperature_c, "C"),
        ("clocks", sensors.clock_mhz, "MHz"),
        ("power rails", sensors.power_mw, "mW"),
    ):
        found = look(root).items()
        yield Sensor(name, ", ".join(f"{key} {value:.1f} {unit}" for key, value in found))
    limits = sensors.Changes(root).limits()
    if limits:
        yield Sensor("clocks held back by", ", ".join(limits))
