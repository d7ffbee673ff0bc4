"""`ramnas-edge calibrate_bundle`: measure every model of a bundle on this board, no host needed."""

from __future__ import annotations

import argparse

from ramnas_edge.cli.profile import add_board_settings, hw
from ramnas_edge.cli.run import add_engine, count
from ramnas_models.errors import BackendError, DataError


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verb = verbs.add_parser(
        "calibrate", help="measure the models of a bundle here, for its latency budgets"
    )
    verb.add_argument("--bundle", required=True, metavar="DIR")
    verb.add_argument(
        "--frame", type=hw, default=(480, 640), metavar="HxW", help="size of the camera's frames"
    )
    verb.add_argument(
        "--batch", type=count, default=1, metavar="N", help="cameras run as one batch"
    )
    add_engine(verb)
    verb.add_argument("--rounds", type=int, default=8, help="visits of each model, at least 8")
    verb.add_argument(
        "--into-manifest", action="store_true",
        help="write the figures into the bundle too, for other boards of this class",
    )  # fmt: skip
    add_board_settings(verb)
    verb.set_defaults(call=_calibrate)


def _calibrate(args: argparse.Namespace) -> None:
    from ramnas_edge.board.clocks import board_settings
    from ramnas_edge.cli.terminal import ProgressLine
    from ramnas_edge.measuring.record import FAILED, MIN_VISITS, OK, Target
    from ramnas_edge.runtime.bundle_calibration import calibrate_bundle, into_manifest

    if args.rounds < MIN_VISITS:
        raise DataError(f"--rounds {args.rounds}: a figure needs {MIN_VISITS} visits or more")
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
    for one in found:
        record = one.record
        said = f"{one.task} {record.arch_id} ({one.accuracy}): "
        if record.p90_ms is not None:
            said += f"p50 {record.p50_ms:.3f} ms, p90 {record.p90_ms:.3f} ms"
        print(said + ("" if record.validity == OK else f" {record.validity}: {record.reason}"))
    if found:
        print(f"calibrated for {found[0].record.device_class}: {path}")
    if args.into_manifest:
        print(f"{into_manifest(args.bundle, found)} figures written into {args.bundle}")
    failed = [one.record.arch_id for one in found if one.record.validity == FAILED]
    if failed:
        raise BackendError(f"not measured: {', '.join(failed)}; the reasons are above")
