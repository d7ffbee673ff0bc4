"""`ramnas-edge run`: frames from a camera, a video or a folder through a bundle's model."""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple

from ramnas_models.errors import SourceError

if TYPE_CHECKING:
    from ramnas_edge.runtime.runtime import Runtime
    from ramnas_edge.vision.results import Result
    from ramnas_edge.vision.sources import Source

EVERY_S = 1.0  # the line with rate and p90


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    run = verbs.add_parser("run", help="run the model of a bundle that fits a latency budget")
    run.add_argument("--bundle", metavar="DIR", help="default: the one that ships with ramnas")
    run.add_argument(
        "--task", help="classification, detection or segmentation, if the bundle has several"
    )
    run.add_argument("--latency-budget-ms", type=float, metavar="X", help="p90 of a whole call")
    run.add_argument(
        "--policy", choices=("fixed", "adaptive"), default="fixed",
        help="adaptive: another model when the budget is broken, or when there is room again",
    )  # fmt: skip
    run.add_argument(
        "--source", metavar="SOURCE",
        help="camera (or its index, or /dev/videoN), a video file, an image, or a folder of them; "
        "default: some frames for the bundle that ships with ramnas",
    )  # fmt: skip
    run.add_argument("--repeat", type=count, default=1, metavar="N", help="times over the source")
    run.add_argument("--show", action="store_true", help="annotated, in a window; q ends")
    run.add_argument(
        "--save", type=Path, metavar="OUT", help="annotated: .mp4, .avi or .mkv, else a folder"
    )
    run.add_argument("--score", type=float, default=0.3, help="of a detection, at least")
    add_engine(run)
    run.add_argument("--json", action="store_true", help="one JSON line a frame, then a summary")
    run.set_defaults(call=_run)


def add_engine(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--engine", default="auto", help="name, or auto: the fastest that works here")
    verb.add_argument("--precision", default="fp32", help="fp32, tf32, fp16 or int8")
    verb.add_argument("--threads", type=count, default=1)


def count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of 1 or more")
    return int(text)


def _run(args: argparse.Namespace) -> None:
    from ramnas_edge.runtime.runtime import Runtime
    from ramnas_edge.vision.detection import Limits
    from ramnas_edge.vision.sources import Source
    from ramnas_models import ready

    if not args.bundle:
        args.task = args.task or "detection"
        args.source = args.source or str(ready.frames())
    elif not args.source:
        raise SourceError("--source is missing: name a camera, a video, an image or a folder")
    source = Source(args.source, args.repeat)
    frames = iter(source)
    first = next(frames)
    with Runtime.open(
        args.bundle,
        task=args.task,
        latency_budget_ms=args.latency_budget_ms,
        policy=args.policy,
        engine=args.engine,
        precision=args.precision,
        threads=args.threads,
        frame_hw=(first[1].shape[0], first[1].shape[1]),
        limits=Limits(score=args.score),
    ) as runtime:
        stream = _Stream(args, runtime)
        try:
            for name, frame in itertools.chain([first], frames):
                if not stream.take(name, frame):
                    break
        except KeyboardInterrupt:  # how a camera ends
            pass
        finally:
            stream.close()
        stream.summary(source)


class _Stream:
    """What is done with every frame, and what is said of all."""

    def __init__(self, args: argparse.Namespace, runtime: Runtime) -> None:
        from ramnas_edge.vision import sinks

        self._args, self._runtime = args, runtime
        self._sinks: List[Any] = []
        if args.show:
            self._sinks.append(sinks.Window(f"ramnas: {runtime.bundle.path.name}"))
        if args.save:
            to_video = args.save.suffix.lower() in sinks.VIDEO_CODECS
            self._sinks.append((sinks.Video if to_video else sinks.ImageFolder)(args.save))
        self._total_ms: List[float] = []
        self._models: Dict[str, int] = {}
        self._refused = 0
        # printed once a second: work between two calls of a small network would slow them down
        self._held: List[Tuple[str, Result, float]] = []
        self._said_s, self._said_at = time.monotonic(), 0

    def take(self, name: str, frame: Any) -> bool:
        """Run and pass on one frame; False if somebody has had enough."""
        try:
            start = time.perf_counter()
            result = self._runtime(frame)
            self._total_ms.append((time.perf_counter() - start) * 1e3)
        except SourceError as error:
            self._refused += 1
            print(f"left out: {name}: {error}", file=sys.stderr)
            return True
        model = self._runtime.model.arch_id
        self._models[model] = self._models.get(model, 0) + 1
        self._held.append((name, result, self._total_ms[-1]))
        if time.monotonic() - self._said_s >= EVERY_S:
            self._say()
        if not self._sinks:
            return True
        from ramnas_edge.vision.annotate import annotated

        drawn = annotated(frame, result)
        wants_more = [sink.put(name, drawn) for sink in self._sinks]  # every one gets it
        return all(wants_more)

    def close(self) -> None:
        self._flush()
        for sink in self._sinks:
            sink.close()

    def summary(self, source: Source) -> None:
        import msgspec
        import numpy as np

        budget, choice = self._args.latency_budget_ms, self._runtime.choice
        if not self._total_ms:
            raise SourceError(f"{self._args.source}: no frame of it could be run")
        p50, p90 = np.percentile(self._total_ms, [50, 90]).tolist()
        within: Optional[float] = None
        if budget is not None:
            within = float(np.mean(np.array(self._total_ms) <= budget))
        facts = {
            "model": choice.model.arch_id,
            "models": self._models,
            "latency_budget_ms": budget,
            "within_budget": within,
            "expected_p90_ms": choice.p90_ms,
            "expected_from": choice.source,
            "device_class": self._runtime.perception.device_class,
            "calibrated": choice.calibrated,
            "frames": len(self._total_ms),
            "broken": source.broken + self._refused,
            "p50_ms": p50,
            "p90_ms": p90,
        }
        if self._args.json:
            print(msgspec.json.encode({"summary": facts}).decode())
            return
        ran = ", ".join(f"{model} {count}" for model, count in self._models.items())
        print(
            f"model {ran} frames, p50 {p50:.3f} ms, p90 {p90:.3f} ms "
            f"(expected {choice.expected})"
            + (f"; {within:.1%} within {budget:g} ms" if within is not None else "")
            + (f"; {facts['broken']} broken frames left out" if facts["broken"] else "")
        )

    def _line(self, name: str, result: Result, call_ms: float) -> str:
        import msgspec

        from ramnas_edge.vision.annotate import plain, words

        if not self._args.json:
            return f"{name}: {words(result)}"
        line = {"image": name, **plain(result), "timing": result.timing, "call_ms": call_ms}
        return msgspec.json.encode(line).decode()

    def _flush(self) -> None:
        if self._held:
            print("\n".join(self._line(*held) for held in self._held), flush=True)
            self._held.clear()

    def _say(self) -> None:
        """Rate and p90 of the last second, on stderr."""
        import numpy as np

        self._flush()
        now, last = time.monotonic(), self._total_ms[self._said_at :]
        print(
            f"{len(last) / (now - self._said_s):.1f} frames/s, p90 {np.percentile(last, 90):.2f} "
            f"ms, model {self._runtime.model.arch_id}", file=sys.stderr, flush=True,
        )  # fmt: skip
        self._said_s, self._said_at = now, len(self._total_ms)
