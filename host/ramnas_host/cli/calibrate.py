"""`ramnas calibrate`: archs of a space -> latencies measured on boards."""

from __future__ import annotations

import argparse

from ramnas_edge.cli.profile import add_target, target_of
from ramnas_edge.cli.terminal import Verbs, add_verb
from ramnas_host.cli import measuring


def add(verbs: Verbs) -> None:
    """Add this verb to the command line."""
    calibrate = add_verb(
        verbs, "calibrate",
        help="measure archs of a space on boards",
        purpose="Measures archs of a space on your boards, so that ramnas search can predict the "
        "latency of all others. Each board runs `ramnas-edge agent --connect` with the address "
        "of --bind. After an interruption the same command continues with what is missing.",
        example="ramnas calibrate --space table1 --store records.sqlite --local-agent",
    )  # fmt: skip
    calibrate.add_argument(
        "--space", default="micro",
        help="the space's name, or the path of its .yaml (default: %(default)s)",
    )  # fmt: skip
    calibrate.add_argument(
        "--samples", type=int, default=300, metavar="N",
        help="how many archs each device class measures. A quarter of them is the same for all "
        "classes: archs whose parts differ most in cost. The others are spread in log MACs "
        "(default: %(default)s)",
    )  # fmt: skip
    add_target(calibrate)
    calibrate.add_argument(
        "--seed", type=int, default=0, metavar="N",
        help="seed for drawing archs and for the order of measuring (default: %(default)s)",
    )  # fmt: skip
    calibrate.add_argument(
        "--until-tau", type=float, metavar="TAU",
        help="end a device class early: when the cross-validated Kendall tau of its latency "
        "surrogate was TAU or more in three fits in a row",
    )  # fmt: skip
    measuring.fleet_options(calibrate)
    calibrate.set_defaults(call=_calibrate)


def _calibrate(args: argparse.Namespace) -> None:
    from ramnas_host.fleet.first_archs import first_request
    from ramnas_host.fleet.until_tau import UntilTau
    from ramnas_models.space import load_space

    request = first_request(
        args.run, load_space(args.space), target_of(args), args.samples, rounds=args.rounds,
        seed=args.seed,
    )  # fmt: skip
    until_tau = None if args.until_tau is None else UntilTau(request.space, args.until_tau)
    measuring.measure(args, request, until_tau=until_tau, json_lines=args.json_lines)
