"""One arch as an open session with its input ready, for the profiler to call and time."""

from __future__ import annotations

import functools
import itertools
import logging
from typing import TYPE_CHECKING, Callable, Dict, List, Tuple

import numpy as np

from ramnas_edge.engines.backends import Options, in_precision
from ramnas_edge.vision.pipeline import Pipeline, decoder, noise_frames, open_pipeline
from ramnas_models import onnx_graph
from ramnas_models.bundle import Preprocessing, open_bundle
from ramnas_models.errors import BackendError, OutOfMemoryError
from ramnas_models.head_plan import SEGMENTATION, SSDLitePlan, for_task
from ramnas_models.onnx_graph import Normalisation
from ramnas_models.plan import plan

if TYPE_CHECKING:
    from ramnas_edge.engines.backends import Array, Backend, Clock, Session
    from ramnas_edge.measuring.record import Target
    from ramnas_models.head_plan import AnyPlan
    from ramnas_models.space import Arch, Space

log = logging.getLogger(__name__)

_RESIZE = Preprocessing(Normalisation())  # in whole calls a frame is resized and not cropped
MAX_WARM_UP = 10  # runs
STABLE = 0.97  # a run is warm if it took at least this part of the fastest one before it

_open_bundle_once = functools.lru_cache(maxsize=1)(open_bundle)  # verifying its hashes takes time


class Runner:
    """One opened arch. `call()` is what is timed: the engine alone, or a whole call on frames."""

    call: Callable[[], object]
    _stages: Callable[[Clock], Dict[str, float]]

    def __init__(
        self, backend: Backend, arch: Arch, space: Space, target: Target, bundle: str = "",
        model: str = "",
    ) -> None:  # fmt: skip
        """Open `arch` with random weights, or the model of that name in the bundle at `bundle`.

        BackendError if the engine refuses the graph.
        """
        options = Options(target.precision, target.threads)
        if bundle:
            self._open_from_bundle(bundle, backend, model, target, options)
            return
        backbone = plan(space, arch, num_classes=target.num_classes, input_hw=target.hw(arch))
        layout = for_task(target.task, backbone)
        self._session = session = _open(layout, backend, target, options)
        self.running = session.running
        noise = np.random.default_rng(0)
        height, width = layout.input_hw
        if target.frame_hw:
            anchors = layout.anchors if isinstance(layout, SSDLitePlan) else None
            names = [""] * target.num_classes
            decode = decoder(target.task, names, layout.input_hw, anchors)
            pipeline = Pipeline(session, layout.input_hw, _RESIZE, decode)
            self._call_on_frames(pipeline, target.frame_hw, target.batch)
        else:
            image: Array = noise.integers(0, 256, (target.batch, height, width, 3), np.uint8)
            if not target.image_input:
                image = image.astype(np.float32).transpose(0, 3, 1, 2).copy() / 255
            feeds = {session.inputs[0].name: image}
            self.call = lambda: session.infer(feeds)
            self._stages = lambda clock: session.infer_staged(feeds, clock)[1].by_stage()

    @property
    def outputs(self) -> Tuple[str, ...]:
        """The names of the graph's outputs, which tell the form of a segmenter."""
        return tuple(output.name for output in self._session.outputs)

    def _open_from_bundle(
        self, path: str, backend: Backend, name: str, target: Target, options: Options
    ) -> None:
        bundle = _open_bundle_once(path)
        front = bundle.front(target.task)
        model = next(model for model in front.models if model.name == name)
        pipeline = open_pipeline(bundle, front, model, backend, options, batch=target.batch)
        self._session, self.running = pipeline.session, pipeline.session.running
        assert target.frame_hw is not None
        self._call_on_frames(pipeline, target.frame_hw, target.batch)

    def _call_on_frames(self, pipeline: Pipeline, frame_hw: Tuple[int, int], batch: int) -> None:
        frames = noise_frames(frame_hw, batch)
        self.call = lambda: pipeline(frames)
        self._stages = lambda clock: pipeline(frames)[0].timing.by_stage()

    def warm_up(self, at_least_ms: float, clock: Clock) -> None:
        """Run for `at_least_ms` or longer, until runs get no faster or there were MAX_WARM_UP."""
        start = now = clock()
        fastest_ns = float("inf")
        for count in itertools.count(1):
            self.call()
            before, now = now, clock()
            warm = now - before >= STABLE * fastest_ns
            fastest_ns = min(fastest_ns, now - before)
            if (warm or count >= MAX_WARM_UP) and now - start >= at_least_ms * 1e6:
                return

    def time(self, runs: int, at_least_ms: float, clock: Clock) -> List[float]:
        """Time at least `runs` calls, and more until `at_least_ms` have passed: ms of each."""
        call = self.call
        times: List[float] = []
        first = clock()
        while len(times) < runs or clock() - first < at_least_ms * 1e6:
            start = clock()
            call()
            times.append((clock() - start) / 1e6)
        return times

    def stages(self, clock: Clock) -> Dict[str, float]:
        """Make one more call and return the milliseconds of each of its stages."""
        return self._stages(clock)

    def close(self) -> None:
        self._session.close()


def _open(layout: AnyPlan, backend: Backend, target: Target, options: Options) -> Session:
    """Open `layout` with random weights.

    A segmenter's graph ends in its class map. An engine without ArgMax or without uint8 outputs
    refuses that and gets a graph that ends in logits.
    """

    def opened(logits: bool) -> Session:
        model = onnx_graph.build(
            layout, image_input=target.image_input, batch=target.batch, logits=logits
        )
        model = in_precision(model, target.engine, target.precision)
        return backend.open(model.SerializeToString(), options)

    try:
        return opened(logits=False)
    except OutOfMemoryError:
        raise
    except BackendError as error:
        if target.task != SEGMENTATION:
            raise
        log.info("engine %s refuses a class map, so logits are measured: %s", target.engine, error)
    return opened(logits=True)
