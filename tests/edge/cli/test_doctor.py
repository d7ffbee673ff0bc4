"""`ramnas-edge doctor`: its report of this machine, and the problems that it finds on others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import onnxruntime as ort
import pytest

from ramnas_edge.__main__ import main
from ramnas_edge.cli import doctor
from ramnas_edge.engines import backends, trial
from ramnas_edge.engines.trial import Trial


@pytest.fixture
def cpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only onnxruntime-cpu works, and no process is needed to find that out."""
    monkeypatch.setattr(
        doctor, "try_engine", lambda name: Trial(name, name == "onnxruntime-cpu", "1.0")
    )


def test_the_verb_reports_this_machine_as_json_and_in_words() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "ramnas_edge", "doctor", "--json"], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    report = msgspec.json.decode(ran.stdout, type=doctor.DoctorReport)
    assert {engine.name for engine in report.engines} == set(backends.ENGINES)
    working = dict(backends.available())
    for engine in report.engines:
        assert engine.says
        assert engine.works == (engine.name in working)
    assert dict(report.packages)["numpy"]
    assert f"onnxruntime-cpu: works, {ort.__version__}" in doctor.text(report)


def test_a_machine_without_a_working_engine_is_an_error_after_the_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "try_engine", lambda name: Trial(name, False, "not installed"))
    assert main(["doctor"]) == 2
    out, err = capsys.readouterr()
    assert "engine    tensorrt: not installed\n" in out
    assert "problem   no engine works: on a Jetson install onnxruntime-gpu" in out
    assert err.endswith("error: no engine works on this machine; the report says what to do\n")


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import os; os.abort()", "crashed its process (SIGABRT)"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "(SIGSEGV)"),
        ("raise ImportError('libnvinfer.so.8: not found')", "libnvinfer.so.8: not found"),
        ("import sys; sys.exit(7)", "exit code 7"),
    ],
)
def test_an_engine_that_crashes_is_reported_and_ends_only_its_process(code: str, says: str) -> None:
    engine = trial.try_engine("onnxruntime-cpu", code)
    assert not engine.works
    assert says in engine.says


def test_two_distributions_of_one_module_are_a_problem() -> None:
    (problem,) = doctor._duplicates(["numpy", "onnxruntime", "onnxruntime-gpu"])[:1]
    assert "onnxruntime and onnxruntime-gpu are installed together" in problem
    assert "pip uninstall onnxruntime onnxruntime-gpu" in problem
    assert not any("together" in p for p in doctor._duplicates(["opencv-python", "onnxruntime"]))


def test_two_copies_of_a_module_on_the_path_are_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pip", "apt"):
        (tmp_path / name / "cv2").mkdir(parents=True)
        monkeypatch.syspath_prepend(str(tmp_path / name))
    found = [p for p in doctor._duplicates([]) if p.startswith("cv2 is in")]
    assert len(found) == 1
    assert str(tmp_path / "apt") in found[0]


@pytest.mark.usefixtures("cpu_only")
def test_sensors_of_a_jetson_are_read_and_its_problems_named(tmp_path: Path) -> None:
    """A Jetson's files below another root: release, thermal zone, cooling device, INA3221 rail."""
    for path, content in {
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.0, GCID: 1, BOARD: generic",
        "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "sys/class/thermal/thermal_zone0/temp": "41500\n",
        "sys/class/thermal/thermal_zone1/temp": "\n",
        "sys/class/thermal/cooling_device0/type": "gpu-throttle-alert\n",
        "sys/class/thermal/cooling_device0/cur_state": "1\n",
        "sys/class/hwmon/hwmon3/name": "ina3221\n",
        "sys/class/hwmon/hwmon3/in1_label": "VDD_GPU_SOC\n",
        "sys/class/hwmon/hwmon3/in1_input": "5000\n",
        "sys/class/hwmon/hwmon3/curr1_input": "1200\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    report = doctor.examine(root=tmp_path)
    said = {sensor.name: sensor.says for sensor in report.sensors}
    assert said["temperatures"] == "cpu-thermal 41.5 C"
    assert said["power rails"] == "VDD_GPU_SOC 6000.0 mW"
    assert said["clocks held back by"] == "gpu-throttle-alert"
    assert said["clocks"] == ""
    assert report.device.system == "L4T 36.4"
    assert any("this Jetson runs on its CPU only" in problem for problem in report.problems)
    assert any("jtop is not running" in problem for problem in report.problems)
    assert "problem   this Jetson" in doctor.text(report)


@pytest.mark.usefixtures("cpu_only")
def test_without_any_sensor_it_says_what_cannot_be_seen(tmp_path: Path) -> None:
    report = doctor.examine(root=tmp_path)
    assert any("no sensor answers" in problem for problem in report.problems)


def test_a_cpu_quota_and_who_measures_now_are_reported(
    cpu_only: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        "proc/self/cgroup": "0::/\n",
        "proc/self/mountinfo": "31 24 0:27 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n",
        "sys/fs/cgroup/cpu.max": "50000 100000\n",
        "sys/fs/cgroup/cpu.stat": "nr_periods 40\nnr_throttled 12\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(doctor, "holder", lambda: "process 1234 (ramnas-edge agent)")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    report = doctor.examine(root=tmp_path)
    said = doctor.text(report)
    assert (
        "CPU quota 0.5 of 2 cores; it stopped this group in 12 of 40 periods so far\n"
        "measuring process 1234 (ramnas-edge agent), and other processes wait until it is done\n"
    ) in said
    assert "problem   the CPU quota of 0.5 cores is less than the 2 cores here" in said
    assert msgspec.json.decode(msgspec.json.encode(report), type=doctor.DoctorReport) == report


def test_a_machine_without_a_quota_says_nothing_of_it(cpu_only: None, tmp_path: Path) -> None:
    assert "quota" not in doctor.text(doctor.examine(root=tmp_path))
