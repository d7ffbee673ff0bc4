"""Faults on a robot: the node reports them on /diagnostics and keeps running."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray

from ramnas_edge.board.device import this_device
from ramnas_edge.engines import backends
from tests.models.bundles import figure, heads, written
from tests.ros2.real.camera import frame
from tests.ros2.real.station import Station, image, perception, process, stamp_s, until, values_of

HW = (120, 160)
CPU = "onnxruntime-cpu"


def broken_images() -> list[tuple[Image, str]]:
    """Broken images, and the reason why each is refused."""
    good = frame(0, *HW)
    short = image(good, 1.0)
    short.data = good.tobytes()[:100]
    empty = Image(encoding="bgr8")
    narrow = image(good, 1.0)
    narrow.step = 3
    odd = image(good[:, :-1, :2], 1.0, "yuv422")
    return [
        (image(good, 1.0, "32FC1"), "image encoding '32FC1' is not one of"),
        (image(good, 1.0, ""), "image encoding '' is not one of"),
        (short, "does not fit its 100 bytes"),
        (empty, "image of 0x0 bgr8"),
        (narrow, "with step 3 does not fit"),
        (odd, "width must be even"),
    ]


def works_on_a_frame(status: DiagnosticStatus) -> bool:
    """Whether more frames came in than were processed or replaced by newer ones."""
    values = values_of(status)
    done = int(values["frames dropped"]) + int(values["frames processed"])
    return int(values["frames in"]) > done


def test_broken_images_are_reported_and_the_next_good_one_gets_a_result(
    station: Station, bundle: Path
) -> None:
    with perception(bundle=bundle, engine=CPU, autostart=True):
        found = station.listen(Detection2DArray, "/perception/detections")
        camera = station.camera("/image")
        station.answer(camera, image(frame(0, *HW), 1.0), found)
        for number, (message, reason) in enumerate(broken_images()):
            camera.publish(message)
            level, _, values = station.status(lambda s, reason=reason: reason in s.message, reason)
            assert level == 1
            assert int(values["frames refused"]) == number + 1
        station.answer(camera, image(frame(1, *HW), 2.0), found)
        assert {stamp_s(message) for message in found} == {1.0, 2.0}
        station.destroy(camera)


def test_a_failed_engine_is_an_error_until_the_next_one_takes_over(
    station: Station, bundle: Path
) -> None:
    with perception(module="tests.ros2.real.flaky_engine", bundle=bundle, autostart=True):
        found = station.listen(Detection2DArray, "/perception/detections")
        camera = station.camera("/image")
        _, _, values = station.status(lambda s: "active" in s.values[0].value, "the active state")
        assert values["engine"] == "onnxruntime-flaky"
        assert values["providers"] == "FlakyExecutionProvider"
        for number in range(3):
            station.answer(camera, image(frame(number, *HW), 1.0 + number), found)
        seen = len(station.statuses())
        station.answer(camera, image(frame(3, *HW), 9.0), found)  # sent again after the failure
        _, message, values = station.status(lambda s: s.level == b"\x01", "the next engine")
        assert "engine onnxruntime-flaky failed and onnxruntime-cpu took over" in message
        assert "device lost" in message
        assert values["engine"] == CPU
        errors = [s.message for s in station.statuses()[seen:] if s.level == b"\x02"]
        assert errors and "device lost" in errors[0]
        station.destroy(camera)


def test_during_a_long_frame_services_answer_and_newer_images_replace_each_other(
    station: Station, bundle: Path, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    environment = {"HOLD_UNTIL": str(go), "FRAMES_UNTIL_LOSS": "1000"}
    with perception(
        module="tests.ros2.real.flaky_engine", environment=environment, bundle=bundle,
        input_qos="reliable", autostart=True,
    ):  # fmt: skip
        found = station.listen(Detection2DArray, "/perception/detections")
        camera = station.camera("/image")
        station.answer(camera, image(frame(0, *HW), 1.0), found)
        station.status(lambda s: not works_on_a_frame(s), "the end of the first frame")
        camera.publish(image(np.ones((*HW, 3), np.uint8), 2.0))  # dark: the engine is held on it
        _, _, values = station.status(works_on_a_frame, "a frame in progress")
        assert station.state() == "active"
        assert station.set(max_detections=7) == ""
        assert "is not a number" in station.set(latency_budget_ms="slow")
        for number in (1, 2, 3):
            camera.publish(image(frame(0, *HW), 2.0 + number))
            expected = int(values["frames in"]) + number
            station.status(
                lambda s, expected=expected: int(values_of(s)["frames in"]) == expected,
                "the arrival of the image",
            )
        assert {stamp_s(message) for message in found} == {1.0}
        go.touch()
        until(lambda: stamp_s(found[-1]) == 5.0, "the result of the newest image")
        assert {stamp_s(message) for message in found} == {1.0, 2.0, 5.0}
        station.destroy(camera)


def test_a_restarted_node_finds_the_camera_that_is_still_running(
    station: Station, bundle: Path
) -> None:
    found = station.listen_before(Detection2DArray, "/perception/detections")
    with process("tests.ros2.real.camera", "/image", "20", "100000", *map(str, HW)):
        with perception(bundle=bundle, engine=CPU, autostart=True) as child:
            until(lambda: len(found) > 5, "results")
            child.kill()
            child.wait()
        before = len(found)
        last = stamp_s(found[-1])
        with perception(bundle=bundle, engine=CPU, autostart=True):
            until(lambda: len(found) > before + 5, "results of the second node")
    assert all(stamp_s(message) > last for message in found[before:])


def test_nodes_in_different_namespaces_do_not_share_images_or_parameters(
    station: Station, bundle: Path
) -> None:
    options = {"bundle": bundle, "engine": CPU, "score_threshold": 0.26, "autostart": True}
    with perception(namespace="one", **options), perception(namespace="two", **options):
        found, cameras = {}, {}
        for name in ("one", "two"):
            found[name] = station.listen(Detection2DArray, f"/{name}/perception/detections")
            cameras[name] = station.camera(f"/{name}/image")
        for number, name in enumerate(("one", "two", "one")):
            station.answer(cameras[name], image(frame(number, *HW), 1.0 + number), found[name])
        assert {stamp_s(message) for message in found["one"]} == {1.0, 3.0}
        assert {stamp_s(message) for message in found["two"]} == {2.0}
        assert station.set("/one/perception", max_detections=1) == ""
        for name, expected in (("one", 1), ("two", 4)):
            answer = station.answer(cameras[name], image(frame(0, *HW), 9.0), found[name])
            assert len(answer.detections) >= expected
            assert name == "two" or len(answer.detections) == 1
            station.destroy(cameras[name])


def test_gaps_in_the_stamps_are_a_warning_that_names_the_transport_profile(
    station: Station, bundle: Path
) -> None:
    # reliable, and one image at a time: the transport itself loses nothing
    with perception(bundle=bundle, engine=CPU, input_qos="reliable", autostart=True):
        camera = station.camera("/image")
        found = station.listen(Detection2DArray, "/perception/detections")
        one = frame(0, *HW)
        station.answer(camera, image(one, 1.0), found)
        arrives = np.random.default_rng(0).random(200) > 0.3
        arrives[:30] = arrives[-1] = True
        for number in np.flatnonzero(arrives):
            shown = image(one, 10.0 + number / 30)
            camera.publish(shown)
            until(lambda shown=shown: found[-1].header.stamp == shown.header.stamp, "the result")
        _, message, values = station.status(lambda s: "lost before" in s.message, "the loss")
        assert "fastdds_image.xml" in message
        assert int(values["frames lost before"]) == (~arrives).sum()
        station.destroy(camera)


def test_a_new_budget_switches_the_model_while_frames_keep_coming_in_order(
    station: Station, tmp_path: Path
) -> None:
    device = this_device().class_key(CPU, backends.load(CPU).version)
    front, files = heads("detection")
    models = tuple(
        # 480x640 is assumed until the first image, which has another size, has come
        msgspec.structs.replace(
            model, latency=figure(device, ms, (480, 640)) + figure(device, ms, HW)
        )
        for model, ms in zip(front.models, (10.0, 20.0), strict=True)
    )
    bundle = tmp_path / "bundle"
    written(bundle, (msgspec.structs.replace(front, models=models), files))
    fast, accurate = (model.arch_id for model in models)
    found = station.listen_before(Detection2DArray, "/perception/detections")
    with perception(bundle=bundle, engine=CPU, latency_budget_ms=15, autostart=True):
        with process("tests.ros2.real.camera", "/image", "20", "100000", *map(str, HW)):
            until(lambda: len(found) > 5, "results")
            for budget, arch in ((25.0, accurate), (12, fast), (0.0, accurate), (15.5, fast)):
                assert station.set(latency_budget_ms=budget) == ""
                station.status(
                    lambda s, arch=arch: (
                        {"detection arch": arch}.items()
                        <= {v.key: v.value for v in s.values}.items()
                    ),
                    f"the switch to {arch} for {budget} ms",
                )
                now = len(found)
                until(lambda now=now: len(found) > now + 5, "results of that model")
            assert "misses by" in station.set(latency_budget_ms=5.0)
        _, _, values = station.status(lambda s: values_of(s).get("switches") == "4", "4 switches")
    numbers = [int(message.header.frame_id) for message in found]
    assert numbers == sorted(set(numbers))
    assert int(values["failures"]) == 0
    assert values["figures"].startswith("from the bundle, measured on this device class")
    accounted = int(values["frames processed"]) + int(values["frames dropped"])
    assert int(values["frames in"]) - accounted in (0, 1)
