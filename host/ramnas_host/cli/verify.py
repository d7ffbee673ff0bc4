"""`ramnas verify`: a front -> the front with true accuracies and measured costs."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from ramnas_edge.cli.terminal import Verbs, add_verb
from ramnas_host.cli import front_output, measuring
from ramnas_host.cli.options import REPORT_NOTE, data_option, device_option, supernet_option

if TYPE_CHECKING:
    from ramnas_host.search.front import Front
    from ramnas_host.training.truth import Truth
    from ramnas_models.space import Space

log = logging.getLogger(__name__)


def add(verbs: Verbs) -> None:
    """Add this verb to the command line."""
    verify = add_verb(
        verbs, "verify",
        help="measure the front that a search predicted",
        purpose="Measures what ramnas search predicted: the accuracy of every candidate on the "
        "report split, which nothing was chosen by, and its latency and energy on your boards.",
        example="ramnas verify --front front.json --supernet supernet.safetensors "
        "--store records.sqlite --local-agent --out verified.json",
    )  # fmt: skip
    verify.add_argument(
        "--front", type=Path, required=True, metavar="front.json",
        help="the front that ramnas search wrote",
    )  # fmt: skip
    supernet_option(verify)
    data_option(verify)
    device_option(verify)
    verify.add_argument(
        "--out", type=Path, required=True, metavar="verified.json",
        help="the front to write, with its measured values; verified.accuracies.jsonl beside it "
        "keeps the accuracy of every candidate as soon as it is known, so that the same command "
        "goes on after a stop; delete it to evaluate again",
    )  # fmt: skip
    front_output.csv_option(verify)
    measuring.fleet_options(verify)
    verify.set_defaults(call=_verify)


def _verify(args: argparse.Namespace) -> None:
    from ramnas_host.data.datasets import dataset_of
    from ramnas_host.search import front, front_bundle
    from ramnas_host.training import checkpoint, distributed
    from ramnas_host.training.truth import Truth, beside

    found, loaded = front.load(args.front), checkpoint.load(args.supernet)
    front_bundle.check_space(loaded, found)
    dataset = dataset_of(loaded.about, args.data)
    with distributed.started(args.device) as ranks:
        truth = Truth(loaded.net, dataset, ranks=ranks, path=beside(args.out))
        truth.lead(lambda: _led(args, loaded.net.space, found, truth))


def _led(args: argparse.Namespace, space: Space, found: Front, truth: Truth) -> None:
    """Verify the front on this process alone; `truth` has all processes evaluate."""
    from ramnas_edge.measuring.request import Request
    from ramnas_edge.measuring.store import Store
    from ramnas_host.cli.progress import bar
    from ramnas_host.report import tables
    from ramnas_host.search import family, verification
    from ramnas_host.search.labels import labels_of
    from ramnas_models.accuracy import share

    archs = [candidate.arch for candidate in found.candidates]
    if not all(candidate.accuracy("selection") for candidate in found.candidates):
        with bar("true accuracy on selection", len(archs)) as update:
            scores = truth(archs, "selection", update)
        top1 = [share("top1", one.top1, "selection", one.n) for one in scores]
        found = verification.with_selection(found, top1)
    with bar("true accuracy of the front", len(archs)) as update:
        scores = truth(archs, "report", update)
    for run, target in verification.runs(found.objectives, args.run).items():
        request = Request(run, space, target, archs, args.rounds)
        measuring.measure(args, request, json_lines=args.json_lines)
    records = verification.verification_records(Store(args.store), found, args.run)
    top1 = [share("top1", one.top1, "report", one.n) for one in scores]
    verified = verification.verified(found, top1, records)
    front_output.write(args, verified)
    print(tables.table(verified))
    if any(candidate.name for candidate in verified.candidates):
        print(family.table(verified))
    label = labels_of(verified.objectives).objectives  # the table has explained the short names
    for name, (tau, count) in verification.agreement(verified).items():
        result = "no order to compare" if tau is None else f"tau {tau:.3f}"
        print(f"{label[name]}, predicted against measured, {count} candidates: {result}")
        if tau is not None and tau < verification.MIN_TAU:
            log.warning(
                "the predicted order of %s is a poor guide (tau %.2f, below %g): measure more "
                "archs before the search, or rely on the measured values",
                label[name], tau, verification.MIN_TAU,
            )  # fmt: skip
    for name, arch_ids in verification.unmeasured(verified).items():
        log.warning(
            "no valid measurement of %s for %s; ramnas records show %s says why, and the same "
            "command with another --run measures them again",
            label[name], ", ".join(arch_ids), args.store,
        )  # fmt: skip
    print(f"measured top-1 is on the report split, n {scores[0].n}: {REPORT_NOTE}")
    print(f"verified front: {args.out}")
