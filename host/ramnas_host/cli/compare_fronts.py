"""`ramnas compare-fronts`: a front searched by MACs against one searched by latency (Fig. 4)."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from ramnas_edge.cli.terminal import Verbs, add_verb
from ramnas_host.cli import measuring
from ramnas_host.cli.options import (
    REPORT_NOTE,
    data_option,
    device_option,
    enough_to_learn,
    supernet_option,
)
from ramnas_models.errors import DataError
from ramnas_models.sampling import sample_by_macs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ramnas_edge.measuring.record import LatencyRecord
    from ramnas_edge.measuring.request import Request
    from ramnas_host.search.front import Front
    from ramnas_host.search.objectives import Observations
    from ramnas_host.training.checkpoint import Checkpoint
    from ramnas_host.training.evaluate import Scores
    from ramnas_host.training.truth import Truth
    from ramnas_models.space import Arch

log = logging.getLogger(__name__)

_SETTINGS = (
    "batches", "samples", "accuracy_samples", "candidates", "population", "parents", "generations",
    "infill_rounds", "rounds", "engine", "precision", "threads", "board", "seed",
)  # fmt: skip


def add(verbs: Verbs) -> None:
    """Add this verb to the command line."""
    verb = add_verb(
        verbs, "compare-fronts",
        help="show what a search by latency gains over one by MACs",
        purpose="Searches a supernet by MACs and by measured latency, measures both fronts on one "
        "class of board, and prints which front is better (Fig. 4 of the paper).",
        example="ramnas compare-fronts --supernet supernet.safetensors --store records.sqlite "
        "--local-agent --out runs/fronts",
    )  # fmt: skip
    supernet_option(verb)
    data_option(verb)
    device_option(verb)
    verb.add_argument(
        "--store", type=Path, required=True, metavar="records.sqlite",
        help="store for all measured records; what it holds already is not measured again",
    )  # fmt: skip
    verb.add_argument(
        "--out", type=Path, required=True, metavar="DIR",
        help="folder of the results; the same command goes on with what it holds, such as the "
        "accuracies that are known",
    )  # fmt: skip
    verb.add_argument(
        "--batches", type=int, nargs="+", default=[1, 8], metavar="N",
        help="batch sizes at which latency is measured and both fronts are compared (default: 1 8)",
    )  # fmt: skip
    verb.add_argument(
        "--board", default="any",
        help="a device class or a part of its name (default: the only class of the store)",
    )  # fmt: skip
    for name, text, words in (
        ("engine", "onnxruntime-cpu", "engine on the board"),
        ("precision", "fp32", "precision of the networks"),
    ):
        verb.add_argument(f"--{name}", default=text, help=f"{words} (default: {text})")
    for name, count, words in (
        ("threads", 1, "threads of the engine"),
        ("samples", 300, "archs measured at each batch size, for the surrogate of latency"),
        ("accuracy-samples", 150, "archs evaluated, for the surrogate of top-1"),
        ("candidates", 24, "the largest number of candidates of each front"),
        ("population", 5120, "archs in the population of each generation"),
        ("parents", 2560, "archs of each generation that have offspring"),
        ("generations", 30, "generations of each search"),
        ("infill-rounds", 4, "the largest number of rounds of search and true evaluation"),
        ("seed", 0, "seed of the archs and of the searches"),
    ):
        verb.add_argument(
            f"--{name}", type=int, default=count, metavar="N", help=f"{words} (default: {count})"
        )
    measuring.board_options(verb)
    verb.set_defaults(call=_compare)


def _compare(args: argparse.Namespace) -> None:
    from ramnas_host.data.datasets import dataset_of
    from ramnas_host.training import checkpoint, distributed
    from ramnas_host.training.truth import Truth

    loaded = checkpoint.load(args.supernet)
    dataset = dataset_of(loaded.about, args.data)
    with distributed.started(args.device) as ranks:
        truth = Truth(loaded.net, dataset, ranks=ranks, path=args.out / "accuracies.jsonl")
        truth.lead(lambda: _led(args, loaded, dataset.name, truth))


def _led(args: argparse.Namespace, loaded: Checkpoint, dataset: str, truth: Truth) -> None:
    """Search and compare on this process alone; `truth` has all processes evaluate."""
    from ramnas_host.report import plots
    from ramnas_host.search import comparison
    from ramnas_models.accuracy import share
    from ramnas_models.files import write_file

    _check_same(args)
    enough_to_learn("--samples", args.samples)
    enough_to_learn("--accuracy-samples", args.accuracy_samples)
    by_macs = comparison.own_front(_search(args, loaded, dataset, truth, "macs", []))
    measured = []
    for batch in args.batches:
        known = _calibrated(args, loaded, batch)
        front = _search(args, loaded, dataset, truth, f"latency-{batch}", known)
        by_latency = comparison.own_front(front)
        archs = {c.arch_id: c.arch for c in (*by_macs, *by_latency)}
        request = _request(args, loaded, f"fronts-{batch}", batch, [*archs.values()])
        records = _recorded(args, request, front.cost.device_class)
        measured.append((batch, by_latency, records))
    # only now, when nothing is left to choose
    archs = {c.arch_id: c.arch for c in by_macs}
    archs |= {c.arch_id: c.arch for _, by_latency, _ in measured for c in by_latency}
    top1 = {
        arch_id: share("top1", one.top1, "report", one.n)
        for arch_id, one in zip(archs, _evaluated(truth, [*archs.values()], "report"), strict=True)
    }
    found = [
        comparison.compare(batch, by_macs, by_latency, top1, records)
        for batch, by_latency, records in measured
    ]
    write_file(args.out / "comparison.json", _json(found))
    plots.plot_comparison(found, args.out / "fronts.png")
    print(comparison.table(found))
    for one in found:
        if one.unmeasured:
            log.warning(
                "batch %d: %d models are left out because they have no valid record: the board was "
                "too noisy; measure again into another --store, with more --rounds",
                one.batch, one.unmeasured,
            )  # fmt: skip
    print(f"top-1 is on the report split: {REPORT_NOTE}")
    print(f"plot: {args.out / 'fronts.png'}\nall values: {args.out / 'comparison.json'}")


def _check_same(args: argparse.Namespace) -> None:
    """DataError if `--out` was begun with another supernet or other settings than these."""
    from ramnas_host.search.front import FORMAT
    from ramnas_models.files import write_file

    now = {name: getattr(args, name) for name in _SETTINGS}
    now["front"] = FORMAT
    now["supernet"] = hashlib.sha256(args.supernet.read_bytes()).hexdigest()
    path = args.out / "settings.json"
    if path.exists():
        try:
            before = dict(json.loads(path.read_bytes()))
        except (ValueError, TypeError, RecursionError) as error:
            raise DataError(f"{path} is damaged ({error}): remove the folder {args.out}") from error
        changed = ", ".join(name for name in now if before.get(name) != now[name])
        if changed:
            raise DataError(
                f"{args.out} was begun with other settings ({changed}): choose another --out, or "
                "remove that folder"
            )
        return
    write_file(path, json.dumps(now, indent=1).encode())


def _calibrated(args: argparse.Namespace, loaded: Checkpoint, batch: int) -> list[Observations]:
    import numpy as np

    from ramnas_host.search import objectives

    space = loaded.net.space
    archs = sample_by_macs(space, np.random.default_rng(args.seed), args.samples)
    records = _recorded(args, _request(args, loaded, f"calibration-{batch}", batch, archs))
    return objectives.read_objectives(f"top1,latency@{args.board}", records, space)


def _request(
    args: argparse.Namespace, loaded: Checkpoint, run: str, batch: int, archs: list[Arch]
) -> Request:
    from ramnas_edge.measuring.record import Target
    from ramnas_edge.measuring.request import Request

    if batch < 1 or args.threads < 1:
        raise DataError(f"--batches {batch} and --threads {args.threads}: give 1 or more")
    target = Target(
        num_classes=len(loaded.about.classes), batch=batch, engine=args.engine,
        precision=args.precision, threads=args.threads,
    )  # fmt: skip
    return Request(run, loaded.net.space, target, archs, args.rounds, args.seed)


def _recorded(
    args: argparse.Namespace, request: Request, device_class: str | None = None
) -> list[LatencyRecord]:
    """The records of the request; waits for boards only if one of its archs is not measured yet."""
    from ramnas_edge.measuring.store import Store

    store = Store(args.store)
    keys = store.keys(request.run, device_class)
    classes = {key[4] for key in keys}
    done = classes and not any(request.missing(name, keys) for name in classes)
    if done:
        print(f"== {request.run}: already measured")
    else:
        print(f"== {request.run}", flush=True)
        measuring.measure(args, request)
    wanted = {arch.id for arch in request.archs}
    records = [r for r in store.records(request.run, device_class) if r.arch_id in wanted]
    store.close()
    return records


def _search(
    args: argparse.Namespace,
    loaded: Checkpoint,
    dataset: str,
    truth: Truth,
    name: str,
    known: list[Observations],
) -> Front:
    import numpy as np

    from ramnas_host.search import front, infill, objectives

    path, space = args.out / f"{name}.json", loaded.net.space
    if path.exists():
        print(f"== search by {name}: already done")
        return front.load(path)
    print(f"== search by {name}", flush=True)
    archs = sample_by_macs(space, np.random.default_rng(args.seed), args.accuracy_samples)
    scores = _evaluated(truth, archs, "selection")
    settings = front.Settings(
        args.population, args.parents, args.generations, seed=args.seed,
        infill_rounds=args.infill_rounds,
    )  # fmt: skip
    by_macs = [objectives.Observations(objectives.Objective(kind)) for kind in ("top1", "macs")]
    found = infill.find_front(
        space, known or by_macs,
        [(arch, one.top1) for arch, one in zip(archs, scores, strict=True)],
        lambda new: [one.top1 for one in _evaluated(truth, new, "selection")],
        settings, most=args.candidates, images=scores[0].n, dataset=dataset,
    )  # fmt: skip
    front.save(found, path)
    return found


def _evaluated(truth: Truth, archs: Sequence[Arch], split: str) -> list[Scores]:
    from ramnas_host.cli.progress import bar

    with bar(f"true accuracy on {split}", len(archs)) as update:
        return truth(archs, split, update)


def _json(found: object) -> bytes:
    import msgspec

    return msgspec.json.format(msgspec.json.encode(found), indent=1)
