"""`ramnas-edge profile`: measure archs of a space on this machine, without a host."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Tuple

from ramnas_edge.cli.terminal import Verbs, add_verb
from ramnas_models.errors import DataError
from ramnas_models.sampling import sample_by_macs

if TYPE_CHECKING:
    from ramnas_edge.measuring.record import Target

# of the paper's data sets: ImageNet, COCO and Cityscapes
NUM_CLASSES = {"classification": 1000, "detection": 80, "segmentation": 19}


def add(verbs: Verbs) -> None:
    """Add this verb to the command line."""
    profile = add_verb(
        verbs, "profile",
        help="measure archs of a space alone, without a host",
        purpose="Measures archs of a space on this machine, without a host, and keeps the records "
        "in a file. After an interruption the same command continues with what is missing.",
        example="ramnas-edge profile --space table1 --samples 60 --store records.sqlite",
    )  # fmt: skip
    profile.add_argument(
        "--space", default="table1",
        help="the space's name, or the path of its .yaml (default: %(default)s)",
    )  # fmt: skip
    chosen = profile.add_mutually_exclusive_group()
    chosen.add_argument(
        "--samples", type=int, default=60, metavar="N",
        help="how many archs to draw, spread in log MACs (default: %(default)s)",
    )  # fmt: skip
    chosen.add_argument(
        "--archs", type=Path, metavar="FILE",
        help="measure the archs in this file instead: a list of archs, or a front.json",
    )  # fmt: skip
    profile.add_argument(
        "--store", type=Path, required=True, metavar="records.sqlite",
        help="the file with the records; it is made if it is missing",
    )  # fmt: skip
    profile.add_argument(
        "--run", default="profile",
        help="a name for these records in the file (default: %(default)s)",
    )  # fmt: skip
    add_target(profile)
    profile.add_argument(
        "--rounds", type=int, default=8, metavar="N",
        help="how often each arch is visited, 8 times or more; if the visits scatter there are up "
        "to 24 (default: %(default)s)",
    )  # fmt: skip
    profile.add_argument(
        "--seed", type=int, default=0, metavar="N",
        help="seed for drawing archs and for the order of measuring (default: %(default)s)",
    )  # fmt: skip
    add_board_settings(profile)
    profile.set_defaults(call=_profile)


def add_target(verb: argparse.ArgumentParser) -> None:
    """Add the options that make a Target: everything but the arch that shapes what is timed."""
    verb.add_argument(
        "--task", choices=tuple(NUM_CLASSES), default="classification",
        help="what the networks do (default: %(default)s)",
    )  # fmt: skip
    verb.add_argument(
        "--classes", type=int, metavar="N",
        help="how many classes the task has (default: 1000 for classification, 80 for detection, "
        "19 for segmentation)",
    )  # fmt: skip
    verb.add_argument(
        "--engine", default="onnxruntime-cpu",
        help="the inference engine; `ramnas-edge doctor` lists those that work "
        "(default: %(default)s)",
    )  # fmt: skip
    verb.add_argument(
        "--precision", default="fp32", help="fp32, tf32, fp16 or int8 (default: %(default)s)"
    )
    verb.add_argument(
        "--threads", type=int, default=1, metavar="N",
        help="threads of the engine (default: %(default)s)",
    )  # fmt: skip
    verb.add_argument(
        "--batch", type=int, default=1, metavar="N",
        help="images in one call of the engine (default: %(default)s)",
    )  # fmt: skip
    verb.add_argument(
        "--input-size", type=hw, metavar="HxW",
        help="height and width of the network's input (default: each arch's own resolution)",
    )  # fmt: skip
    verb.add_argument(
        "--input-form", choices=("uint8", "float"), default="uint8",
        help="the network's input: uint8 NHWC as from a camera, or normalised float NCHW "
        "(default: %(default)s)",
    )  # fmt: skip
    verb.add_argument(
        "--frame", type=hw, metavar="HxW",
        help="time whole runtime calls on frames of this size (default: the engine alone)",
    )  # fmt: skip


def add_board_settings(verb: argparse.ArgumentParser) -> None:
    """Add the options that change the board while it measures, and put it back at the end."""
    verb.add_argument(
        "--lock-clocks", action="store_true",
        help="lock the board's clocks while it measures; needs root",
    )  # fmt: skip
    verb.add_argument(
        "--power-mode", metavar="NAME",
        help="put a Jetson into this power mode while it measures; needs root",
    )  # fmt: skip


def hw(text: str) -> Tuple[int, int]:
    """`480x640` -> (480, 640), for argparse."""
    height, cross, width = text.partition("x")
    if not (cross and height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"'{text}' is not a height and a width, such as 480x640")
    return int(height), int(width)


def target_of(args: argparse.Namespace) -> Target:
    """The Target that the options of `add_target` describe; DataError if it cannot be measured."""
    from ramnas_edge.measuring.record import Target

    if args.classes is None:
        args.classes = NUM_CLASSES[args.task]
    for name in ("classes", "threads", "batch"):
        if getattr(args, name) < 1:
            raise DataError(f"--{name} {getattr(args, name)}: it must be 1 or more")
    if args.frame and args.batch != 1:
        raise DataError("--frame times whole calls, which take one frame: leave --batch out")
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
    from ramnas_edge.board.short_names import legend, short_names
    from ramnas_edge.cli.terminal import ProgressLine
    from ramnas_edge.engines.backends import check_threads
    from ramnas_edge.measuring.local import profile
    from ramnas_edge.measuring.record import MIN_VISITS
    from ramnas_edge.measuring.request import Request
    from ramnas_edge.measuring.store import Store
    from ramnas_models.named import read_archs
    from ramnas_models.space import load_space

    if args.rounds < MIN_VISITS:
        raise DataError(f"--rounds {args.rounds}: a record needs {MIN_VISITS} visits or more")
    if args.seed < 0:
        raise DataError(f"--seed {args.seed}: it must be 0 or more")
    space, target = load_space(args.space), target_of(args)
    check_threads(target.threads)  # a host asks its boards for more than it has itself
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
    names = short_names([device_class])
    found = ", ".join(f"{n} {validity}" for validity, n in counts.items())
    print(f"{names[device_class]}: {found}")
    for explanation in legend(names):
        print(f"  {explanation}")
    print(f"records: run '{args.run}' in {args.store}")
