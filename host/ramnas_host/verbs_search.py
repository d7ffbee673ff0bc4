"""The verbs from a supernet to a verified front: search and verify."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from ramnas_host import verbs_fleet
from ramnas_host.verbs_train import data_option
from ramnas_models.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ramnas_host.front import Front
    from ramnas_models.space import Arch

log = logging.getLogger(__name__)


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add these verbs to the command line."""
    search = verbs.add_parser("search", help="fit surrogates and find the front")
    search.add_argument("--supernet", type=Path, required=True)
    data_option(search)
    search.add_argument(
        "--objectives", default="top1,latency", metavar="top1,latency@DEVICE[:TASK],...",
        help="besides top1: latency and energy of a board (DEVICE: a device class of the store, or "
        "a part of its name), macs",
    )  # fmt: skip
    search.add_argument(
        "--constraint", action="append", default=[], metavar="latency@DEVICE<=20",
        help="of an objective; may be given several times",
    )  # fmt: skip
    search.add_argument(
        "--store", type=Path, metavar="records.sqlite", help="of latency and energy"
    )
    search.add_argument(
        "--run", action="append", help="of the store (default: calibration); may be given again"
    )
    search.add_argument(
        "--prior-run", action="append", default=[], metavar="RUN",
        help="of the store: records of boards measured before, which the latencies of others start "
        "from; 8 records of a board do then",
    )  # fmt: skip
    search.add_argument("--accuracy-samples", type=int, default=150)
    search.add_argument("--population", type=int, default=5120)
    search.add_argument("--parents", type=int, default=2560)
    search.add_argument("--generations", type=int, default=30)
    search.add_argument("--p-mutation", type=float, default=0.2)
    search.add_argument(
        "--infill-rounds", type=int, default=4, metavar="N",
        help="at most so many searches, each followed by true evaluations that the accuracy "
        "surrogate learns from; fewer when the front grows no more",
    )  # fmt: skip
    search.add_argument(
        "--measure", nargs="?", const="infill", metavar="RUN",
        help="have the chosen ones of every infill round measured on boards, too, into this run of "
        "the store (infill, if it is not named)",
    )  # fmt: skip
    verbs_fleet.board_options(search)
    search.add_argument("--candidates", type=int, default=24, help="how many of the front to keep")
    search.add_argument(
        "--family", type=int, metavar="N", help="name N of them A0, A1, ... in rising cost"
    )
    search.add_argument("--seed", type=int, default=0)
    search.add_argument("--out", type=Path, required=True, metavar="front.json")
    _csv_option(search)
    search.set_defaults(call=_search)

    verify = verbs.add_parser("verify", help="true accuracy and measured latency of a front")
    verify.add_argument("--front", type=Path, required=True)
    verify.add_argument("--supernet", type=Path, required=True)
    data_option(verify)
    verify.add_argument("--out", type=Path, required=True, metavar="verified.json")
    _csv_option(verify)
    verbs_fleet.fleet_options(verify)
    verify.set_defaults(call=_verify)


def _csv_option(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--csv", action="store_true", help="write it as .csv too, beside --out")


def _search(args: argparse.Namespace) -> None:
    import numpy as np

    from ramnas_edge.request import Request
    from ramnas_edge.store import Store
    from ramnas_host import checkpoint, family, front, infill, objectives, verification
    from ramnas_host.datasets import dataset_of
    from ramnas_host.evaluate import true_scores
    from ramnas_host.prior_boards import prior_boards
    from ramnas_host.progress import bar

    settings = front.Settings(
        args.population, args.parents, args.generations, args.p_mutation, args.seed,
        args.infill_rounds,
    )  # fmt: skip
    for name in ("population", "parents", "generations", "candidates"):
        if getattr(args, name) < 2:
            raise DataError(f"--{name} {getattr(args, name)}: 2 or more")
    loaded = checkpoint.load(args.supernet)
    space = loaded.net.space
    records, boards = [], {}
    if args.store:
        if not args.store.is_file():
            raise DataError(f"{args.store} does not exist; ramnas calibrate makes it")
        store = Store(args.store)
        records = objectives.records_of(store, args.run or ["calibration"])
        if args.prior_run:
            boards = prior_boards(objectives.records_of(store, args.prior_run), space)
        store.close()
    elif args.prior_run:
        raise DataError("--prior-run: name the --store that holds these runs")
    known = objectives.read_objectives(args.objectives, records, space)
    constraints = [
        objectives.read_constraint(text, known, records, space) for text in args.constraint
    ]
    asked = [one.objective for one in known]
    if args.measure:
        verbs_fleet.check_rounds(args)
        if not any(one.target for one in asked):
            raise DataError("--measure: no objective of these is measured on a board")
    dataset = dataset_of(loaded.about, args.data)
    archs = space.sample_by_macs(np.random.default_rng(args.seed), args.accuracy_samples)

    def measured(new: Sequence[Arch]) -> list[objectives.Known]:
        targets = verification.runs(asked, args.measure)
        for run, target in targets.items():
            request = Request(run, space, target, new, args.rounds, args.seed)
            verbs_fleet.served(args, request, lambda s: update(note=f"measured {s.done}/{s.total}"))
        store = Store(args.store)
        verification.records_by_objective(store, asked, space.hash, args.measure)  # all boards came
        records = objectives.records_of(store, [*(args.run or ["calibration"]), *targets])
        store.close()
        return objectives.read_objectives(",".join(one.name for one in asked), records, space)

    def true(archs: Sequence[Arch], on_done: Callable[[int], None]) -> list[float]:
        found = true_scores(loaded.net, archs, dataset, "validation", on_done=on_done)
        return [s.top1 for s in found]

    with bar("true accuracy of samples", len(archs)) as update:
        samples = list(zip(archs, true(archs, update), strict=True))
    generations = args.infill_rounds * args.generations
    with bar("search", generations) as update:
        found = infill.find(
            space,
            known,
            samples,
            lambda new: true(new, lambda done: update(note=f"true accuracy {done}/{len(new)}")),
            settings,
            constraints=constraints,
            boards=boards,
            most=args.candidates,
            measure=measured if args.measure else None,
            on_generation=lambda generation: update(generation, "NSGA-II"),
        )
        update(generations, f"{len(found.hypervolumes) - 1} round(s)")
    for name, chosen in found.surrogates.items():
        for kind, score in chosen.scores.items():
            print(
                f"{name} {kind:4}: tau {score.tau:.3f}, rho {score.rho:.3f}, "
                f"MAPE {score.mape:.1%}{'  <- chosen' if kind == chosen.family else ''}"
            )
    if args.family is not None:
        found = family.named(found, args.family)
        print(family.table(found))
    _write(args, found)
    print(f"front of {len(found.candidates)} candidates: {args.out}")


def _verify(args: argparse.Namespace) -> None:
    from ramnas_edge.request import Request
    from ramnas_edge.store import Store
    from ramnas_host import bundling, checkpoint, family, front, report, verification
    from ramnas_host.datasets import dataset_of
    from ramnas_host.evaluate import true_scores
    from ramnas_host.progress import bar

    found, loaded = front.load(args.front), checkpoint.load(args.supernet)
    bundling.check_space(loaded, found)
    space = loaded.net.space
    archs = [candidate.arch for candidate in found.candidates]
    dataset = dataset_of(loaded.about, args.data)
    with bar("true accuracy of the front", len(archs)) as update:
        scores = true_scores(loaded.net, archs, dataset, "validation", on_done=update)
    for run, target in verification.runs(found.objectives, args.run).items():
        request = Request(run, space, target, archs, args.rounds)
        verbs_fleet.measure(args, request, json_lines=args.json_lines)
    records = verification.records_of(Store(args.store), found, args.run)
    verified = verification.verified(found, [s.top1 for s in scores], records)
    _write(args, verified)
    print(report.table(verified))
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


def _write(args: argparse.Namespace, found: Front) -> None:
    from ramnas_host import front, report
    from ramnas_host.verbs_records import csv_of
    from ramnas_models.files import write_file

    front.save(found, args.out)
    if args.csv:
        write_file(args.out.with_suffix(".csv"), csv_of(report.rows(found)))
        print(f"as a table: {args.out.with_suffix('.csv')}")
