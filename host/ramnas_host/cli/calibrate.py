"""`ramnas calibrate`: archs of a space -> latencies measured on boards."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ramnas_edge.cli.profile import add_target, target_of
from ramnas_host.cli import measuring
from ramnas_models.errors import DataError

if TYPE_CHECKING:
    from ramnas_edge.measuring.request import Request
    from ramnas_host.fleet.until_tau import UntilTau


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this verb to the command line."""
    calibrate = verbs.add_parser("calibrate", help="measure archs of a space on boards")
    calibrate.add_argument("--space", default="micro", help="name, or path of a .yaml")
    calibrate.add_argument(
        "--samples", type=int, default=300,
        help="archs of each device class: a quarter the same for all, far apart in what their "
        "parts cost, the others spread in log MACs",
    )  # fmt: skip
    add_target(calibrate)
    calibrate.add_argument("--seed", type=int, default=0)
    calibrate.add_argument(
        "--until-tau", type=float, metavar="TAU",
        help="end a device class early, when the cross-validated Kendall tau of its latency "
        "surrogate has held TAU over three refits",
    )  # fmt: skip
    measuring.fleet_options(calibrate)
    calibrate.set_defaults(call=_calibrate)


def _calibrate(args: argparse.Namespace) -> None:
    from ramnas_host.fleet.first_archs import first_request
    from ramnas_models.space import load_space

    request = first_request(
        args.run, load_space(args.space), target_of(args), args.samples, rounds=args.rounds,
        seed=args.seed,
    )  # fmt: skip
    until_tau = _until_tau(args, request)
    measuring.measure(args, request, until_tau=until_tau, json_lines=args.json_lines)


def _until_tau(args: argparse.Namespace, request: Request) -> UntilTau | None:
    if args.until_tau is None:
        return None
    if not 0 < args.until_tau < 1:
        raise DataError(f"--until-tau {args.until_tau}: between 0 and 1, such as 0.95")
    from ramnas_host.fleet.until_tau import UntilTau

    return UntilTau(request.space, args.until_tau)
