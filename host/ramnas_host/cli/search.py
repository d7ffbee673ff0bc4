"""`ramnas search`: surrogates and NSGA-II -> the front of a supernet."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ramnas_host.cli import front_output, measuring
from ramnas_host.cli.options import data_option
from ramnas_models.errors import DataError
from ramnas_models.sampling import sample_by_macs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ramnas_models.space import Arch


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this verb to the command line."""
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
    measuring.board_options(search)
    search.add_argument("--candidates", type=int, default=24, help="how many of the front to keep")
    search.add_argument(
        "--family", type=int, metavar="N", help="name N of them A0, A1, ... in rising cost"
    )
    search.add_argument("--seed", type=int, default=0)
    search.add_argument("--out", type=Path, required=True, metavar="front.json")
    front_output.csv_option(search)
    search.set_defaults(call=_search)


def _search(args: argparse.Namespace) -> None:
    import numpy as np

    from ramnas_edge.measuring.request import Request
    from ramnas_edge.measuring.store import Store
    from ramnas_host.cli.progress import bar
    from ramnas_host.data.datasets import dataset_of
    from ramnas_host.search import family, front, infill, objectives, verification
    from ramnas_host.surrogates.prior_boards import prior_boards
    from ramnas_host.training import checkpoint
    from ramnas_host.training.evaluate import true_scores

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
        records = objectives.records_in_runs(store, args.run or ["calibration"])
        if args.prior_run:
            boards = prior_boards(objectives.records_in_runs(store, args.prior_run), space)
        store.close()
    elif args.prior_run:
        raise DataError("--prior-run: name the --store that holds these runs")
    known = objectives.read_objectives(args.objectives, records, space)
    constraints = [
        objectives.read_constraint(text, known, records, space) for text in args.constraint
    ]
    asked = [one.objective for one in known]
    if args.measure:
        measuring.check_rounds(args)
        if not any(one.target for one in asked):
            raise DataError("--measure: no objective of these is measured on a board")
    dataset = dataset_of(loaded.about, args.data)
    archs = sample_by_macs(space, np.random.default_rng(args.seed), args.accuracy_samples)

    def measured(new: Sequence[Arch]) -> list[objectives.Known]:
        targets = verification.runs(asked, args.measure)
        for run, target in targets.items():
            request = Request(run, space, target, new, args.rounds, args.seed)
            measuring.served(args, request, lambda s: update(note=f"measured {s.done}/{s.total}"))
        store = Store(args.store)
        verification.records_by_objective(store, asked, space.hash, args.measure)  # all boards came
        records = objectives.records_in_runs(store, [*(args.run or ["calibration"]), *targets])
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
    front_output.write(args, found)
    print(f"front of {len(found.candidates)} candidates: {args.out}")
