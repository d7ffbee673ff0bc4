"""Images sent through the node, compared with the results of the runtime called directly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Float32
from vision_msgs.msg import Detection2DArray

from ramnas_edge.runtime.perception import Perception
from ramnas_edge.vision.annotate import annotated
from ramnas_edge.vision.detection import Limits
from ramnas_edge.vision.results import Detections, Mask
from ramnas_ros.convert import ENCODINGS, to_bgr
from ramnas_ros.messages import coloured
from tests.ros2.real.camera import frame
from tests.ros2.real.station import Station, image, perception, process, until, values_of

TASKS = ("detection", "segmentation")
HW = (120, 160)
SCORE = 0.26  # random weights give scores around a quarter


@pytest.fixture(scope="module")
def direct(bundle: Path) -> Iterator[Perception]:
    """The same models as in the node, called directly."""
    limits = Limits(score=SCORE)
    engine = "onnxruntime-cpu"
    with Perception.open(bundle, tasks=TASKS, engine=engine, limits=limits) as opened:
        yield opened


@pytest.fixture(scope="module")
def node(bundle: Path) -> Iterator[None]:
    with perception(
        bundle=bundle, task="both", engine="onnxruntime-cpu", score_threshold=SCORE, autostart=True
    ):
        yield


def boxes(message: Any) -> list[tuple[Any, ...]]:
    found = []
    for one in message.detections:
        box, (hypothesis,) = one.bbox, one.results
        x, y = box.center.position.x, box.center.position.y
        name, score = hypothesis.hypothesis.class_id, hypothesis.hypothesis.score
        found.append((x, y, box.size_x, box.size_y, name, score))
    return found


def expected(result: Any) -> list[tuple[Any, ...]]:
    rows = zip(result.boxes.tolist(), result.scores.tolist(), result.classes.tolist(), strict=True)
    return [
        ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0, result.names[index], score)
        for (x0, y0, x1, y1), score, index in rows
    ]


def pixels(message: Any) -> np.ndarray:
    shape = (message.height, message.width, *((3,) if message.encoding == "bgr8" else ()))
    return np.frombuffer(message.data, np.uint8).reshape(shape)


@pytest.mark.parametrize("best_effort", [False, True])
def test_images_of_another_process_get_the_results_of_the_runtime(
    station: Station, node: None, direct: Perception, best_effort: bool
) -> None:
    """For all topics of both tasks, with a reliable and with a best-effort camera."""
    topics = {
        name: station.listen(kind, f"/perception/{name}")
        for name, kind in (
            ("detections", Detection2DArray), ("mask", Image), ("mask_color", Image),
            ("overlay", Image), ("pipeline_latency_ms", Float32), ("processing_time_ms", Float32),
        )
    }  # fmt: skip
    rest = ["best_effort"] if best_effort else []

    def received(topic: str) -> dict[str, Any]:
        return {message.header.frame_id: message for message in list(topics[topic])}

    def complete() -> set[str]:
        """The frames of which no message was lost on its way here."""
        return set.intersection(
            *(set(received(t)) for t in ("detections", "mask", "mask_color", "overlay"))
        )

    with process("tests.ros2.real.camera", "/image", "10", "100000", *map(str, HW), *rest):
        until(lambda: len(complete()) >= 8, "eight frames with a message on every topic")
    masks, colours, overlays = map(received, ("mask", "mask_color", "overlay"))
    for number in complete():
        message = received("detections")[number]
        bgr = frame(int(number) % 16, *HW)[..., ::-1]
        found, mask = direct([bgr])[0]
        assert isinstance(found, Detections)
        assert isinstance(mask, Mask)
        assert boxes(message) == expected(found)
        assert len(found.scores) > 3
        np.testing.assert_array_equal(pixels(masks[number]), mask.classes)
        np.testing.assert_array_equal(pixels(colours[number]), coloured(mask))
        drawn = annotated(annotated(np.ascontiguousarray(bgr), found), mask)
        np.testing.assert_array_equal(pixels(overlays[number]), drawn)
        assert masks[number].encoding == "mono8"
        assert masks[number].header == colours[number].header == message.header
    latency, processing = (topics[t] for t in ("pipeline_latency_ms", "processing_time_ms"))
    assert all(p.data > 0 for p in processing)
    # the way from the camera contains the time that the node needs
    assert np.median([m.data for m in latency]) >= np.median([m.data for m in processing])


def test_every_encoding_gives_the_results_of_the_converted_image(
    station: Station, node: None, direct: Perception
) -> None:
    found = station.listen(Detection2DArray, "/perception/detections")
    camera = station.camera("/image")
    for number, encoding in enumerate(ENCODINGS):
        samples = {"rgb": 3, "bgr": 3, "rgba": 4, "bgra": 4}.get(encoding.rstrip("0123456789"), 1)
        wide = 2 if encoding.endswith("16") or encoding.startswith(("yuv4", "uyvy", "yuyv")) else 1
        rows = HW[0] * 3 // 2 if encoding.startswith("nv") else HW[0]
        bytes_ = np.random.default_rng(number).integers(
            0, 256, (rows, HW[1] * samples * wide + 6), np.uint8
        )  # the rows have 6 bytes of padding
        message = image(bytes_, 100.0 + number, encoding)
        message.height, message.width = HW
        answer = station.answer(camera, message, found)
        assert boxes(answer) == expected(direct([to_bgr(message)])[0][0]), encoding
    station.destroy(camera)


def test_score_threshold_and_max_detections_take_effect_at_once(
    station: Station, node: None, direct: Perception
) -> None:
    found = station.listen(Detection2DArray, "/perception/detections")
    camera = station.camera("/image")
    bgr = frame(0, *HW)
    everything = expected(direct([bgr])[0][0])
    station.answer(camera, image(bgr, 200.0), found)
    assert station.set(max_detections=2) == ""
    assert boxes(station.answer(camera, image(bgr, 201.0), found)) == everything[:2]
    threshold = everything[-3][-1] - 1e-5
    assert station.set(max_detections=100, score_threshold=threshold) == ""
    few = boxes(station.answer(camera, image(bgr, 202.0), found))
    assert few == [box for box in everything if box[-1] >= threshold] != everything
    assert station.set(score_threshold=SCORE) == ""
    assert boxes(station.answer(camera, image(bgr, 203.0), found)) == everything
    station.destroy(camera)


def test_remapping_the_image_topic_moves_the_compressed_topic_too(
    station: Station, bundle: Path, direct: Perception
) -> None:
    with perception(
        namespace="robot", remap="image:=/cam/image_raw", bundle=bundle, compressed=True,
        engine="onnxruntime-cpu", score_threshold=SCORE, autostart=True,
    ):  # fmt: skip
        found = station.listen(Detection2DArray, "/robot/perception/detections")
        camera = station.camera("/cam/image_raw/compressed", kind=CompressedImage)
        for number, suffix in enumerate((".png", ".jpg")):
            coded = cv2.imencode(suffix, cv2.GaussianBlur(frame(1, *HW), (0, 0), 3))[1]
            message = CompressedImage(format=suffix[1:], data=coded.tobytes())
            message.header.stamp.sec = 1 + number
            answer = station.answer(camera, message, found)
            decoded = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
            assert boxes(answer) == expected(direct([decoded])[0][0])
        station.destroy(camera)


@pytest.mark.parametrize("how", ["in_turn", "batch"])
def test_each_of_several_cameras_has_its_own_outputs(
    station: Station, bundle: Path, direct: Perception, how: str
) -> None:
    with perception(
        bundle=bundle, image_topics="[/front/image_raw, /rear/image_raw]", cameras=how,
        engine="onnxruntime-cpu", score_threshold=SCORE, autostart=True,
    ):  # fmt: skip
        names = ("front", "rear")
        found = {n: station.listen(Detection2DArray, f"/perception/{n}/detections") for n in names}
        cameras = {n: station.camera(f"/{n}/image_raw") for n in names}
        for number in range(3):
            # frames of different sizes go into one batch
            shown = {n: frame(number + 9 * i, 100 + 20 * i, 160) for i, n in enumerate(names)}
            for name in names:
                cameras[name].publish(image(shown[name], 1.0 + number))
            for name in names:
                message = image(shown[name], 1.0 + number)
                got = boxes(station.answer(cameras[name], message, found[name]))
                wanted = expected(direct([shown[name]])[0][0])
                assert [box[4] for box in got] == [box[4] for box in wanted]
                # with a batch the engine may add in another order
                for numbers in (slice(0, 4), slice(5, 6)):
                    np.testing.assert_allclose(
                        [box[numbers] for box in got], [box[numbers] for box in wanted], rtol=1e-3
                    )
        station.status(
            lambda s: all(int(values_of(s).get(f"{n}: frames in", 0)) >= 3 for n in names),
            "three images from each camera",
        )
        for camera in cameras.values():
            station.destroy(camera)


def test_reliable_input_from_a_best_effort_camera_is_a_warning(
    station: Station, bundle: Path
) -> None:
    with perception(bundle=bundle, engine="onnxruntime-cpu", input_qos="reliable", autostart=True):
        best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        publisher = station.node.create_publisher(Image, "/image", best_effort)
        level, message, _ = station.status(lambda s: "offer" in s.message, "the mismatch")
        assert level == 1
        assert "/image: a publisher does not offer the requested reliability" in message
        station.destroy(publisher)
