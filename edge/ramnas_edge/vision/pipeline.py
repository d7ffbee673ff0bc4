"""Frames -> results, through one model per task: resize, engine, decode, each stage timed."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Callable, List, Optional, Sequence, Tuple

import numpy as np

from ramnas_edge.engines.backends import check_finite
from ramnas_edge.vision import preprocessing
from ramnas_edge.vision.batching import with_batch
from ramnas_edge.vision.channels import for_rgb
from ramnas_edge.vision.detection import Limits, detect
from ramnas_edge.vision.results import Detections, Labels, Mask, Result, Timing
from ramnas_edge.vision.segmentation import class_map
from ramnas_models.errors import BackendError, BundleError, SourceError
from ramnas_models.head_plan import CLASSIFICATION, DETECTION, SEGMENTATION

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ramnas_edge.engines.backends import Array, Backend, Options, Running, Session, TensorSpec
    from ramnas_models.anchors import Anchors
    from ramnas_models.bundle import Bundle, Model, Preprocessing, TaskFront

    Frame = NDArray[np.uint8]  # [height, width, 3]
    # (outputs for one frame, the frame's (height, width), limits) -> timing -> result
    Decoder = Callable[[List[Array], Tuple[int, int], Limits], Callable[[Timing], Result]]


class Pipeline:
    """One opened model; a call takes as many frames as the batch of its graph."""

    def __init__(
        self, session: Session, hw: Tuple[int, int], how: Preprocessing, decode: Decoder
    ) -> None:
        self.session, self._hw, self._how, self._decode = session, hw, how, decode
        image = session.inputs[0]
        self._input, self._batch = image.name, image.shape[0]

    def __call__(self, frames: Sequence[Frame], limits: Limits = Limits()) -> List[Result]:
        """Return one result for each frame. Frames are uint8 [h, w, 3]; their sizes may differ.

        Each result holds the timing of the whole batch. Raises SourceError if something is not a
        frame, or if there are more or fewer frames than the batch.
        """
        if len(frames) != self._batch:
            raise SourceError(f"a call takes {self._batch} frames, but {len(frames)} were given")
        for frame in frames:
            preprocessing.check_frame(frame)
        start = time.perf_counter()
        images = [preprocessing.prepare(frame, self._how, self._hw) for frame in frames]
        batch = images[0][None] if len(images) == 1 else np.stack(images)
        resized = time.perf_counter()
        outputs = self.session.infer({self._input: batch})
        ran = time.perf_counter()
        untimed = [
            self._decode(
                [output[i] for output in outputs], (frame.shape[0], frame.shape[1]), limits
            )
            for i, frame in enumerate(frames)
        ]
        end = time.perf_counter()
        timing = Timing((resized - start) * 1e3, (ran - resized) * 1e3, (end - ran) * 1e3)
        return [result(timing) for result in untimed]

    def close(self) -> None:
        self.session.close()


class Pipelines:
    """One model per task, run one after the other on the same frames.

    A latency budget limits the time of one such call.
    """

    def __init__(self, pipelines: Sequence[Pipeline]) -> None:
        self._pipelines = pipelines

    @property
    def running(self) -> Running:
        """The engine that really runs. All models are opened on the same one."""
        return self._pipelines[0].session.running

    def __call__(
        self, frames: Sequence[Frame], limits: Limits = Limits()
    ) -> List[Tuple[Result, ...]]:
        """Return a tuple for each frame, with one result per task."""
        return list(zip(*[pipeline(frames, limits) for pipeline in self._pipelines]))

    def close(self) -> None:
        for pipeline in self._pipelines:
            pipeline.close()


def open_pipelines(
    bundle: Bundle,
    fronts: Sequence[TaskFront],
    models: Sequence[Model],
    backend: Backend,
    options: Options,
    *,
    channels: str = "bgr",
    batch: int = 1,
) -> Pipelines:
    """Open `models`, one of each front.

    If one of them cannot be opened, the others are closed again and its error is raised.
    """
    opened: List[Pipeline] = []
    try:
        for front, model in zip(fronts, models):
            opened.append(
                open_pipeline(
                    bundle, front, model, backend, options, channels=channels, batch=batch
                )
            )
    except BaseException:
        Pipelines(opened).close()
        raise
    return Pipelines(opened)


def open_pipeline(
    bundle: Bundle,
    front: TaskFront,
    model: Model,
    backend: Backend,
    options: Options,
    *,
    channels: str = "bgr",
    batch: int = 1,
) -> Pipeline:
    """Open `model` of `front` for batches of `batch` frames whose channels are in that order.

    It is run once on noise. BundleError if its graph does not take uint8 images of the size in the
    manifest, or has other outputs than the manifest's classes and anchors need. BackendError if it
    answers with NaN.
    """
    data = graph(bundle, model, channels=channels, batch=batch)
    try:
        session = backend.open(data, options)
    except BackendError as error:
        raise type(error)(f"model {model.name}: {error}") from error
    try:
        _check_input(session.inputs[0], model)
        noise = np.stack(noise_frames(model.input_hw, batch))
        outputs = session.infer({session.inputs[0].name: noise})
        _check_outputs([output.name for output in session.outputs], outputs, front, model)
        check_finite(session.running, outputs)
        decode = decoder(front.task, front.classes, model.input_hw, model.anchors)
    except BackendError as error:
        session.close()
        raise type(error)(f"model {model.name}: {error}") from error
    except BaseException:
        session.close()
        raise
    return Pipeline(session, model.input_hw, model.preprocessing, decode)


def _check_input(image: TensorSpec, model: Model) -> None:
    if "uint8" not in image.dtype or tuple(image.shape[1:]) != (*model.input_hw, 3):
        raise BundleError(
            f"{model.file} takes {image.dtype} {list(image.shape)}, but must take a uint8 image "
            f"[N, {model.input_hw[0]}, {model.input_hw[1]}, 3] and normalise it itself; "
            "export the bundle again"
        )


def _check_outputs(
    names: Sequence[str], outputs: Sequence[Array], front: TaskFront, model: Model
) -> None:
    """BundleError if the outputs are not those of the task, for the classes of the manifest."""
    classes, found = len(front.classes), [output.shape[1:] for output in outputs]
    wanted: List[Tuple[int, ...]] = [(classes,)]
    if front.task == DETECTION and model.anchors:
        count = model.anchors.count
        wanted = [(count, classes + 1), (count, 4)]  # column 0 is the background
    right = found[: len(wanted)] == wanted
    if front.task == SEGMENTATION:  # a map, or logits of each class for each of its cells
        one = outputs[0]
        right = one.ndim == (3 if one.dtype == np.uint8 else 4)
        if right and one.dtype == np.uint8:
            right = int(one.max()) < classes
        elif right:
            wanted = [(classes, *found[0][1:])]
            right = found[:1] == wanted
        else:
            wanted = [(classes, *model.input_hw)]
    # with three classes both outputs of a detector have four columns
    if not right or list(names[:2]) == ["box_regression", "class_logits"]:
        raise BundleError(
            f"{model.file} has outputs "
            f"{', '.join(f'{n} of shape {list(shape)}' for n, shape in zip(names, found))}, but "
            f"the {classes} classes of the manifest need "
            f"{' and '.join(str(list(shape)) for shape in wanted)}, in this order; "
            "export the bundle again"
        )


def graph(bundle: Bundle, model: Model, *, channels: str = "bgr", batch: int = 1) -> bytes:
    """The ONNX bytes of `model` as an engine gets them: batch fixed, channels in that order."""
    data = bundle.read_model(model)
    try:
        data = with_batch(data, batch)
        return for_rgb(data) if channels == "rgb" else data
    except BundleError as error:
        raise BundleError(f"{bundle.path / model.file}: {error}") from error


def noise_frames(frame_hw: Tuple[int, int], batch: int) -> List[Frame]:
    """Frames of noise to time calls on, the same ones every time."""
    noise = np.random.default_rng(0)
    return [noise.integers(0, 256, (*frame_hw, 3), np.uint8) for _ in range(batch)]


def decoder(
    task: str, classes: Sequence[str], input_hw: Tuple[int, int], anchors: Optional[Anchors] = None
) -> Decoder:
    """Return the function that turns one frame's outputs of a graph of `task` into a result.

    Detection needs `anchors`. BackendError if there is no decoder.
    """
    names = tuple(classes)
    if task == CLASSIFICATION:

        def labels(
            outputs: List[Array], hw: Tuple[int, int], limits: Limits
        ) -> Callable[[Timing], Result]:
            best, score = preprocessing.label(np.asarray(outputs[0], np.float32))
            return functools.partial(Labels, best, names[best], score)

        return labels
    if task == DETECTION and anchors is not None:
        boxes = anchors.boxes()

        def objects(
            outputs: List[Array], hw: Tuple[int, int], limits: Limits
        ) -> Callable[[Timing], Result]:
            logits, deltas = (np.asarray(output, np.float32) for output in outputs)
            detected = detect(logits, deltas, boxes, input_hw, hw, limits)
            return functools.partial(Detections, *detected, names)

        return objects
    if task == SEGMENTATION:

        def mask(
            outputs: List[Array], hw: Tuple[int, int], limits: Limits
        ) -> Callable[[Timing], Result]:
            return functools.partial(Mask, class_map(outputs[0], hw), names)

        return mask
    raise BackendError(
        f"there is no decoder for task '{task}'{' without anchors' if task == DETECTION else ''}"
    )
