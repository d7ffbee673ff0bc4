"""`ramnas-edge calibrate`: measure every model of a bundle on this board, without a host."""

from __future__ import annotations

import argparse

from ramnas_edge.cli.profile import add_board_settings, hw
from ramnas_edge.cli.run import add_engine, count
from ramnas_edge.cli.terminal import Verbs, add_verb
from ramnas_models.errors import BackendError, DataError


def add(verbs: Verbs) -> None:
    """Add this verb to the command line."""
    calibrate = add_verb(
        verbs, "calibrate",
        help="measure a bundle's models here, so that latency budgets are kept",
        purpose="Measures whole calls of every model of a bundle on this board. `ramnas-edge run` "
        "and the ROS 2 node then choose the model that fits a latency budget by these latencies.",
        example="ramnas-edge calibrate --bundle DIR --frame 480x640",
    )  # fmt: skip
    calibrate.add_argument("--bundle", required=True, metavar="DIR", help="the bundle's folder")
    calibrate.add_argument(
        "--frame", type=hw, default=(480, 640), metavar="HxW",
        help="height and width of the camera's frames (default: 480x640)",
    )  # fmt: skip
    calibrate.add_argument(
        "--batch", type=count, default=1, metavar="N",
        help="how many cameras' frames one call takes (default: %(default)s)",
    )  # fmt: skip
    add_engine(calibrate)
    calibrate.add_argument(
        "--rounds", type=int, default=8, metavar="N",
        help="how often each model is visited, 8 times or more (default: %(default)s)",
    )  # fmt: skip
    calibrate.add_argument(
        "--into-manifest", action="store_true",
        help="write the latencies into the bundle too, for other boards of this class",
    )  # fmt: skip
    add_board_settings(calibrate)
    calibrate.set_defaults(call=_calibrate)


def _calibrate(args: argparse.Namespace) -> None:
    from ramnas_edge.board.clocks import board_settings
    from ramnas_edge.board.short_names import legend, short_names
    from ramnas_edge.cli.terminal import ProgressLine
    from ramnas_edge.measuring.record import FAILED, MIN_VISITS, OK, Target
    from ramnas_edge.runtime.bundle_calibration import calibrate_bundle, into_manifest

    if args.rounds < MIN_VISITS:
        raise DataError(f"--rounds {args.rounds}: a latency needs {MIN_VISITS} rounds or more")
    target = Target(
        frame_hw=args.frame, batch=args.batch, engine=args.engine, precision=args.precision,
        threads=args.threads,
    )  # fmt: skip
    line = ProgressLine("calibrate")
    with board_settings(lock_clocks=args.lock_clocks, power_mode=args.power_mode):
        path, found = calibrate_bundle(
            args.bundle, target, rounds=args.rounds,
            on_progress=lambda p: line.show(p.done + p.inside, p.total, p.note),
        )  # fmt: skip
    line.end()
    for model in found:
        record = model.record
        text = f"{model.task} {record.name} ({model.accuracy}): "
        if record.p90_ms is not None:
            text += f"p50 {record.p50_ms:.3f} ms, p90 {record.p90_ms:.3f} ms"
        print(text + ("" if record.validity == OK else f" {record.validity}: {record.reason}"))
    if found:
        names = short_names([model.record.device_class for model in found])
        print(f"calibrated for {'; '.join(names.values())}: {path}")
        for explanation in legend(names):
            print(f"  {explanation}")
    if args.into_manifest:
        print(f"wrote {into_manifest(args.bundle, found)} latencies into {args.bundle}")
    failed = [model.record.name for model in found if model.record.validity == FAILED]
    if failed:
        raise BackendError(f"not measured: {', '.join(failed)}; the reasons are above")
