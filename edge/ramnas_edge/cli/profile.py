"""`ramnas-edge profile`: measure archs of a space on this machine, no host needed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Tuple

from ramnas_models.errors import DataError
from ramnas_models.sampling import sample_by_macs

if TYPE_CHECKING:
    from ramnas_edge.measuring.record import Target

# the data sets of the paper: ImageNet, COCO, Cityscapes
NUM_CLASSES = {"classification": 1000, "detection": 80, "segmentation": 19}


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verb = verbs.add_parser("profile", help="measure archs of a space on this machine")
    verb.add_argument("--space", default="table1", help="name, or path of a .yaml")
    chosen = verb.add_mutually_exclusive_group()
    chosen.add_argument("--samples", type=int, default=60, help="archs, spread in log MACs")
    chosen.add_argument(
        "--archs", type=Path, metavar="FILE", help="these archs instead: a list, or a front.json"
    )
    verb.add_argument("--store", type=Path, required=True, metavar="records.sqlite")
    verb.add_argument("--run", default="profile", help="name of the run in the store")
    add_target(verb)
    verb.add_argument(
        "--rounds", type=int, default=8,
        help="least visits of each arch, 8 or more; where they scatter there are up to 24",
    )  # fmt: skip
    verb.add_argument("--seed", type=int, default=0)
    add_board_settings(verb)
    verb.set_defaults(call=_profile)


def add_target(verb: argparse.ArgumentParser) -> None:
    """The options of a Target, what is measured besides the arch."""
    verb.add_argument("--task", choices=tuple(NUM_CLASSES), default="classification")
    verb.add_argument("--classes", type=int, help="default: 1000, 80 and 19, by task")
    verb.add_argument("--engine", default="onnxruntime-cpu")
    verb.add_argument("--precision", default="fp32", help="fp32, tf32, fp16 or int8")
    verb.add_argument("--threads", type=int, default=1)
    verb.add_argument("--batch", type=int, default=1)
    verb.add_argument(
        "--input-size", type=hw, metavar="HxW", help="of the network (default: the arch's own)"
    )
    verb.add_argument(
        "--input-form", choices=("uint8", "float"), default="uint8",
        help="uint8 NHWC as a camera gives it, or normalised float NCHW",
    )  # fmt: skip
    verb.add_argument(
        "--frame", type=hw, metavar="HxW",
        help="time whole runtime calls on frames of this size, not the engine alone",
    )  # fmt: skip


def add_board_settings(verb: argparse.ArgumentParser) -> None:
    """What may be changed on the board while it measures; put back at the end."""
    verb.add_argument("--lock-clocks", action="store_true", help="while it measures; needs root")
    verb.add_argument(
        "--power-mode", metavar="NAME", help="of a Jetson, while it measures; needs root"
    )


def hw(text: str) -> Tuple[int, int]:
    height, cross, width = text.partition("x")
    if not (cross and height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"'{text}' is not HxW, such as 480x640")
    return int(height), int(width)


def target_of(args: argparse.Namespace) -> Target:
    """DataError for options that are no target."""
    from ramnas_edge.measuring.record import Target

    if args.classes is None:
        args.classes = NUM_CLASSES[args.task]
    for name in ("classes", "threads", "batch"):
        if getattr(args, name) < 1:
            raise DataError(f"--{name} {getattr(args, name)}: 1 or more")
    if args.frame and args.batch != 1:
        raise DataError("--frame measures whole calls, which take one frame: leave --batch out")
    return Target(
        task=args.task,
        num_classes=args.classes,
        input_hw=args.input_size,
        frame_hw=args.frame,
        image_input=args.input_form == "uint8",
        batch=args.batch,
        engine=args.engine,
        precision=args.precision,
        threads=args.threads,
    )


def _profile(args: argparse.Namespace) -> None:
    import numpy as np

    from ramnas_edge.board.clocks import board_settings
    from ramnas_edge.cli.terminal import ProgressLine
    from ramnas_edge.measuring.local import profile
    from ramnas_edge.measuring.record import MIN_VISITS
    from ramnas_edge.measuring.request import Request
    from ramnas_edge.measuring.store import Store
    from ramnas_models.named import read_archs
    from ramnas_models.space import load_space

    if args.rounds < MIN_VISITS:
        raise DataError(f"--rounds {args.rounds}: a record needs {MIN_VISITS} visits or more")
    space, target = load_space(args.space), target_of(args)
    if args.archs:
        archs = list({arch.id: arch for arch in read_archs(space, args.archs)}.values())
    else:
        archs = sample_by_macs(space, np.random.default_rng(args.seed), args.samples)
    request = Request(args.run, space, target, archs, args.rounds, args.seed)
    store = Store(args.store)
    line = ProgressLine(f"profile {args.run}")
    try:
        with board_settings(lock_clocks=args.lock_clocks, power_mode=args.power_mode):
            device_class = profile(
                request, store,
                on_progress=lambda p: line.show(p.done + p.inside, p.total, p.note),
            )  # fmt: skip
        line.end()
        counts = store.count(args.run, device_class)
    finally:
        store.close()
    print(f"{device_class}: {', '.join(f'{n} {validity}' for validity, n in counts.items())}")
    print(f"records: run '{args.run}' in {args.store}")
