from __future__ import annotations

import logging
import random
import sys
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramnas_edge.board import readers, sensors
from ramnas_edge.board.telemetry import Sample, Telemetry, conditions, disturbance
from tests.edge.board.emulated_jetson import GPU, THERMAL, build, change

pytestmark = pytest.mark.alone


@pytest.fixture
def board(tmp_path: Path) -> Path:
    return build(tmp_path)


def _write(root: Path, texts: dict[str, object]) -> None:
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")


# -- the kernel's files ----------------------------------------------------------------------------


def test_without_jtop_a_jetson_is_read_from_the_kernels_files(
    board: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Telemetry.open(root=board, interval_s=0.0) as telemetry:
        telemetry.poll()
        sample = telemetry.between(0, time.monotonic())[-1]
        assert telemetry.source == "sysfs"
    assert sample.temperature_c == {"cpu-thermal": 42, "gpu-thermal": 42.5, "tj-thermal": 43}
    assert sample.clock_mhz == {"cpu": 1190.4, "gpu": 306, "emc": 3199}
    assert sample.load_percent == {"gpu": 0}
    assert sample.power_mw == {"VDD_GPU_SOC": 3040, "VDD_CPU_CV": 760, "VIN_SYS_5V0": 3960}
    assert (sample.power_mode, sample.clocks_locked, sample.limits) == ("MAXN", False, ())
    assert sample.memory_used_mib is None  # this folder has no /proc
    (warning,) = caplog.records
    assert warning.levelno == logging.WARNING
    assert "telemetry comes from sysfs, not from jtop" in warning.getMessage()
    assert "sudo" in warning.getMessage()


@pytest.mark.parametrize("name", ["17000000.gpu", "17000000.ga10b", "17000000.gv11b", "gpu-gpc-0"])
def test_the_gpu_is_found_under_each_of_its_names(tmp_path: Path, name: str) -> None:
    devfreq = "sys/class/devfreq"
    _write(
        tmp_path,
        {
            f"{devfreq}/15340000.vic/cur_freq": 115200000,
            f"{devfreq}/gpu-nvd-0/cur_freq": 8000000,
            f"{devfreq}/{name}/cur_freq": 918000000,
        },
    )
    assert sensors.clock_mhz(tmp_path) == {"gpu": 918}


def test_a_missing_or_unreadable_value_is_absent_and_never_zero(board: Path) -> None:
    zone = board / THERMAL / "thermal_zone0/temp"
    zone.unlink()
    zone.mkdir()  # cannot be read, like the zone of a part that is switched off
    (board / "sys/class/hwmon/hwmon3/curr1_input").unlink()
    (board / GPU / "cur_freq").write_text("")
    assert set(sensors.temperature_c(board)) == {"gpu-thermal", "tj-thermal"}
    assert set(sensors.power_mw(board)) == {"VDD_CPU_CV", "VIN_SYS_5V0"}
    assert "gpu" not in sensors.clock_mhz(board)
    empty = board / "empty"
    assert not sensors.temperature_c(empty)
    assert not sensors.power_mw(empty)
    assert sensors.memory_used_mib(empty) is None
    assert sensors.clocks_locked(empty) is None
    assert not sensors.Changes(empty).load_percent()


def test_several_sensors_of_one_name_are_all_kept(tmp_path: Path) -> None:
    for number in range(3):
        zone = f"sys/class/thermal/thermal_zone{number}"
        _write(tmp_path, {f"{zone}/type": "acpitz", f"{zone}/temp": 30000 + 1000 * number})
    assert sensors.temperature_c(tmp_path) == {"acpitz": 30, "acpitz #2": 31, "acpitz #3": 32}


def test_an_x86_board_shows_its_processor_and_memory_but_not_its_drive(tmp_path: Path) -> None:
    _write(
        tmp_path,
        {
            "sys/class/hwmon/hwmon0/name": "nvme",
            "sys/class/hwmon/hwmon0/temp1_input": 61850,
            "sys/class/hwmon/hwmon1/name": "coretemp",
            "sys/class/hwmon/hwmon1/temp1_label": "Package id 0",
            "sys/class/hwmon/hwmon1/temp1_input": 47000,
            "proc/meminfo": "MemTotal: 2048 kB\nMemFree: 1 kB\nMemAvailable: 1024 kB",
        },
    )
    assert sensors.temperature_c(tmp_path) == {"coretemp Package id 0": 47}
    assert sensors.memory_used_mib(tmp_path) == 1


def test_thors_input_power_has_a_sensor_of_its_own(tmp_path: Path) -> None:
    hwmon = "sys/class/hwmon/hwmon4"
    _write(tmp_path, {f"{hwmon}/name": "ina238", f"{hwmon}/power1_input": 35500000})
    assert sensors.power_mw(tmp_path) == {"VIN": 35500}


def test_a_rail_that_is_not_connected_is_left_out(tmp_path: Path) -> None:
    hwmon = "sys/class/hwmon/hwmon4"
    texts: dict[str, object] = {f"{hwmon}/name": "ina3221"}
    for channel, label in ((1, "NC"), (2, "VDD_IN"), (7, "sum of shunt voltages")):
        texts[f"{hwmon}/in{channel}_label"] = label
        texts[f"{hwmon}/in{channel}_input"] = 5000
        if channel != 7:  # which has no current
            texts[f"{hwmon}/curr{channel}_input"] = 1000
    _write(tmp_path, texts)
    assert sensors.power_mw(tmp_path) == {"VDD_IN": 5000}


def test_the_cpu_load_is_measured_since_the_last_look(tmp_path: Path) -> None:
    _write(tmp_path, {"proc/stat": "cpu  100 0 100 700 100 0 0 0 50 0"})
    changes = sensors.Changes(tmp_path)
    assert not changes.load_percent()  # nothing to compare with
    _write(tmp_path, {"proc/stat": "cpu  160 0 120 710 110 0 0 0 90 0"})
    assert changes.load_percent() == {"cpu": pytest.approx(80)}


def test_active_cooling_devices_are_limits_but_fans_are_not(board: Path) -> None:
    changes = sensors.Changes(board)
    assert changes.limits() == ()  # although the fan turns
    change(board, cpu_throttle_state=2)
    assert changes.limits() == ("cpu-throttle-alert",)
    change(board, cpu_throttle_state=0)
    assert changes.limits() == ()


def test_counters_are_limits_only_while_they_rise(tmp_path: Path) -> None:
    core = "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"
    over = "sys/class/hwmon/hwmon2/oc3_event_cnt"
    _write(tmp_path, {core: 41, over: 7})
    changes = sensors.Changes(tmp_path)
    assert changes.limits() == ()  # they rose earlier
    _write(tmp_path, {core: 42, over: 8})
    assert changes.limits() == ("cpu0 core_throttle", "over-current oc3")
    assert changes.limits() == ()
    _write(tmp_path, {core.replace("cpu0", "cpu1"): 9})  # this core was offline before
    assert changes.limits() == ()


def test_clocks_are_locked_if_lowest_equals_highest_on_all_cores_and_the_gpu(
    board: Path,
) -> None:
    assert sensors.clocks_locked(board) is False
    for low in board.glob("sys/devices/system/cpu/cpu*/cpufreq/scaling_min_freq"):
        low.write_text(low.with_name("scaling_max_freq").read_text())
    assert sensors.clocks_locked(board) is False  # the GPU is still free
    (board / GPU / "min_freq").write_text((board / GPU / "max_freq").read_text())
    assert sensors.clocks_locked(board) is True
    (board / GPU / "max_freq").write_text("")
    assert sensors.clocks_locked(board) is None


# -- polling ---------------------------------------------------------------------------------------


def test_a_poll_before_the_interval_has_passed_reads_nothing(board: Path) -> None:
    with Telemetry.open(root=board, interval_s=3600) as telemetry:
        for _ in range(5):
            telemetry.poll()
        assert len(telemetry.between(0, time.monotonic())) == 1


def test_between_gives_the_samples_of_that_time_in_order(board: Path) -> None:
    with Telemetry.open(root=board, interval_s=0.0) as telemetry:
        start_s = time.monotonic()
        change(board, temperature_c=50)
        telemetry.poll()
        end_s = time.monotonic()
        change(board, temperature_c=60)
        telemetry.poll()
        inside = telemetry.between(start_s, end_s)
        assert [s.temperature_c["tj-thermal"] for s in inside] == [50]
        everything = telemetry.between(0, time.monotonic())
        assert everything == sorted(everything, key=lambda s: s.time_s)
    assert telemetry.source == "none"  # closed
    assert telemetry.between(start_s, end_s) == inside


def test_a_folder_without_sensors_gives_no_samples_and_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Telemetry.open(root=tmp_path) as telemetry:
        assert telemetry.source == "none"  # psutil would read this machine instead
        assert telemetry.between(0, time.monotonic()) == []
    assert not caplog.records


def test_what_psutil_may_not_read_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", "/proc/stat")

    for name in ("cpu_percent", "virtual_memory", "cpu_freq", "sensors_temperatures"):
        monkeypatch.setattr(psutil, name, forbidden, raising=False)
    reader = readers.Psutil()
    reader._since_s -= 1.0
    (fields,) = reader.read()
    assert {name: value for name, value in fields.items() if value} == {"time_s": fields["time_s"]}


def test_psutil_reads_this_machine() -> None:
    reader = readers.Psutil()
    (first,) = reader.read()
    assert "cpu" not in first["load_percent"]  # no time has passed
    time.sleep(0.2)
    sample = Sample(**reader.read()[0])
    assert 0 <= sample.load_percent["cpu"] <= 100
    assert sample.memory_used_mib is not None
    assert sample.memory_used_mib > 10
    assert all(mhz > 0 for mhz in sample.clock_mhz.values())


def test_this_machine_has_telemetry() -> None:
    with Telemetry.open(interval_s=0.0) as telemetry:
        found = conditions(telemetry.between(0, time.monotonic()), telemetry.source)
        assert found is not None
        assert found.source == telemetry.source != "none"


@pytest.mark.jetson
@pytest.mark.skipif(not Path("/etc/nv_tegra_release").exists(), reason="needs an NVIDIA Jetson")
def test_a_real_jetson_shows_temperature_power_gpu_and_mode() -> None:
    with Telemetry.open() as telemetry:
        sample = telemetry.between(0, time.monotonic())[-1]
        assert telemetry.source.startswith(("jtop", "sysfs"))
    assert all(0 < celsius < 120 for celsius in sample.temperature_c.values())
    assert sample.temperature_c and sum(sample.power_mw.values()) > 0
    assert sample.clock_mhz["cpu"] > 0 and "gpu" in sample.clock_mhz
    assert sample.power_mode


# -- a monitor process that misbehaves: its output is scripted, process and pipe are real ----------


def _jtop(root: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Make the board at `root` run `program` as its monitor."""
    _write(root, {"run/jtop.sock": "", "monitor/jtop_monitor.py": program})
    python = root / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {root}/monitor/jtop_monitor.py "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(readers.sys, "executable", str(python))
    monkeypatch.setattr(readers.importlib.util, "find_spec", lambda name: True)


_HELLO = 'import time\nprint(\'{"source": "jtop 9.9", "interval_s": 0.1}\', flush=True)\n'
_ONE = (
    'print(\'{"time_s": %r, "temperature_c": {"tj": 71.5}, "limits": ["a"]}\' % time.monotonic(),'
    " flush=True)\n"
)


@pytest.mark.parametrize(
    ("end", "says"),
    [
        ("", "its monitor ended"),
        ('print(\'{"error": "Lost connection"}\', flush=True)\n', "Lost connection"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n", "its monitor ended"),
        ("time.sleep(60)\n", "no answer for"),
    ],
)
def test_a_monitor_that_dies_or_hangs_gives_one_warning_and_loses_no_sample(
    board: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    end: str,
    says: str,
) -> None:
    _jtop(board, monkeypatch, _HELLO + _ONE + "time.sleep(0.3)\n" + _ONE + end)
    monkeypatch.setattr(readers, "_SILENT_S", 0.6)
    with Telemetry.open(root=board, interval_s=0.0) as telemetry:
        assert telemetry.source == "jtop 9.9"
        while telemetry.source != "sysfs":
            telemetry.poll()
            time.sleep(0.02)
        telemetry.poll()
        samples = telemetry.between(0, time.monotonic())
        children = psutil.Process().children()
        alive = [p.cmdline() for p in children if p.status() != psutil.STATUS_ZOMBIE]
    assert not any("jtop_monitor" in part for command in alive for part in command)
    assert [s.temperature_c.get("tj") for s in samples][:3] == [71.5, 71.5, None]
    assert samples[0].limits == ("a",)
    (warning,) = caplog.records
    assert says in warning.getMessage()


def test_a_monitor_that_never_sends_anything_only_delays_the_start(
    board: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _jtop(board, monkeypatch, "import time\ntime.sleep(60)\n")
    monkeypatch.setattr(readers, "_START_S", 0.3)
    with Telemetry.open(root=board) as telemetry:
        assert telemetry.source == "sysfs"
        assert len(telemetry.between(0, time.monotonic())) == 1
    assert len(caplog.records) == 1


def test_samples_that_pile_up_while_nobody_polls_are_not_lost(
    board: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A network may run for longer than the silence that makes a monitor count as hung."""
    many = "for _ in range(2000):\n    " + _ONE + "time.sleep(60)\n"
    # the first sample lets `open` return; the others come while nobody reads
    _jtop(board, monkeypatch, _HELLO + _ONE + "time.sleep(0.5)\n" + many)
    monkeypatch.setattr(readers, "_SILENT_S", 1.5)  # a shared machine may stall for a while
    with Telemetry.open(root=board) as telemetry:
        time.sleep(2.0)
        samples = telemetry.between(0, time.monotonic())
        while len(samples) < 2001 and not caplog.records:  # the pipe holds fewer
            samples = telemetry.between(0, time.monotonic())
        assert len(samples) == 2001
        assert telemetry.source == "jtop 9.9"
    assert not caplog.records


# -- conditions ------------------------------------------------------------------------------------


def test_conditions_are_maxima_of_temperature_medians_of_clocks_and_means() -> None:
    samples = [
        Sample(0.0, {"tj": 50}, {"gpu": 300}, {"gpu": 10}, 1000, {"VDD_IN": 5000}, "MAXN", ("a",)),
        Sample(1.0, {"tj": 60}, {"gpu": 900}, {"gpu": 90}, None, {"VDD_IN": 9000}, None, ("b",)),
        Sample(2.0, {"tj": 55, "cpu": 40}, {"gpu": 900}, {}, 2000, {}, "15W", ("a",)),
    ]
    found = conditions(samples, "sysfs")
    assert found is not None
    assert (found.source, found.samples) == ("sysfs", 3)
    assert found.temperature_c == {"tj": 60, "cpu": 40}
    assert found.clock_mhz == {"gpu": 900}
    assert found.load_percent == {"gpu": 50}
    assert found.memory_used_mib == 1500
    assert found.power_mw == {"VDD_IN": 7000}
    assert (found.power_mode, found.limits) == ("15W", ("a", "b"))


def test_no_samples_give_no_conditions_and_empty_samples_give_empty_ones() -> None:
    assert conditions([], "none") is None
    empty = conditions([Sample(0.0)], "psutil")
    assert empty is not None
    assert (empty.memory_used_mib, empty.power_mode, empty.clocks_locked) == (None, None, None)
    assert empty.temperature_c == empty.power_mw == {}


# -- disturbance -----------------------------------------------------------------------------------


def _run(clocks: list[float], heat: list[float], load: float = 95) -> list[Sample]:
    return [
        Sample(float(t), {"tj": c, "soc": 30}, {"cpu": mhz, "gpu": 900}, {"cpu": load})
        for t, (mhz, c) in enumerate(zip(clocks, heat))
    ]


STEADY = _run([2200] * 6, [60] * 6)


def test_a_lasting_fall_of_the_clock_while_the_board_heats_is_a_throttle() -> None:
    during = _run([2200, 2200, 1500, 1500, 1500], [70, 80, 95, 96, 96])
    reason = disturbance(during, STEADY, "cpu")
    assert reason.startswith("throttled: the cpu clock fell from 2200 to 1500 MHz")
    assert "from 60 to 96 degrees" in reason
    assert disturbance(during, STEADY, "gpu") == ""  # the GPU was not held back


@pytest.mark.parametrize(
    "during",
    [
        _run([2200, 2090, 2090, 2090, 2090], [90] * 5),  # the clock falls by 5 % only
        _run([2200, 1500, 2200, 1500, 2200, 1500], [90] * 6),  # the fall does not last
        _run([1500] * 5, [59] * 5),  # no hotter, so the governor is saving power
        _run([1500] * 5, [61] * 5, load=3),  # idle
        _run([2200] * 5, [99] * 5),  # hot, but as fast as before
    ],
)
def test_other_changes_are_not_called_a_throttle(during: list[Sample]) -> None:
    assert disturbance(during, STEADY, "cpu") == ""


def test_without_a_level_or_a_temperature_nothing_is_claimed() -> None:
    fallen = _run([1500] * 5, [90] * 5)
    assert disturbance(fallen, STEADY[:2], "cpu") == ""
    assert disturbance(fallen, [], "cpu") == ""
    assert disturbance([], STEADY, "cpu") == ""
    assert disturbance([], [], "cpu") == ""
    cold = [Sample(float(t), clock_mhz={"cpu": 1500}) for t in range(5)]
    assert disturbance(cold, STEADY, "cpu") == ""


@given(seed=st.integers(0, 10**6))
def test_the_jitter_of_a_free_running_governor_is_not_a_throttle(seed: int) -> None:
    """The clock jumps between the same steps before and after, while the board warms up."""
    rng = random.Random(seed)
    steps = [729.6, 1190.4, 1497.6, 2201.6]
    before = _run([*steps, *rng.choices(steps, k=8)], [45 + 0.1 * t for t in range(12)])
    during = _run(rng.choices(steps, k=40), [46 + 0.3 * t for t in range(40)])
    assert disturbance(during, before, "cpu") == ""


@given(seed=st.integers(0, 10**6))
def test_a_throttle_below_the_jitter_is_seen(seed: int) -> None:
    rng = random.Random(seed)
    steps = [1190.4, 1497.6, 2201.6]
    before = _run(rng.choices(steps, k=12), [45.0] * 12)
    during = _run([*rng.choices(steps, k=10), *[729.6] * 4], [80.0] * 14)
    assert disturbance(during, before, "cpu").startswith("throttled: the cpu clock fell")


def test_a_new_limit_is_a_throttle_and_a_permanent_one_is_not() -> None:
    permanent = [Sample(0.0, limits=("TCC",))] * 3
    assert disturbance([Sample(1.0, limits=("TCC",))] * 3, permanent, "cpu") == ""
    later = [Sample(1.0, limits=("TCC",)), Sample(2.0, limits=("TCC", "gpu-throttle-alert"))]
    reason = disturbance(later, permanent, "gpu")
    assert reason == "throttled: gpu-throttle-alert became active"
    # without samples before, the limits of `during` itself are the measure
    assert disturbance(later, [], "gpu") == reason


def test_a_change_of_power_mode_or_of_locked_clocks_is_reported() -> None:
    maxn = [Sample(0.0, power_mode="MAXN", clocks_locked=True)]
    changed = [Sample(1.0, power_mode="MAXN"), Sample(2.0, power_mode="MODE_15W")]
    assert disturbance(changed, maxn, "gpu") == "the power mode changed from MAXN to MODE_15W"
    unlocked = [Sample(1.0, clocks_locked=False)]
    assert disturbance(unlocked, maxn, "gpu") == "the clocks were unlocked meanwhile"
    assert disturbance(maxn, unlocked, "gpu") == "the clocks were locked meanwhile"
    assert disturbance([Sample(1.0)], maxn, "gpu") == ""  # unknown does not mean changed
