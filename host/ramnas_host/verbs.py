"""`ramnas`: the commands on the host. One verb, one step of the main line, files between them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ramnas_edge.cli import guarded
from ramnas_models.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ramnas_host.fleet import Request
    from ramnas_models.space import Arch


_SPLITS = ("train", "calibration", "validation", "test")
_BIND = "tcp://127.0.0.1:5555"


def main(argv: list[str] | None = None) -> int:
    return guarded(lambda: call(argv))


def call(argv: list[str] | None) -> None:
    """Run one verb; RamnasError if it cannot be done."""
    args = _parser().parse_args(argv)
    args.call(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ramnas", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    demo = verbs.add_parser("demo", help="the whole main line, small, on real digits")
    demo.add_argument("--out", type=Path, default=Path("runs/demo"))
    demo.add_argument("--fresh", action="store_true", help="start over")
    demo.set_defaults(call=_demo)

    train = verbs.add_parser("train", help="train a supernet")
    train.add_argument("--space", default="micro", help="name, or path of a .yaml")
    train.add_argument("--recipe", default="digits", help="name, or path of a .yaml")
    train.add_argument("--out", type=Path, required=True, metavar="supernet.safetensors")
    train.set_defaults(call=_train)

    data = verbs.add_parser("data", help="write a split of a data set as an image folder")
    data.add_argument("--dataset", default="digits")
    data.add_argument("--split", default="test", choices=_SPLITS)
    data.add_argument("--out", type=Path, required=True, metavar="DIR")
    data.set_defaults(call=_data)

    evaluate = verbs.add_parser("evaluate", help="top-1 of min, max and random subnets")
    evaluate.add_argument("--supernet", type=Path, required=True)
    evaluate.add_argument("--split", default="test", choices=_SPLITS)
    evaluate.add_argument("--random", type=int, default=10, metavar="N")
    evaluate.add_argument("--seed", type=int, default=0)
    evaluate.add_argument("--out", type=Path, metavar="accuracy.json")
    evaluate.set_defaults(call=_evaluate)

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
    verify.add_argument("--out", type=Path, required=True, metavar="verified.json")
    _fleet_options(verify)
    verify.set_defaults(call=_verify)

    importer = verbs.add_parser("import", help="a public checkpoint -> a supernet of ours")
    importer.add_argument("kind", choices=("attentivenas",), help="AttentiveNAS or AlphaNet")
    importer.add_argument("checkpoint", type=Path)
    importer.add_argument("--classes", type=Path, metavar="names.txt", help="one name a line")
    importer.add_argument("-o", "--out", type=Path, required=True, metavar="supernet.safetensors")
    importer.set_defaults(call=_import)

    export = verbs.add_parser("export", help="a ready bundle of one arch of a supernet")
    export.add_argument("--weights", type=Path, required=True, metavar="supernet.safetensors")
    export.add_argument(
        "--arch", required=True, help="A0 .. A6, min, max, an id of --front, or a .yaml"
    )
    export.add_argument("--front", type=Path, help="front.json in which to look up an id")
    export.add_argument(
        "--calibration", type=Path, required=True, metavar="DIR", help="training images"
    )
    export.add_argument("--calibration-images", type=int, default=4096, metavar="N")
    export.add_argument("--test", type=Path, metavar="DIR", help="labelled images, for top-1")
    export.add_argument("-o", "--out", type=Path, required=True, metavar="DIR")
    export.set_defaults(call=_export)

    bundle = verbs.add_parser("bundle", help="write the bundle of a verified front")
    bundle.add_argument("--front", type=Path, required=True, metavar="verified.json")
    bundle.add_argument("--supernet", type=Path, required=True)
    bundle.add_argument("--models", type=int, default=8, help="at most so many")
    bundle.add_argument("--plot", type=Path, metavar="pareto.png")
    bundle.add_argument("--out", type=Path, required=True, metavar="DIR")
    bundle.set_defaults(call=_bundle)
    return parser


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


def _demo(args: argparse.Namespace) -> None:
    from ramnas_host import demo

    demo.run(args.out, fresh=args.fresh)


def _train(args: argparse.Namespace) -> None:
    import msgspec

    from ramnas_host import checkpoint, train
    from ramnas_host.config import load_recipe
    from ramnas_host.data import load_dataset
    from ramnas_host.progress import bar
    from ramnas_models.files import make_folder
    from ramnas_models.space import load_space

    recipe, space = load_recipe(args.recipe), load_space(args.space)
    dataset = load_dataset(recipe.dataset)
    make_folder(args.out.parent)  # before the work, not after it
    partial = args.out.with_name(f"{args.out.name}.partial")
    if partial.exists():
        print(f"going on from {partial}")
    steps = train.count_steps(dataset, recipe)
    with bar(f"train {space.name} on {dataset.name}", steps) as update:
        net = train.train(
            space, dataset, recipe, partial=partial,
            on_step=lambda step: update(step.number, f"loss max {step.losses[0]:.3f}"),
        )  # fmt: skip
    about = checkpoint.About(
        dataset.classes, dataset.train.preprocessing, dataset.licence, dataset.source,
        dataset.name, msgspec.json.encode(recipe).decode(),
    )  # fmt: skip
    checkpoint.save(args.out, net, about)
    partial.unlink(missing_ok=True)
    print(f"supernet: {args.out}")


def _data(args: argparse.Namespace) -> None:
    from ramnas_host.data import load_dataset, write_image_folder

    count = write_image_folder(load_dataset(args.dataset), args.split, args.out)
    print(f"{count} images: {args.out}")


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


def _evaluate(args: argparse.Namespace) -> None:
    import msgspec
    import numpy as np

    from ramnas_host import checkpoint
    from ramnas_host.data import load_dataset
    from ramnas_host.evaluate import true_top1
    from ramnas_host.progress import bar
    from ramnas_models.files import write_file

    loaded = checkpoint.load(args.supernet)
    space, rng = loaded.net.space, np.random.default_rng(args.seed)
    archs = [space.min(), space.max(), *(space.sample(rng) for _ in range(args.random))]
    dataset = load_dataset(loaded.about.dataset)
    with bar(f"evaluate on {args.split}", len(archs)) as update:
        found = true_top1(loaded.net, archs, dataset, args.split, on_done=update)
    result = {"split": args.split, "min": found[0], "max": found[1], "random": found[2:]}
    mean = sum(found[2:]) / max(1, args.random)
    print(
        f"top-1 on {args.split}: min {found[0]:.2%}, max {found[1]:.2%}, "
        f"mean of {args.random} random {mean:.2%}"
    )
    if args.out:
        write_file(args.out, msgspec.json.format(msgspec.json.encode(result)))


def _search(args: argparse.Namespace) -> None:
    from ramnas_host import checkpoint, front
    from ramnas_host.data import load_dataset
    from ramnas_host.evaluate import true_top1
    from ramnas_host.progress import bar
    from ramnas_host.store import Store, of_one_device

    loaded = checkpoint.load(args.supernet)
    space = loaded.net.space
    if not args.store.is_file():
        raise DataError(f"{args.store} does not exist; ramnas calibrate makes it")
    records = of_one_device(Store(args.store), args.run, space.hash, args.device)
    ends = [space.min(), space.max()]
    archs = ends + [r.arch for r in records if r.arch not in ends][: args.accuracy_samples - 2]
    dataset = load_dataset(loaded.about.dataset)
    settings = front.Settings(
        args.population, args.parents, args.generations, args.p_mutation, args.seed,
        args.infill_rounds,
    )  # fmt: skip

    def true(archs: Sequence[Arch], on_done: Callable[[int], None]) -> list[float]:
        return true_top1(loaded.net, archs, dataset, "validation", on_done=on_done)

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
    from ramnas_host.data import load_dataset
    from ramnas_host.evaluate import true_top1
    from ramnas_host.fleet import Request
    from ramnas_host.progress import bar
    from ramnas_host.store import Store, of_one_device

    found, loaded = front.load(args.front), checkpoint.load(args.supernet)
    space = loaded.net.space
    archs = [candidate.arch for candidate in found.candidates]
    dataset = load_dataset(loaded.about.dataset)
    with bar("true accuracy of the front", len(archs)) as update:
        accuracies = true_top1(loaded.net, archs, dataset, "validation", on_done=update)
    _measure(args, Request(args.run, space, found.target, archs, args.rounds))
    records = of_one_device(Store(args.store), args.run, space.hash, found.device_class)
    verified = front.verified(found, accuracies, records)
    front.save(verified, args.out)
    print(front.table(verified))
    print(f"verified front: {args.out}")


def _bundle(args: argparse.Namespace) -> None:
    from ramnas_host import bundling, checkpoint, front
    from ramnas_host.data import load_dataset
    from ramnas_host.report import plot_front

    verified, loaded = front.load(args.front), checkpoint.load(args.supernet)
    chosen = bundling.choose(verified, most=args.models)
    bundling.check_space(loaded, verified)
    calibration = load_dataset(loaded.about.dataset).calibration
    bundle = bundling.write(args.out, bundling.entries(verified, chosen), loaded, calibration)
    print(f"bundle of {len(bundle.manifest.models)} models: {args.out}")
    if args.plot:
        plot_front(verified, [c.arch_id for c in chosen], args.plot)
        print(f"plot: {args.plot}")


def _import(args: argparse.Namespace) -> None:
    from ramnas_host import checkpoint
    from ramnas_models.bundle import Preprocessing
    from ramnas_models.importers import attentivenas
    from ramnas_models.onnx_graph import Normalisation
    from ramnas_models.space import load_space
    from ramnas_models.supernet import Supernet

    tensors, dropped = attentivenas.to_supernet(attentivenas.read_checkpoint(args.checkpoint))
    net = Supernet(load_space("attentivenas"))
    net.load_state_dict(tensors)
    classes = tuple(str(i) for i in range(net.num_classes))
    if args.classes:
        try:
            classes = tuple(args.classes.read_text(encoding="utf-8").splitlines())
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read {args.classes}: {error}") from error
        if len(classes) != net.num_classes:
            raise DataError(f"{args.classes} has {len(classes)} names, not {net.num_classes}")
    # as the public code evaluates: a 224 crop, which the net itself takes to its resolution
    how = Preprocessing(Normalisation(), "bicubic", resize_short=256, crop=224)
    about = checkpoint.About(classes, how, attentivenas.LICENCE, attentivenas.SOURCE)
    checkpoint.save(args.out, net, about)
    print(f"{len(tensors)} tensors imported, {len(dropped)} dropped")
    for name in dropped:
        print(f"  dropped {name}")
    print(f"licence of the weights: {attentivenas.LICENCE} ({attentivenas.SOURCE})")
    print(f"supernet: {args.out}")


def _export(args: argparse.Namespace) -> None:
    from ramnas_host import bundling, checkpoint, front
    from ramnas_host.data import load_folder
    from ramnas_host.evaluate import calibrated, top1
    from ramnas_models.bundle import Accuracy
    from ramnas_models.named import find_arch

    loaded = checkpoint.load(args.weights)
    known = [c.arch for c in front.load(args.front).candidates] if args.front else []
    arch = find_arch(loaded.net.space, args.arch, known)
    how, classes = loaded.about.preprocessing, loaded.about.classes
    calibration = load_folder(args.calibration, classes, how, args.calibration_images)
    accuracy = None
    if args.test:
        test = load_folder(args.test, classes, how, most=10**9)
        value = top1(calibrated(loaded.net, arch, calibration), test)
        accuracy = Accuracy("top1", value, "test")
        print(f"top-1 on {len(test)} images of {args.test}: {value:.2%}")
    bundling.write(args.out, [bundling.Entry(arch, accuracy)], loaded, calibration)
    print(f"bundle of {arch.id}, recalibrated on {len(calibration)} images: {args.out}")
    print(f"licence of the weights: {loaded.about.licence}")
