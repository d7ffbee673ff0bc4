"""The verbs from a supernet to a verified front: calibrate, search, verify."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ramnas_host.verbs_train import data_option
from ramnas_models.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ramnas_host.fleet import Request
    from ramnas_models.space import Arch

_BIND = "tcp://127.0.0.1:5555"


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add these verbs to the command line."""
    calibrate = verbs.add_parser("calibrate", help="measure archs of a space on boards")
    calibrate.add_argument("--space", default="micro", help="name, or path of a .yaml")
    calibrate.add_argument("--samples", type=int, default=300, help="archs, spread in log MACs")
    calibrate.add_argument("--classes", type=int, default=1000)
    calibrate.add_argument("--engine", default="onnxruntime-cpu")
    calibrate.add_argument("--threads", type=int, default=1)
    calibrate.add_argument(
        "--frame", type=_hw, metavar="HxW",
        help="time whole runtime calls on frames of this size, not the engine alone",
    )  # fmt: skip
    calibrate.add_argument("--seed", type=int, default=0)
    _fleet_options(calibrate)
    calibrate.set_defaults(call=_calibrate)

    search = verbs.add_parser("search", help="fit surrogates and find the front")
    search.add_argument("--supernet", type=Path, required=True)
    data_option(search)
    search.add_argument("--store", type=Path, required=True, metavar="records.sqlite")
    search.add_argument("--run", default="calibration")
    search.add_argument("--device", help="device class, if the run has several")
    search.add_argument("--accuracy-samples", type=int, default=150)
    search.add_argument("--population", type=int, default=5120)
    search.add_argument("--parents", type=int, default=2560)
    search.add_argument("--generations", type=int, default=30)
    search.add_argument("--p-mutation", type=float, default=0.2)
    search.add_argument(
        "--infill-rounds", type=int, default=4, metavar="N",
        help="searches, each followed by true evaluations that the accuracy surrogate learns from",
    )  # fmt: skip
    search.add_argument("--candidates", type=int, default=24, help="how many of the front to keep")
    search.add_argument("--seed", type=int, default=0)
    search.add_argument("--out", type=Path, required=True, metavar="front.json")
    search.set_defaults(call=_search)

    verify = verbs.add_parser("verify", help="true accuracy and measured latency of a front")
    verify.add_argument("--front", type=Path, required=True)
    verify.add_argument("--supernet", type=Path, required=True)
    data_option(verify)
    verify.add_argument("--out", type=Path, required=True, metavar="verified.json")
    _fleet_options(verify)
    verify.set_defaults(call=_verify)


def _fleet_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--store", type=Path, required=True, metavar="records.sqlite")
    verb.add_argument("--run", default=verb.prog.split()[-1], help="name of the run in the store")
    verb.add_argument("--rounds", type=int, default=8, help="visits of each arch, at least 8")
    verb.add_argument("--bind", default=_BIND, metavar="tcp://HOST:PORT")
    verb.add_argument(
        "--local-agent", action="store_true", help="start one agent on this machine and end it"
    )


def _hw(text: str) -> tuple[int, int]:
    try:
        height, width = (int(part) for part in text.split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not HxW, such as 480x640") from None
    return height, width


def _calibrate(args: argparse.Namespace) -> None:
    import numpy as np

    from ramnas_edge.record import Target
    from ramnas_host.fleet import Request
    from ramnas_models.space import load_space

    space = load_space(args.space)
    target = Target(
        num_classes=args.classes, frame_hw=args.frame, engine=args.engine, threads=args.threads
    )
    archs = space.sample_by_macs(np.random.default_rng(args.seed), args.samples)
    _measure(args, Request(args.run, space, target, archs, args.rounds, args.seed))


def _search(args: argparse.Namespace) -> None:
    from ramnas_host import checkpoint, front
    from ramnas_host.datasets import dataset_of
    from ramnas_host.evaluate import true_scores
    from ramnas_host.progress import bar
    from ramnas_host.store import Store, of_one_device

    loaded = checkpoint.load(args.supernet)
    space = loaded.net.space
    if not args.store.is_file():
        raise DataError(f"{args.store} does not exist; ramnas calibrate makes it")
    records = of_one_device(Store(args.store), args.run, space.hash, args.device)
    ends = [space.min(), space.max()]
    archs = ends + [r.arch for r in records if r.arch not in ends][: args.accuracy_samples - 2]
    dataset = dataset_of(loaded.about, args.data)
    settings = front.Settings(
        args.population, args.parents, args.generations, args.p_mutation, args.seed,
        args.infill_rounds,
    )  # fmt: skip

    def true(archs: Sequence[Arch], on_done: Callable[[int], None]) -> list[float]:
        found = true_scores(loaded.net, archs, dataset, "validation", on_done=on_done)
        return [s.top1 for s in found]

    with bar("true accuracy of samples", len(archs)) as update:
        samples = list(zip(archs, true(archs, update), strict=True))
    with bar("search", args.infill_rounds * args.generations) as update:
        found = front.find(
            space,
            records,
            samples,
            lambda new: true(new, lambda done: update(note=f"true accuracy {done}/{len(new)}")),
            settings,
            most=args.candidates,
            on_generation=lambda generation: update(generation, "NSGA-II"),
        )
    front.save(found, args.out)
    for target, chosen in found.surrogates.items():
        for family, score in chosen.scores.items():
            print(
                f"{target} {family:4}: tau {score.tau:.3f}, rho {score.rho:.3f}, "
                f"MAPE {score.mape:.1%}{'  <- chosen' if family == chosen.family else ''}"
            )
    print(f"front of {len(found.candidates)} candidates: {args.out}")


def _verify(args: argparse.Namespace) -> None:
    from ramnas_host import checkpoint, front
    from ramnas_host.datasets import dataset_of
    from ramnas_host.evaluate import true_scores
    from ramnas_host.fleet import Request
    from ramnas_host.progress import bar
    from ramnas_host.store import Store, of_one_device

    found, loaded = front.load(args.front), checkpoint.load(args.supernet)
    space = loaded.net.space
    archs = [candidate.arch for candidate in found.candidates]
    dataset = dataset_of(loaded.about, args.data)
    with bar("true accuracy of the front", len(archs)) as update:
        scores = true_scores(loaded.net, archs, dataset, "validation", on_done=update)
    _measure(args, Request(args.run, space, found.target, archs, args.rounds))
    records = of_one_device(Store(args.store), args.run, space.hash, found.device_class)
    verified = front.verified(found, [s.top1 for s in scores], records)
    front.save(verified, args.out)
    print(front.table(verified))
    print(f"verified front: {args.out}")


def _measure(args: argparse.Namespace, request: Request) -> None:
    """Have the request measured by the boards that come, or by one agent started here."""
    from ramnas_edge.record import MIN_VISITS
    from ramnas_host import fleet
    from ramnas_host.progress import bar
    from ramnas_host.store import Store

    if args.rounds < MIN_VISITS:
        raise DataError(f"--rounds {args.rounds}: a record needs {MIN_VISITS} visits or more")
    store = Store(args.store)
    total = len(request.archs)
    log = args.store.with_name("agent.log") if args.local_agent else None
    bind = "tcp://127.0.0.1:*" if args.local_agent and args.bind == _BIND else args.bind
    try:
        with bar(f"measure {request.run}", total) as update:
            classes = fleet.calibrate(
                request, store, bind=bind, local_agent_log=log,
                on_progress=lambda p: update(p.done + p.inside, f"{p.boards} board(s)"),
            )  # fmt: skip
        for device_class in classes:
            counts = store.count(request.run, device_class)
            print(f"{device_class}: {counts}")
    finally:
        store.close()
    print(f"records: run '{request.run}' in {args.store}")
