"""`ramnas search`: a supernet and measured records -> the front of its best networks."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ramnas_edge.cli.terminal import Verbs, add_verb
from ramnas_host.cli import front_output, measuring
from ramnas_host.cli.options import (
    at_least,
    data_option,
    device_option,
    enough_to_learn,
    supernet_option,
)
from ramnas_models.errors import DataError
from ramnas_models.sampling import sample_by_macs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ramnas_host.training.truth import Truth
    from ramnas_models.space import Arch, Space


def add(verbs: Verbs) -> None:
    """Add this verb to the command line."""
    search = add_verb(
        verbs, "search",
        help="find the networks that are best on your boards",
        purpose="Finds the networks of a supernet with the best trade-offs between accuracy and "
        "cost on your boards. Surrogates learn from the measured records and predict all other "
        "networks.",
        example="ramnas search --supernet supernet.safetensors --store records.sqlite "
        "--out front.json",
    )  # fmt: skip
    supernet_option(search)
    data_option(search)
    device_option(search)
    search.add_argument(
        "--objectives", default="top1,latency", metavar="top1,latency@DEVICE[:TASK],...",
        help="what to optimise: top1 and one or more of macs, latency@DEVICE and energy@DEVICE; "
        "DEVICE is a device class of the store or a part of its name, and may be left out if there "
        "is only one (default: top1,latency)",
    )  # fmt: skip
    search.add_argument(
        "--constraint", action="append", default=[], metavar="latency@DEVICE<=20",
        help="a limit on one of the objectives; may be given several times",
    )  # fmt: skip
    search.add_argument(
        "--store", type=Path, metavar="records.sqlite",
        help="the measured records from which latency and energy are learnt",
    )  # fmt: skip
    search.add_argument(
        "--run", action="append",
        help="run of the store to learn from; may be given several times (default: calibration)",
    )  # fmt: skip
    search.add_argument(
        "--prior-run", action="append", default=[], metavar="RUN",
        help="run of the store with records of other boards, from which the latency surrogates "
        "start, so that 8 records of a new board are enough; may be given several times",
    )  # fmt: skip
    search.add_argument(
        "--accuracy-samples", type=int, default=150, metavar="N",
        help="archs whose true top-1 the accuracy surrogate learns from (default: 150)",
    )  # fmt: skip
    for name, default, words in (
        ("population", 5120, "archs in the population of each generation"),
        ("parents", 2560, "archs of each generation that have offspring"),
        ("generations", 30, "generations of each search"),
    ):
        search.add_argument(
            f"--{name}",
            type=int,
            default=default,
            metavar="N",
            help=f"{words} (default: {default})",
        )
    search.add_argument(
        "--p-mutation", type=float, default=0.2, metavar="P",
        help="probability that a choice of an offspring mutates (default: 0.2)",
    )  # fmt: skip
    search.add_argument(
        "--infill-rounds", type=at_least(0), default=4, metavar="N",
        help="the largest number of rounds: a search, then true evaluations of promising archs, "
        "from which the surrogates learn; fewer when the front stops growing (default: 4)",
    )  # fmt: skip
    search.add_argument(
        "--measure", nargs="?", const="infill", metavar="RUN",
        help="also have boards measure the archs chosen in each infill round, into this run of the "
        "store (infill, if no name follows)",
    )  # fmt: skip
    measuring.board_options(search)
    search.add_argument(
        "--candidates", type=int, default=24, metavar="N",
        help="the largest number of candidates that the front keeps (default: 24)",
    )  # fmt: skip
    search.add_argument(
        "--family", type=int, metavar="N",
        help="name N of the candidates A0, A1, ... from cheap to costly",
    )  # fmt: skip
    search.add_argument(
        "--seed", type=int, default=0,
        help="seed of the search; the same seed gives the same front (default: 0)",
    )  # fmt: skip
    search.add_argument(
        "--out", type=Path, required=True, metavar="front.json",
        help="the front to write; front.accuracies.jsonl beside it keeps the accuracy of every "
        "arch as soon as it is known, so that the same command goes on after a stop; delete it to "
        "evaluate again",
    )  # fmt: skip
    front_output.csv_option(search)
    search.set_defaults(call=_search)


def _search(args: argparse.Namespace) -> None:
    from ramnas_host.data.datasets import dataset_of
    from ramnas_host.training import checkpoint, distributed
    from ramnas_host.training.truth import Truth, beside

    loaded = checkpoint.load(args.supernet)
    dataset = dataset_of(loaded.about, args.data)
    with distributed.started(args.device) as ranks:
        truth = Truth(loaded.net, dataset, ranks=ranks, path=beside(args.out))
        truth.lead(lambda: _led(args, loaded.net.space, dataset.name, truth))


def _led(args: argparse.Namespace, space: Space, dataset: str, truth: Truth) -> None:
    """Search on this process alone; `truth` has all processes evaluate."""
    import numpy as np

    from ramnas_edge.measuring.request import Request
    from ramnas_edge.measuring.store import Store
    from ramnas_host.cli.progress import bar
    from ramnas_host.search import family, front, infill, objectives, verification
    from ramnas_host.search.labels import labels_of
    from ramnas_host.surrogates.prior_boards import prior_boards

    settings = front.Settings(
        args.population, args.parents, args.generations, args.p_mutation, args.seed,
        args.infill_rounds,
    )  # fmt: skip
    for name in ("population", "parents", "generations", "candidates"):
        if getattr(args, name) < 2:
            raise DataError(f"--{name} {getattr(args, name)}: give 2 or more")
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
        raise DataError("--prior-run needs --store, the store that holds these runs")
    known = objectives.read_objectives(args.objectives, records, space)
    constraints = [
        objectives.read_constraint(text, known, records, space) for text in args.constraint
    ]
    asked = [one.objective for one in known]
    if args.measure:
        measuring.check_rounds(args)
        if not any(one.target for one in asked):
            raise DataError("--measure: none of these objectives is measured on a board")
    enough_to_learn("--accuracy-samples", args.accuracy_samples)
    archs = sample_by_macs(space, np.random.default_rng(args.seed), args.accuracy_samples)

    def measured(new: Sequence[Arch]) -> list[objectives.Observations]:
        targets = verification.runs(asked, args.measure)
        for run, target in targets.items():
            request = Request(run, space, target, new, args.rounds, args.seed)
            measuring.served(args, request, lambda s: update(note=f"measured {s.done}/{s.total}"))
        store = Store(args.store)
        # raises a DataError if a board did not come
        verification.records_by_objective(store, asked, space.hash, args.measure)
        records = objectives.records_in_runs(store, [*(args.run or ["calibration"]), *targets])
        store.close()
        return objectives.read_objectives(",".join(one.name for one in asked), records, space)

    def true(new: Sequence[Arch]) -> list[float]:
        found = truth(new, "selection", lambda n: update(note=f"true accuracy {n}/{len(new)}"))
        return [scores.top1 for scores in found]

    with bar("true accuracy of samples", len(archs)) as update:
        scores = truth(archs, "selection", update)
    generations = args.infill_rounds * args.generations
    with bar("search", generations) as update:
        found = infill.find_front(
            space,
            known,
            [(arch, one.top1) for arch, one in zip(archs, scores, strict=True)],
            true,
            settings,
            constraints=constraints,
            prior_boards=boards,
            most=args.candidates,
            images=scores[0].n,
            dataset=dataset,
            measure=measured if args.measure else None,
            on_generation=lambda generation: update(generation, "NSGA-II"),
        )
        update(generations, f"{len(found.hypervolumes) - 1} round(s)")
    labels = labels_of(found.objectives)
    for name, chosen in found.surrogates.items():
        for kind, score in chosen.scores.items():
            print(
                f"{labels.objectives[name]}, {kind:4}: {score.taus}, rho {score.rho:.3f}, "
                f"MAPE {score.mape:.1%}{'  <- chosen' if kind == chosen.family else ''}"
            )
    for line in labels.legend:
        print(line)
    if args.family is not None:
        found = family.name_candidates(found, args.family)
        print(family.table(found))
    front_output.write(args, found)
    print(f"front of {len(found.candidates)} candidates: {args.out}")
