"""Models change while frames come: real engine sessions, and a policy that the test sets."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Callable, Dict, List, Optional, Tuple

import numpy as np
import pytest

from ramnas_edge.board.device import this_device
from ramnas_edge.engines import backends
from ramnas_edge.engines.backend_ort import OrtBackend
from ramnas_edge.runtime import perception as perception_module
from ramnas_edge.runtime.policy import WINDOW, Policy
from ramnas_edge.runtime.runtime import Runtime
from ramnas_edge.runtime.switching import Switching, SwitchPlan
from ramnas_edge.vision.detection import Limits
from ramnas_edge.vision.pipeline import Pipelines, open_pipeline
from ramnas_edge.vision.results import Labels
from ramnas_models.bundle import Model
from ramnas_models.errors import BackendError, OutOfMemoryError, SourceError
from tests.models.bundles import classifiers, figure, written

FRAMES = [np.random.default_rng(i).integers(0, 256, (24, 24, 3), np.uint8) for i in range(8)]


class ScriptedPolicy(Policy):
    """Asks for the model `wanted`, whatever the calls take."""

    wanted = 0

    def add(self, call_ms: float, now_s: float) -> int:
        super().add(call_ms, now_s)
        return self.wanted


class Bench:
    """Opens the three models of a bundle and tracks which are open."""

    def __init__(self, path: Path) -> None:
        self.bundle = written(path, classifiers())
        self.front = self.bundle.front()
        self.ladder = [(model,) for model in self.front.models]
        self.begun: List[int] = []
        self.open: List[int] = []
        self.most_open = 0
        self.gate = threading.Event()  # opening waits until it is set
        self.gate.set()
        self.too_large: Optional[int] = None  # the model that finds no memory

    def run(self, policy: Policy, bound: bool = True) -> Switching:
        return Switching(self.start, SwitchPlan(self.ladder, policy), bound)

    def start(self, models: Tuple[Model, ...]) -> Pipelines:
        (model,) = models
        bench, index = self, self.front.models.index(model)
        self.begun.append(index)
        assert self.gate.wait(60)
        if index == self.too_large:
            raise OutOfMemoryError("no memory is left")
        backend = backends.load("onnxruntime-cpu")
        pipeline = open_pipeline(self.bundle, self.front, model, backend, backends.Options())
        opened_by = threading.get_ident()
        self.open.append(index)
        self.most_open = max(self.most_open, len(self.open))

        class Watched:
            """Like TensorRT: only the thread that opened the session may use and close it."""

            inputs, outputs = pipeline.session.inputs, pipeline.session.outputs
            running, session = pipeline.session.running, pipeline.session

            def infer(self, feeds: Dict[str, np.ndarray]) -> List[np.ndarray]:
                if threading.get_ident() != opened_by:
                    raise BackendError("used in another thread")
                return self.session.infer(feeds)  # type: ignore[return-value]

            def close(self) -> None:
                if threading.get_ident() != opened_by:
                    raise BackendError("closed in another thread")
                bench.open.remove(index)
                self.session.close()

        pipeline.session = Watched()  # type: ignore[assignment]
        return Pipelines([pipeline])


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "b")


def staying(model: int) -> ScriptedPolicy:
    """Return a policy that stays with `model`."""
    policy = ScriptedPolicy((1.0, 2.0, 3.0), 10.0, model)
    policy.wanted = model
    return policy


def labels(switching: Switching, frame: np.ndarray = FRAMES[0]) -> Labels:
    ((result,),) = switching([frame], Limits())
    assert isinstance(result, Labels)
    return result


def until(condition: Callable[[], bool], each: Callable[[], object]) -> int:
    for count in range(100_000):
        if condition():
            return count
        each()
        time.sleep(1e-4)
    raise AssertionError("the condition never became true")


def test_every_frame_is_answered_in_order_by_an_open_model(bench: Bench) -> None:
    """The score tells which model ran and which frame it saw."""
    backend = backends.load("onnxruntime-cpu")
    expected = []
    for model in bench.front.models:
        pipeline = open_pipeline(bench.bundle, bench.front, model, backend, backends.Options())
        results = [pipeline([frame])[0] for frame in FRAMES]
        expected.append([r.score for r in results if isinstance(r, Labels)])
    policy = ScriptedPolicy((1.0, 2.0, 3.0), 10.0, 2)
    policy.wanted = 2
    switching = bench.run(policy)
    seen = []
    for count in range(400):
        if count % 20 == 0:
            policy.wanted = (policy.wanted + 1) % 3
        before = policy.model
        score = labels(switching, FRAMES[count % 8]).score
        assert score == pytest.approx(expected[before][count % 8], abs=1e-6)
        seen.append(before)
        time.sleep(1e-3)
    switching.close()
    assert set(seen) == {0, 1, 2}
    assert bench.most_open == 2
    assert bench.open == []


def test_frames_are_answered_while_the_next_model_is_opened(bench: Bench) -> None:
    policy = ScriptedPolicy((1.0, 2.0, 3.0), 10.0, 2)
    policy.wanted = 2
    switching = bench.run(policy)
    bench.gate.clear()
    policy.wanted = 0
    for _ in range(50):
        labels(switching)
    assert policy.model == 2
    bench.gate.set()
    until(lambda: policy.model == 0, lambda: labels(switching))
    until(lambda: bench.open == [0], lambda: None)  # the larger one is closed at once
    switching.close()


def test_after_a_step_up_the_model_before_stays_open_for_a_window(
    bench: Bench,
) -> None:
    policy = ScriptedPolicy((1.0, 2.0, 3.0), 1e6, 0)
    switching = bench.run(policy)
    policy.wanted = 2
    until(lambda: policy.model == 2, lambda: labels(switching))
    assert sorted(bench.open) == [0, 2]
    bench.gate.clear()  # nothing can be opened now, but the step down does not need to
    policy.wanted = 0
    labels(switching)
    assert policy.model == 0
    bench.gate.set()
    policy.wanted = 2
    until(lambda: policy.model == 2, lambda: labels(switching))
    for _ in range(WINDOW):
        labels(switching)
    until(lambda: bench.open == [2], lambda: None)
    switching.close()


def test_a_larger_model_is_closed_if_the_budget_broke_while_it_was_opened(bench: Bench) -> None:
    policy = ScriptedPolicy((1.0, 2.0, 3.0), 1e6, 0)
    switching = bench.run(policy)
    bench.gate.clear()
    policy.wanted = 2
    labels(switching)
    policy.wanted, policy.budget_ms = 0, 1e-9
    bench.gate.set()
    until(lambda: 2 in bench.open, lambda: None)
    until(lambda: bench.open == [0], lambda: labels(switching))
    assert policy.model == 0
    switching.close()


def test_a_model_that_cannot_be_opened_is_left_out(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.too_large = 2
    policy = ScriptedPolicy((1.0, 2.0, 3.0), 10.0, 0)
    switching = bench.run(policy)
    policy.wanted = 2
    left_out = f"{bench.front.models[2].arch_id} cannot be opened and is left out"
    until(lambda: left_out in caplog.text, lambda: labels(switching))
    assert policy.idle_ms[2] == float("inf")
    policy.wanted = 0
    labels(switching)
    switching.close()
    assert bench.open == []
    with pytest.raises(OutOfMemoryError):
        bench.run(ScriptedPolicy((1.0, 2.0, 3.0), 10.0, 2))


def test_it_can_be_closed_while_a_model_is_opened(bench: Bench) -> None:
    policy = ScriptedPolicy((1.0, 2.0, 3.0), 10.0, 0)
    switching = bench.run(policy)
    bench.gate.clear()
    policy.wanted = 2
    labels(switching)
    threading.Timer(0.1, bench.gate.set).start()
    switching.close()
    assert bench.open == []


def test_of_several_plans_in_a_row_the_superseded_ones_are_never_opened(bench: Bench) -> None:
    switching = bench.run(staying(2))
    bench.gate.clear()
    switching.follow(SwitchPlan(bench.ladder, staying(0)))
    until(lambda: bench.begun == [2, 0], lambda: None)
    for model in (1, 0, 1):
        switching.follow(SwitchPlan(bench.ladder, staying(model)))
    bench.gate.set()
    until(lambda: switching.plan.models == bench.ladder[1], lambda: labels(switching))
    assert bench.begun == [2, 0, 1]
    assert bench.most_open == 2
    assert switching.switches == 1
    switching.close()
    assert bench.open == []


def test_a_plan_for_the_models_that_run_opens_nothing(bench: Bench) -> None:
    switching = bench.run(staying(1))
    plan = SwitchPlan(bench.ladder[1:2], staying(0))
    switching.follow(plan)
    assert switching.plan is plan
    labels(switching)
    assert (bench.begun, switching.switches) == ([1], 0)
    switching.close()


def test_if_the_models_of_a_plan_cannot_be_opened_the_current_ones_keep_running(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    switching = bench.run(staying(0))
    bench.too_large = 2
    switching.follow(SwitchPlan(bench.ladder, staying(2)))
    until(lambda: "is left out: no memory is left" in caplog.text, lambda: labels(switching))
    assert switching.plan.models == bench.ladder[0]
    labels(switching)
    switching.close()
    assert bench.open == []


def test_a_broken_frame_raises_an_error_and_is_not_timed(bench: Bench) -> None:
    policy = ScriptedPolicy((1.0, 2.0, 3.0), 10.0, 0)
    switching = bench.run(policy)
    with pytest.raises(SourceError, match="uint8 array"):
        labels(switching, np.zeros((4, 4, 3)))
    assert policy.p90_ms is None
    switching.close()


def test_a_runtime_steps_down_when_the_manifest_promises_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No model can keep such a budget, so the fastest one runs in the end."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    version = backends.load("onnxruntime-cpu").version
    here = this_device().class_key("onnxruntime-cpu", version)
    latencies = [figure(here, ms, (24, 24)) for ms in (1e-6, 2e-6, 3e-6)]
    written(tmp_path / "b", classifiers(latencies))
    with Runtime.open(
        tmp_path / "b", latency_budget_ms=1e-5, policy="adaptive", engine="onnxruntime-cpu",
        frame_hw=(24, 24),
    ) as runtime:  # fmt: skip
        models = runtime.front.models
        assert runtime.model == models[2]
        until(lambda: runtime.model == models[0], lambda: runtime(FRAMES[0]))
        assert runtime.choice.model == models[2]


def test_the_expected_latency_includes_the_handover_to_another_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(perception_module, "handover_ms", lambda: 0.5)
    version = backends.load("onnxruntime-cpu").version
    here = this_device().class_key("onnxruntime-cpu", version)
    written(tmp_path / "b", classifiers([figure(here, ms, (24, 24)) for ms in (1.0, 2.0, 3.0)]))
    for bound, expected in ((False, (2, 3.0)), (True, (1, 2.5))):
        monkeypatch.setattr(OrtBackend, "thread_bound", bound)
        with Runtime.open(
            tmp_path / "b", latency_budget_ms=3.2, engine="onnxruntime-cpu", frame_hw=(24, 24)
        ) as runtime:
            assert runtime(FRAMES[0]).timing.total_ms > 0
            index = runtime.front.models.index(runtime.choice.model)
            assert (index, runtime.choice.p90_ms) == expected
