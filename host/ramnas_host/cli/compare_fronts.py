"""The verb `ramnas compare-fronts`: search by MACs and by latency, measure both fronts (Fig. 4)."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from ramnas_host.cli import measuring
from ramnas_host.cli.options import data_option
from ramnas_models.errors import DataError
from ramnas_models.sampling import sample_by_macs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ramnas_edge.measuring.record import LatencyRecord
    from ramnas_edge.measuring.request import Request
    from ramnas_host.data.images import Dataset
    from ramnas_host.search.front import Front
    from ramnas_host.search.objectives import Known
    from ramnas_host.training.checkpoint import Checkpoint
    from ramnas_models.space import Arch

log = logging.getLogger(__name__)

_SETTINGS = (
    "batches", "samples", "accuracy_samples", "candidates", "population", "parents", "generations",
    "infill_rounds", "rounds", "engine", "precision", "threads", "device", "seed",
)  # fmt: skip


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this verb to the command line."""
    verb = verbs.add_parser(
        "compare-fronts", help="a front found by MACs against one found by latency, both measured"
    )
    verb.add_argument("--supernet", type=Path, required=True)
    data_option(verb)
    verb.add_argument("--store", type=Path, required=True, metavar="records.sqlite")
    verb.add_argument("--out", type=Path, required=True, metavar="DIR")
    verb.add_argument("--batches", type=int, nargs="+", default=[1, 8], metavar="N")
    verb.add_argument("--device", default="any", help="a device class, or a part of its name")
    for name, default in (("engine", "onnxruntime-cpu"), ("precision", "fp32")):
        verb.add_argument(f"--{name}", default=default)
    for name, count, words in (
        ("threads", 1, "of the engine"),
        ("samples", 300, "archs measured at each batch, for the surrogate of latency"),
        ("accuracy-samples", 150, "archs evaluated, for the surrogate of top-1"),
        ("candidates", 24, "of each front"),
        ("population", 5120, ""), ("parents", 2560, ""), ("generations", 30, ""),
        ("infill-rounds", 4, ""), ("seed", 0, ""),
    ):  # fmt: skip
        verb.add_argument(f"--{name}", type=int, default=count, metavar="N", help=words or None)
    measuring.board_options(verb)
    verb.set_defaults(call=_compare)


def _compare(args: argparse.Namespace) -> None:
    from ramnas_host.data.datasets import dataset_of
    from ramnas_host.report import plots
    from ramnas_host.search import comparison
    from ramnas_host.training import checkpoint
    from ramnas_models.files import write_file

    loaded = checkpoint.load(args.supernet)
    _check_same(args)
    truth = _Truth(args.out / "accuracies.json", loaded, dataset_of(loaded.about, args.data))
    by_macs = comparison.chosen(_search(args, loaded, truth, "macs", []), truth.top1)
    found = []
    for batch in args.batches:
        known = _calibrated(args, loaded, batch)
        front = _search(args, loaded, truth, f"latency-{batch}", known)
        by_latency = comparison.chosen(front, truth.top1)
        archs = {c.arch_id: c.arch for c in (*by_macs, *by_latency)}
        request = _request(args, loaded, f"fronts-{batch}", batch, [*archs.values()])
        records = _recorded(args, request, front.cost.device_class)
        found.append(comparison.compare(batch, by_macs, by_latency, truth.top1, records))
    write_file(args.out / "comparison.json", _json(found))
    plots.plot_comparison(found, args.out / "fronts.png")
    print(comparison.table(found))
    for one in found:
        if one.unmeasured:
            log.warning(
                "batch %d: %d models have no valid record and are in neither front: too unquiet a "
                "board; measure again into another --store, with more --rounds",
                one.batch, one.unmeasured,
            )  # fmt: skip
    print(f"figure: {args.out / 'fronts.png'}\nfigures: {args.out / 'comparison.json'}")


def _check_same(args: argparse.Namespace) -> None:
    """What `--out` holds goes on only with the supernet and the settings that it began with."""
    from ramnas_models.files import write_file

    now = {name: getattr(args, name) for name in _SETTINGS}
    now["supernet"] = hashlib.sha256(args.supernet.read_bytes()).hexdigest()
    path = args.out / "settings.json"
    if path.exists():
        before = json.loads(path.read_bytes())
        changed = ", ".join(name for name in now if before.get(name) != now[name])
        if changed:
            raise DataError(
                f"{args.out} was begun with other settings ({changed}): write elsewhere, or "
                "remove it"
            )
        return
    write_file(path, json.dumps(now, indent=1).encode())


class _Truth:
    """Archs -> true top-1 on the validation split, each counted once and kept in a file."""

    def __init__(self, path: Path, loaded: Checkpoint, dataset: Dataset) -> None:
        self.path, self._net, self._dataset = path, loaded.net, dataset
        self.top1: dict[str, float] = json.loads(path.read_bytes()) if path.exists() else {}

    def __call__(self, archs: Sequence[Arch]) -> list[float]:
        from ramnas_host.cli.progress import bar
        from ramnas_host.training.evaluate import true_scores
        from ramnas_models.files import write_file

        new = [arch for arch in archs if arch.id not in self.top1]
        with bar("true accuracy", len(new)) as update:
            for i, arch in enumerate(new):
                (scores,) = true_scores(self._net, [arch], self._dataset, "validation")
                self.top1[arch.id] = scores.top1
                write_file(self.path, json.dumps(self.top1).encode())
                update(i + 1)
        return [self.top1[arch.id] for arch in archs]


def _calibrated(args: argparse.Namespace, loaded: Checkpoint, batch: int) -> list[Known]:
    import numpy as np

    from ramnas_host.search import objectives

    space = loaded.net.space
    archs = sample_by_macs(space, np.random.default_rng(args.seed), args.samples)
    records = _recorded(args, _request(args, loaded, f"calibration-{batch}", batch, archs))
    return objectives.read_objectives(f"top1,latency@{args.device}", records, space)


def _request(
    args: argparse.Namespace, loaded: Checkpoint, run: str, batch: int, archs: list[Arch]
) -> Request:
    from ramnas_edge.measuring.record import Target
    from ramnas_edge.measuring.request import Request

    if batch < 1 or args.threads < 1:
        raise DataError(f"--batches {batch} and --threads {args.threads}: 1 or more")
    target = Target(
        num_classes=len(loaded.about.classes), batch=batch, engine=args.engine,
        precision=args.precision, threads=args.threads,
    )  # fmt: skip
    return Request(run, loaded.net.space, target, archs, args.rounds, args.seed)


def _recorded(
    args: argparse.Namespace, request: Request, device_class: str | None = None
) -> list[LatencyRecord]:
    """The records of the request; boards are waited for only if one of its archs has none."""
    from ramnas_edge.measuring.store import Store

    store = Store(args.store)
    keys = store.keys(request.run, device_class)
    classes = {key[4] for key in keys}
    done = classes and not any(request.missing(name, keys) for name in classes)
    if done:
        print(f"== {request.run}: measured before")
    else:
        print(f"== {request.run}", flush=True)
        measuring.measure(args, request)
    wanted = {arch.id for arch in request.archs}
    records = [r for r in store.records(request.run, device_class) if r.arch_id in wanted]
    store.close()
    return records


def _search(
    args: argparse.Namespace, loaded: Checkpoint, truth: _Truth, name: str, known: list[Known]
) -> Front:
    import numpy as np

    from ramnas_host.search import front, infill, objectives

    path, space = args.out / f"{name}.json", loaded.net.space
    archs = sample_by_macs(space, np.random.default_rng(args.seed), args.accuracy_samples)
    if path.exists():
        print(f"== search by {name}: done before")
        found = front.load(path)
        truth([candidate.arch for candidate in found.candidates])
        return found
    print(f"== search by {name}", flush=True)
    samples = list(zip(archs, truth(archs), strict=True))
    settings = front.Settings(
        args.population, args.parents, args.generations, seed=args.seed,
        infill_rounds=args.infill_rounds,
    )  # fmt: skip
    by_macs = [objectives.Known(objectives.Objective(kind)) for kind in ("top1", "macs")]
    found = infill.find(space, known or by_macs, samples, truth, settings, most=args.candidates)
    front.save(found, path)
    return found


def _json(found: object) -> bytes:
    import msgspec

    return msgspec.json.format(msgspec.json.encode(found), indent=1)
