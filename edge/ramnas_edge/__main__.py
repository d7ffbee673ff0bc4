"""`ramnas-edge`: the commands on a board. One verb, one call, one print."""

from __future__ import annotations

import argparse
import sys
from typing import List, Optional

from ramnas_edge.cli import guarded


def main(argv: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(prog="ramnas-edge", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    agent = verbs.add_parser("agent", help="measure networks for a host")
    agent.add_argument("--connect", required=True, metavar="tcp://HOST:PORT")
    agent.add_argument("--name", help="this board's name at the host (default: host name)")
    agent.add_argument(
        "--give-up-s", type=float, metavar="S", help="end after S seconds without a host"
    )
    agent.set_defaults(call=_agent)

    run = verbs.add_parser("run", help="run the model of a bundle that fits a latency budget")
    run.add_argument("--bundle", required=True, metavar="DIR")
    run.add_argument("--latency-budget-ms", type=float, metavar="X", help="p90 of a whole call")
    run.add_argument("--source", required=True, metavar="IMAGE_OR_DIR")
    run.add_argument("--repeat", type=_count, default=1, metavar="N", help="times over the source")
    run.add_argument(
        "--engine", default="onnxruntime-cpu", help="name, or auto: the fastest that works here"
    )
    run.add_argument("--threads", type=int, default=1)
    run.add_argument("--json", action="store_true", help="one JSON line a frame, then a summary")
    run.set_defaults(call=_run)

    doctor = verbs.add_parser("doctor", help="what this machine is, what works, what to mend")
    doctor.add_argument("--json", action="store_true", help="the report as JSON")
    doctor.set_defaults(call=_doctor)

    args = parser.parse_args(argv)
    return guarded(lambda: args.call(args))


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of 1 or more")
    return int(text)


def _agent(args: argparse.Namespace) -> None:
    from ramnas_edge import agent

    agent.serve(args.connect, name=args.name, give_up_s=args.give_up_s)


def _doctor(args: argparse.Namespace) -> None:
    import msgspec

    from ramnas_edge import doctor
    from ramnas_models.errors import BackendError

    report = doctor.examine(on_step=lambda step: print(step, file=sys.stderr))
    print(msgspec.json.encode(report).decode() if args.json else doctor.text(report))
    if not any(engine.works for engine in report.engines):
        raise BackendError("no engine works on this machine; the report says what to do")


def _run(args: argparse.Namespace) -> None:
    import itertools

    import msgspec
    import numpy as np

    from ramnas_edge.runtime import Runtime
    from ramnas_edge.sources import batches, list_images

    source = batches(list_images(args.source) * args.repeat)
    first = next(source)
    with Runtime.open(
        args.bundle,
        latency_budget_ms=args.latency_budget_ms,
        engine=args.engine,
        threads=args.threads,
        frame_hw=first[0][1].shape[:2],
    ) as runtime:
        totals = []
        for batch in itertools.chain([first], source):
            results = [(path, runtime(frame)) for path, frame in batch]
            for path, result in results:
                totals.append(result.timing.total_ms)
                if args.json:
                    line = {"image": str(path), "labels": result.labels, "timing": result.timing}
                    print(msgspec.json.encode(line).decode())
                else:
                    print(f"{path}: {result.labels.name} ({result.labels.score:.2f})")
        choice = runtime.choice
        p50, p90 = np.percentile(totals, [50, 90]).tolist()
        if args.json:
            summary = {
                "model": choice.model.arch_id,
                "latency_budget_ms": args.latency_budget_ms,
                "expected_p90_ms": choice.p90_ms,
                "expected_from": choice.source,
                "frames": len(totals),
                "p50_ms": p50,
                "p90_ms": p90,
            }
            print(msgspec.json.encode({"summary": summary}).decode())
        else:
            print(
                f"model {choice.model.arch_id}: {len(totals)} frames, p50 {p50:.3f} ms, "
                f"p90 {p90:.3f} ms (expected {choice.p90_ms:.3f} ms, {choice.source})"
            )


if __name__ == "__main__":
    sys.exit(main())
