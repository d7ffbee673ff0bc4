"""`ramnas-edge run`: frames of a camera, a video or a folder -> what a bundle's model sees."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple

from ramnas_edge.cli.terminal import Verbs, add_verb
from ramnas_models.errors import FileError, SourceError
from ramnas_models.signals import whole

if TYPE_CHECKING:
    from ramnas_edge.runtime.runtime import Runtime
    from ramnas_edge.vision.results import Result
    from ramnas_edge.vision.sources import Source

RATE_EVERY_S = 1.0  # between two lines with the rate and the p90


def add(verbs: Verbs) -> None:
    """Add this verb to the command line."""
    run = add_verb(
        verbs, "run",
        help="run the model of a bundle that fits a latency budget",
        purpose="Runs the most accurate model of a bundle that fits a latency budget, on a camera, "
        "a video or images, and prints what it sees. Without --bundle it runs the detector that "
        "ships with ramnas.",
        example="ramnas-edge run --bundle DIR --latency-budget-ms 25 --policy adaptive "
        "--source camera --show",
    )  # fmt: skip
    run.add_argument(
        "pictures", nargs="*", metavar="PICTURE",
        help="one or several images, or folders of images, instead of --source",
    )  # fmt: skip
    run.add_argument(
        "--bundle", metavar="DIR",
        help="the bundle's folder (default: the bundle that ships with ramnas)",
    )  # fmt: skip
    run.add_argument(
        "--task",
        help="classification, detection or segmentation; needed if the bundle has several tasks",
    )
    run.add_argument(
        "--latency-budget-ms", type=float, metavar="MS",
        help="the p90 that a whole call may take (default: no limit, the most accurate model)",
    )  # fmt: skip
    run.add_argument(
        "--policy", choices=("fixed", "adaptive"), default="fixed",
        help="fixed keeps the first model; adaptive takes a faster one when calls exceed the "
        "budget, and a more accurate one when there is room again (default: %(default)s)",
    )  # fmt: skip
    run.add_argument(
        "--source", metavar="SOURCE",
        help="`camera`, a camera's index or /dev/videoN, a video file, an image, a folder of "
        "images, or a pattern such as 'images/*.jpg' (default, without --bundle: some images that "
        "ship with ramnas); a path comes before an index, and ./camera is a folder of that name",
    )  # fmt: skip
    run.add_argument(
        "--repeat", type=count, default=1, metavar="N",
        help="how many times to play the source (default: %(default)s)",
    )  # fmt: skip
    run.add_argument(
        "--show",
        action="store_true",
        help="show annotated frames in a window; the key q or closing it ends",
    )
    run.add_argument(
        "--save", type=Path, metavar="OUT",
        help="save annotated frames: into a video (.mp4, .avi or .mkv), or else a folder",
    )  # fmt: skip
    run.add_argument(
        "--score", type=float, default=0.3,
        help="leave out detections with a lower score, between 0 and 1 (default: %(default)s)",
    )  # fmt: skip
    add_engine(run)
    run.add_argument(
        "--json",
        action="store_true",
        help="print one JSON line per frame, and a summary at the end",
    )
    run.set_defaults(call=_run)


def add_engine(verb: argparse.ArgumentParser) -> None:
    """Add the options that choose the engine of a bundle's models."""
    verb.add_argument(
        "--engine", default="auto",
        help="the inference engine, or auto for the fastest that works here (default: %(default)s)",
    )  # fmt: skip
    verb.add_argument(
        "--precision", default="fp32", help="fp32, tf32, fp16 or int8 (default: %(default)s)"
    )
    verb.add_argument(
        "--threads", type=count, default=1, metavar="N",
        help="threads of the engine (default: %(default)s)",
    )  # fmt: skip


def count(text: str) -> int:
    """A number of 1 or more, for argparse."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of 1 or more")
    return int(text)


def _run(args: argparse.Namespace) -> None:
    # The reasons are in our own messages. OpenCV and its FFmpeg read this when they are imported.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    from ramnas_edge.engines.backends import check_threads
    from ramnas_edge.runtime.runtime import Runtime
    from ramnas_edge.vision.detection import Limits
    from ramnas_edge.vision.sinks import check_apart, check_window
    from ramnas_edge.vision.sources import Source
    from ramnas_models import ready

    check_threads(args.threads)
    if args.pictures and args.source is not None:
        raise SourceError(
            f"--source {args.source} and the images {' '.join(args.pictures)}: name only one of "
            "them"
        )
    sources = args.pictures or ([] if args.source is None else [args.source])
    if not args.bundle:
        args.task = args.task or "detection"
        sources = sources or [str(ready.frames())]
    elif not sources:
        raise SourceError(
            "--bundle needs a --source: name a camera, a video, an image or a folder of images"
        )
    source = Source(sources[0] if len(sources) == 1 else sources, args.repeat)
    for one in sources if args.save else ():
        check_apart(one, args.save)
    if args.show:
        check_window()
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
        stream = _Stream(args, runtime, source)
        try:
            for name, frame in itertools.chain([first], frames):
                with whole():  # each frame is printed, saved and counted, or nothing of it
                    if not stream.take(name, frame):
                        break
            else:
                stream.hold()
        except KeyboardInterrupt:  # the usual way to end a camera
            pass
        finally:
            with whole():
                stream.close()
        stream.summary()


class _Stream:
    """Runs the frames one by one, prints and draws each result, and sums them up at the end."""

    def __init__(self, args: argparse.Namespace, runtime: Runtime, source: Source) -> None:
        from ramnas_edge.vision import sinks

        self._args, self._runtime, self._source = args, runtime, source
        self._window = sinks.Window(f"ramnas: {runtime.bundle.path.name}") if args.show else None
        self._sinks: List[Any] = [self._window] if self._window else []
        if args.save:
            self._sinks.append(sinks.saving(args.save, source.rate))
        self._total_ms: List[float] = []
        self._models: Dict[str, int] = {}
        self._refused = 0
        # Results are printed once a second: work between two calls of a small network would make
        # the next call slower.
        self._unprinted: List[Tuple[str, Result, float]] = []
        self._rate_s, self._rate_frame = time.monotonic(), 0  # when the last rate line was printed

    def take(self, name: str, frame: Any) -> bool:
        """Run one frame, print and draw its result; False if the user has closed the window."""
        try:
            start = time.perf_counter()
            result = self._runtime(frame)
            self._total_ms.append((time.perf_counter() - start) * 1e3)
        except SourceError as error:
            self._refused += 1
            print(f"left out {name}: {error}", file=sys.stderr)
            return True
        model = self._runtime.model.name
        self._models[model] = self._models.get(model, 0) + 1
        self._unprinted.append((name, result, self._total_ms[-1]))
        if time.monotonic() - self._rate_s >= RATE_EVERY_S:
            self._print_rate()
        if not self._sinks:
            return True
        from ramnas_edge.vision.annotate import annotated

        drawn = annotated(frame, result)
        wants_more = [sink.put(name, drawn) for sink in self._sinks]  # each sink gets the frame
        return all(wants_more)

    def hold(self) -> None:
        """Leave the last picture in the window until somebody has seen it; a video just ends."""
        if self._window and self._source.still:
            self._print_results()
            self._window.hold()

    def close(self) -> None:
        try:
            self._print_results()
        finally:
            for sink in self._sinks:
                sink.close()

    def summary(self) -> None:
        import msgspec
        import numpy as np

        from ramnas_edge.board.short_names import legend, short_names

        budget, choice = self._args.latency_budget_ms, self._runtime.choice
        if not self._total_ms:
            raise SourceError(f"no frame of {self._source.name} could be run")
        p50, p90 = np.percentile(self._total_ms, [50, 90]).tolist()
        within: Optional[float] = None
        if budget is not None:
            within = float(np.mean(np.array(self._total_ms) <= budget))
        facts = {
            "model": choice.model.name,
            "models": self._models,
            "chosen": choice.why,
            "latency_budget_ms": budget,
            "within_budget": within,
            "expected_p90_ms": choice.p90_ms,
            "expected_from": choice.source,
            "device_class": self._runtime.perception.device_class,
            "calibrated": choice.calibrated,
            "frames": len(self._total_ms),
            "broken": self._source.broken + self._refused,
            "p50_ms": p50,
            "p90_ms": p90,
        }
        if self._args.json:
            print(msgspec.json.encode({"summary": facts}).decode())
            return
        ran = ", ".join(f"model {model} on {count}" for model, count in self._models.items())
        print(
            f"{facts['frames']} frames ({ran}): p50 {p50:.3f} ms, p90 {p90:.3f} ms "
            f"({choice.expected})"
            + (f"; {within:.1%} within {budget:g} ms" if within is not None else "")
            + (f"; broken frames left out: {facts['broken']}" if facts["broken"] else "")
        )
        names = short_names([self._runtime.perception.device_class])
        if any(short in choice.expected for short in names.values()):
            print("\n".join(legend(names)))

    def _line(self, name: str, result: Result, call_ms: float) -> str:
        import msgspec

        from ramnas_edge.vision.annotate import plain, words

        if not self._args.json:
            return f"{name}: {words(result)}"
        line = {"image": name, **plain(result), "timing": result.timing, "call_ms": call_ms}
        return msgspec.json.encode(line).decode()

    def _print_results(self) -> None:
        if self._unprinted:
            lines = [self._line(*result) for result in self._unprinted]
            self._unprinted.clear()
            try:
                for line in lines:  # of one large write Python loses a part if a signal comes
                    print(line)
                print(end="", flush=True)
            except BrokenPipeError:  # nobody reads any more
                raise
            except OSError as error:
                raise FileError(f"cannot write to stdout: {error.strerror}") from error

    def _print_rate(self) -> None:
        """Print the rate and the p90 of the last second on stderr."""
        import numpy as np

        self._print_results()
        now, last = time.monotonic(), self._total_ms[self._rate_frame :]
        print(
            f"{len(last) / (now - self._rate_s):.1f} frames/s, p90 {np.percentile(last, 90):.2f} "
            f"ms, model {self._runtime.model.name}", file=sys.stderr, flush=True,
        )  # fmt: skip
        self._rate_s, self._rate_frame = now, len(self._total_ms)
