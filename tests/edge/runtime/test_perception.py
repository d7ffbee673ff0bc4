"""Several tasks, several cameras, and changes while frames come, with real engine sessions."""

from __future__ import annotations

import itertools
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import msgspec
import numpy as np
import pytest

from ramnas_edge.board.device import this_device
from ramnas_edge.engines import backends
from ramnas_edge.engines.backend_ort import OrtBackend
from ramnas_edge.runtime import latency_file
from ramnas_edge.runtime import perception as perception_module
from ramnas_edge.runtime.perception import Perception
from ramnas_edge.runtime.runtime import Runtime
from ramnas_edge.vision.detection import Limits
from ramnas_edge.vision.results import Detections, Labels, Mask, Result
from ramnas_models import ready
from ramnas_models.bundle import Bundle, Model
from ramnas_models.errors import (
    BackendError,
    BudgetError,
    BundleError,
    DataError,
    EngineError,
    SourceError,
)
from tests.models.bundles import classifiers, figure, heads, written

CPU = "onnxruntime-cpu"
FRAME = (48, 64)
TASKS = ("detection", "segmentation")
LIMITS = Limits(0.28, 0.5, 50)
FRAMES = [
    np.random.default_rng(i).integers(0, 256, (*hw, 3), np.uint8)
    for i, hw in enumerate([(48, 64), (64, 96), (50, 31)])
]


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return written(tmp_path / "b", classifiers(), heads("detection"), heads("segmentation"))


def this_class(engine: str = CPU) -> str:
    return this_device().class_key(engine, backends.load(engine).version)


def perceiving(bundle: Bundle, tasks: Sequence[str] = TASKS, **options: Any) -> Perception:
    options = {"engine": CPU, "frame_hw": FRAME, "limits": LIMITS, **options}
    return Perception.open(bundle.path, tasks=tasks, **options)


def pairs(bundle: Bundle) -> List[Tuple[Model, ...]]:
    return [*itertools.product(*(bundle.front(task).models for task in TASKS))]


def keep(together_ms: Dict[Tuple[Model, ...], float]) -> None:
    """Store what whole calls of these models take together, as if timed at an earlier start."""
    latencies = [
        latency_file.StoredLatency(
            "+".join(m.sha256 for m in models), FRAME, "fp32", 1, ms, 44, False
        )
        for models, ms in together_ms.items()
    ]
    latency_file.keep(this_class(), latencies)


def assert_same(found: Result, expected: Result) -> None:
    assert type(found) is type(expected)
    for name in (field for field in found.__struct_fields__ if field != "timing"):
        one, other = getattr(found, name), getattr(expected, name)
        if isinstance(one, np.ndarray) and one.dtype == np.float32:
            np.testing.assert_allclose(one, other, atol=1e-3)
        elif isinstance(one, float):
            assert one == pytest.approx(other, abs=1e-5)
        else:
            np.testing.assert_array_equal(one, other)


def alone(bundle: Bundle, task: str, frames: Sequence[np.ndarray]) -> List[Result]:
    with Runtime.open(bundle.path, task=task, engine=CPU, limits=LIMITS) as runtime:
        return [runtime(frame) for frame in frames]


# -- tasks ----------------------------------------------------------------------------------------


def test_each_task_gives_the_result_of_its_own_runtime_in_the_order_of_the_tasks(
    bundle: Bundle,
) -> None:
    for tasks in (TASKS, TASKS[::-1], ("segmentation", "classification", "detection")):
        expected = [alone(bundle, task, FRAMES[:1])[0] for task in tasks]
        with perceiving(bundle, tasks) as perception:
            ((*found,),) = perception(FRAMES[:1])
            assert (perception.engine, perception.providers) == (CPU, ("CPUExecutionProvider",))
            assert [front.task for front in perception.fronts] == [*tasks]
        assert len(found) == len(tasks)
        for one, other in zip(found, expected):
            assert_same(one, other)
            assert one.timing.engine_ms > 0


def test_a_budget_for_two_tasks_is_compared_with_the_time_of_both_together(bundle: Bundle) -> None:
    """Both tasks have models of accuracy 0.3 and 0.4.

    So it is equally good to take the better detector or the better segmenter, and the faster of
    these two pairs is chosen.
    """
    keep(dict(zip(pairs(bundle), (3.0, 6.0, 5.0, 11.0))))
    for budget, expected, ms in ((3.5, 0, 3.0), (7.0, 2, 5.0), (11.0, 3, 11.0), (None, 3, 11.0)):
        with perceiving(bundle, latency_budget_ms=budget) as perception:
            assert perception.models == perception.choice.models == pairs(bundle)[expected]
            assert perception.choice.p90_ms == ms
            assert "timed together at start-up" in perception.choice.source
            assert not perception.choice.calibrated
    names = r" \+ ".join(model.arch_id for model in pairs(bundle)[0])
    with pytest.raises(BudgetError, match=f"no model fits 2 ms: the fastest, {names}, has a p90"):
        perceiving(bundle, latency_budget_ms=2.0)


def test_on_an_unknown_board_pairs_are_timed_together_and_remembered(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    timed = []
    for _ in range(2):
        caplog.clear()
        with perceiving(bundle, latency_budget_ms=1e4) as perception:
            assert perception.models == pairs(bundle)[-1]
            assert 0 < (perception.choice.p90_ms or 0) < 1e4
        timed.append(caplog.text.count("timing model"))
    assert timed[0] in (1, 2)  # of the three that are eligible
    assert timed[1] == 0
    kept = {f.sha256: f for f in latency_file.known(this_class())}
    best = kept["+".join(model.sha256 for model in pairs(bundle)[-1])]
    assert (best.p90_ms, best.calibrated) == (perception.choice.p90_ms, False)


def test_invalid_tasks_and_batches_are_named(bundle: Bundle) -> None:
    for tasks in ((), ("detection", "detection")):
        with pytest.raises(DataError, match="name at least one task, and none of them twice"):
            perceiving(bundle, tasks)
    with pytest.raises(BundleError, match="no task 'pose'"):
        perceiving(bundle, ("detection", "pose"))
    with pytest.raises(DataError, match="batch must be 1 or more, not 0"):
        perceiving(bundle, batch=0)


def test_without_a_bundle_the_one_that_ships_with_ramnas_is_opened() -> None:
    with Perception.open(tasks=TASKS, engine=CPU) as perception:
        assert perception.bundle.path == ready.path()


# -- batches --------------------------------------------------------------------------------------


def test_a_frame_gets_the_same_result_in_a_batch_as_alone(bundle: Bundle) -> None:
    tasks = ("classification", *TASKS)
    expected = [alone(bundle, task, FRAMES) for task in tasks]
    with perceiving(bundle, tasks, batch=3) as perception:
        found = perception(FRAMES)
        assert len(found) == 3
        for i, results in enumerate(found):
            for one, other in zip(results, (of_task[i] for of_task in expected)):
                assert_same(one, other)
        kinds = [type(result) for result in found[0]]
        assert kinds == [Labels, Detections, Mask]
        for wrong in (FRAMES[:2], [*FRAMES, FRAMES[0]], []):
            with pytest.raises(SourceError, match=f"takes 3 frames, but {len(wrong)} were given"):
                perception(wrong)
        with pytest.raises(SourceError, match="must be a uint8 array"):
            perception([*FRAMES[:2], FRAMES[2] / 255])
        again = perception(FRAMES)
    assert_same(again[2][1], found[2][1])


def test_each_batch_size_has_its_own_latencies(tmp_path: Path) -> None:
    one, three = 1.0, 20.0
    single = figure(this_class(), one, FRAME)
    batched = msgspec.structs.replace(single[0], batch=3, p90_ms=three)
    bundle = written(tmp_path / "b", classifiers([(*single, batched)] * 3))
    with perceiving(bundle, ["classification"], latency_budget_ms=25.0) as perception:
        assert perception.choice.p90_ms == one
    with perceiving(bundle, ["classification"], latency_budget_ms=25.0, batch=3) as perception:
        assert (perception.choice.p90_ms, perception.choice.calibrated) == (three, True)
    with pytest.raises(BudgetError, match="has a p90 of 20 ms"):
        perceiving(bundle, ["classification"], latency_budget_ms=15.0, batch=3)
    with perceiving(bundle, ["classification"], latency_budget_ms=1e4, batch=2) as perception:
        assert "timed at start-up" in perception.choice.source
    assert {f.batch for f in latency_file.known(this_class())} == {2}


# -- while frames come ----------------------------------------------------------------------------


@pytest.mark.parametrize("thread_bound", [False, True])
def test_no_frame_is_lost_or_reordered_while_budgets_change_from_another_thread(
    bundle: Bundle, thread_bound: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each answer is one pair's result for that frame; the last budget's pair runs in the end."""
    monkeypatch.setattr(OrtBackend, "thread_bound", thread_bound)
    # a busy moment would measure more
    monkeypatch.setattr(perception_module, "handover_ms", lambda: 0.1)
    expected: Dict[Tuple[Model, ...], List[List[Result]]] = {}
    keep(dict(zip(pairs(bundle), (3.0, 6.0, 5.0, 11.0))))
    for budget in (3.5, 7.0, 50.0):
        with perceiving(bundle, latency_budget_ms=budget) as perception:
            expected[perception.models] = [[*perception([f])[0]] for f in FRAMES]
    assert len(expected) == 3
    refused: List[BudgetError] = []
    done, stopped = threading.Event(), threading.Event()

    def change() -> None:
        rng = np.random.default_rng(0)
        try:
            for number in range(30):
                try:
                    perception.set_latency_budget((3.5, 7.0, 50.0, 1.0)[number % 4])
                except BudgetError as error:
                    refused.append(error)
                stopped.wait(float(rng.uniform(0, 0.02)))
                while number % 5 == 0 and perception.models != perception.choice.models:
                    if stopped.wait(1e-3):
                        return
            perception.set_latency_budget(7.0)
        finally:
            done.set()

    def model_of(frame: int, found: Sequence[Result]) -> Tuple[Model, ...]:
        for models, results in expected.items():
            one, other = found[0], results[frame][0]
            assert isinstance(one, Detections)
            assert isinstance(other, Detections)
            mask, wanted = found[1], results[frame][1]
            assert isinstance(mask, Mask)
            assert isinstance(wanted, Mask)
            if one.boxes.shape == other.boxes.shape and np.allclose(
                one.boxes, other.boxes, atol=1e-3
            ) and np.array_equal(mask.classes, wanted.classes):  # fmt: skip
                return models
        raise AssertionError(f"no pair of models gives this result for frame {frame}")

    seen = []
    with perceiving(bundle, latency_budget_ms=3.5) as perception:
        setter = threading.Thread(target=change)
        setter.start()
        try:
            for number in itertools.count():
                found = perception([FRAMES[number % 3]])
                assert len(found) == 1
                seen.append(model_of(number % 3, found[0]))
                if done.is_set() and seen[-1] == pairs(bundle)[2]:
                    break
                assert number < 100_000
        finally:
            stopped.set()
            setter.join()
        assert perception.models == pairs(bundle)[2]
        assert perception.latency_budget_ms == 7.0
        changes = sum(a != b for a, b in zip(seen, seen[1:]))
        assert 3 <= changes <= perception.switches
    assert len(refused) == 7
    assert len(set(seen)) > 1


def test_a_budget_that_no_model_fits_changes_nothing(bundle: Bundle) -> None:
    keep(dict(zip(pairs(bundle), (3.0, 6.0, 5.0, 11.0))))
    with perceiving(bundle, latency_budget_ms=6.0) as perception:
        before = (perception.choice, perception.models)
        with pytest.raises(BudgetError, match="no model fits 1 ms"):
            perception.set_latency_budget(1.0)
        perception(FRAMES[:1])
        assert (perception.choice, perception.models) == before
        assert (perception.latency_budget_ms, perception.switches) == (6.0, 0)
        perception.set_latency_budget(None)
        with pytest.raises(BudgetError, match="policy adaptive needs a latency budget"):
            perception.set_policy("adaptive")
        assert perception.policy == "fixed"


def call_until_running(perception: Perception, models: Tuple[Model, ...]) -> None:
    for _ in range(100_000):
        if perception.models == models:
            return
        perception(FRAMES[:1])
        threading.Event().wait(1e-3)
    raise AssertionError("these models never ran")


def test_the_policy_changes_while_frames_come(bundle: Bundle) -> None:
    """The kept latencies are too good, so `adaptive` steps down and `fixed` goes back."""
    keep(dict(zip(pairs(bundle), (1e-6, 4e-6, 3e-6, 5e-6))))
    with perceiving(bundle, latency_budget_ms=1e-5) as perception:
        for _ in range(50):
            perception(FRAMES[:1])
        assert perception.models == pairs(bundle)[3]
        perception.set_policy("adaptive")
        call_until_running(perception, pairs(bundle)[0])
        assert perception.choice.models == pairs(bundle)[3]
        perception.set_policy("fixed")
        call_until_running(perception, pairs(bundle)[3])
        assert perception.switches >= 2
        perception(FRAMES[:1])
        assert (perception.p90_ms or 0) > 1e-5
        with pytest.raises(DataError, match="policy must be fixed or adaptive"):
            perception.set_policy("bold")


def test_limits_change_with_the_next_frame_without_changing_models(bundle: Bundle) -> None:
    with perceiving(bundle) as perception:

        def scores() -> List[float]:
            found = perception(FRAMES[:1])[0][0]
            assert isinstance(found, Detections)
            return found.scores.tolist()

        before = scores()
        assert len(before) > 5
        perception.set_limits(msgspec.structs.replace(LIMITS, count=3))
        assert scores() == before[:3]
        perception.set_limits(msgspec.structs.replace(LIMITS, score=before[4]))
        assert scores() == before[:5]
        perception.set_limits(LIMITS)
        assert scores() == before
        assert perception.switches == 0


@pytest.mark.parametrize("thread_bound", [False, True])
def test_calls_from_several_threads_wait_for_each_other(
    bundle: Bundle, thread_bound: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OrtBackend, "thread_bound", thread_bound)
    found: List[List[Tuple[Result, ...]]] = [[], [], []]
    with perceiving(bundle) as perception:
        expected = [perception([frame])[0] for frame in FRAMES]

        def call(i: int) -> None:
            for _ in range(20):
                found[i].append(perception([FRAMES[i]])[0])

        threads = [threading.Thread(target=call, args=(i,)) for i in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for own, wanted in zip(found, expected):
        assert len(own) == 20
        for results in own:
            for one, other in zip(results, wanted):
                assert_same(one, other)


def test_a_closed_perception_refuses_calls(bundle: Bundle) -> None:
    perception = perceiving(bundle)
    perception.close()
    perception.close()
    for call in (
        lambda: perception(FRAMES[:1]),
        lambda: perception.set_latency_budget(5.0),
        lambda: perception.set_policy("fixed"),
    ):
        with pytest.raises(DataError, match="this Perception is closed"):
            call()


# -- engines --------------------------------------------------------------------------------------


class Flaky:
    """An engine that runs onnxruntime and fails while `failing` is set."""

    thread_bound = False
    failing = False

    def __init__(self) -> None:
        self.real = backends.load(CPU)
        self.version = self.real.version

    def open(self, model: bytes, options: backends.Options) -> backends.Session:
        session = self.real.open(model, options)
        infer, flaky = session.infer, self
        session.running = backends.Running("flaky", self.version, ("FlakyProvider",), "fp32")

        def failing(feeds: Any) -> Any:
            if flaky.failing:
                raise BackendError("engine flaky failed: the GPU has fallen off the bus")
            return infer(feeds)

        session.infer = failing  # type: ignore[method-assign]
        return session


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> Iterator[Flaky]:
    engine = Flaky()
    module = SimpleNamespace(load=lambda name, provider: engine)
    monkeypatch.setitem(sys.modules, "flaky_engine", module)
    monkeypatch.setitem(backends.ENGINES, "flaky", ("flaky_engine", ""))
    return engine


def test_after_an_engine_fails_another_one_can_be_opened(bundle: Bundle, flaky: Flaky) -> None:
    failed: Optional[str] = None
    with perceiving(bundle, engine="flaky") as perception:
        before = perception(FRAMES[:1])[0]
        assert perception.providers == ("FlakyProvider",)
        flaky.failing = True
        for _ in range(2):
            with pytest.raises(EngineError, match="has fallen off the bus; another engine may"):
                perception(FRAMES[:1])
        failed = perception.engine
        flaky.failing = False
        assert_same(perception(FRAMES[:1])[0][0], before[0])  # it may recover
    assert failed == "flaky"
    with perceiving(bundle, engine="auto", without_engines={failed}) as perception:
        assert perception.engine != "flaky"
        for one, other in zip(perception(FRAMES[:1])[0], before):
            assert_same(one, other)
    with pytest.raises(BackendError, match=r"no engine runs this model: .*flaky is left out"):
        perceiving(bundle, engine="auto", without_engines=[*backends.ENGINES])
    with pytest.raises(
        BackendError, match="engine flaky is asked for, but without_engines excludes it"
    ):
        perceiving(bundle, engine="flaky", without_engines={"flaky"})
