"""`ramnas verify`: the true accuracy and the measured latency of a front."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from ramnas_host.cli import front_output, measuring
from ramnas_host.cli.options import data_option

log = logging.getLogger(__name__)


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this verb to the command line."""
    verify = verbs.add_parser("verify", help="true accuracy and measured latency of a front")
    verify.add_argument("--front", type=Path, required=True)
    verify.add_argument("--supernet", type=Path, required=True)
    data_option(verify)
    verify.add_argument("--out", type=Path, required=True, metavar="verified.json")
    front_output.csv_option(verify)
    measuring.fleet_options(verify)
    verify.set_defaults(call=_verify)


def _verify(args: argparse.Namespace) -> None:
    from ramnas_edge.measuring.request import Request
    from ramnas_edge.measuring.store import Store
    from ramnas_host.cli.progress import bar
    from ramnas_host.data.datasets import dataset_of
    from ramnas_host.report import tables
    from ramnas_host.search import family, front, front_bundle, verification
    from ramnas_host.training import checkpoint
    from ramnas_host.training.evaluate import true_scores

    found, loaded = front.load(args.front), checkpoint.load(args.supernet)
    front_bundle.check_space(loaded, found)
    space = loaded.net.space
    archs = [candidate.arch for candidate in found.candidates]
    dataset = dataset_of(loaded.about, args.data)
    with bar("true accuracy of the front", len(archs)) as update:
        scores = true_scores(loaded.net, archs, dataset, "validation", on_done=update)
    for run, target in verification.runs(found.objectives, args.run).items():
        request = Request(run, space, target, archs, args.rounds)
        measuring.measure(args, request, json_lines=args.json_lines)
    records = verification.verification_records(Store(args.store), found, args.run)
    verified = verification.verified(found, [s.top1 for s in scores], records)
    front_output.write(args, verified)
    print(tables.table(verified))
    if any(candidate.name for candidate in verified.candidates):
        print(family.table(verified))
    for name, (tau, count) in verification.agreement(verified).items():
        how = "no order to compare" if tau is None else f"tau {tau:.3f}"
        print(f"{name}: predicted and measured of {count} candidates: {how}")
        if tau is not None and tau < verification.MIN_TAU:
            log.warning(
                "the order predicted for %s is a poor guide (tau %.2f, below %g): measure more "
                "archs, or go by the measured figures", name, tau, verification.MIN_TAU,
            )  # fmt: skip
    for name, arch_ids in verification.unmeasured(verified).items():
        log.warning(
            "no valid measurement of %s: %s; ramnas records show %s says why, and with another "
            "--run the same command measures anew", name, ", ".join(arch_ids), args.store,
        )  # fmt: skip
    print(f"verified front: {args.out}")
