"""A `micro` detector and segmenter on the scenes, and how much the supernet's weights help them.

    python -m tests.studies.finetuning figures --supernet FILE --scenes DIR --out DIR
    python -m tests.studies.finetuning weights --supernet FILE --scenes DIR --out DIR
    python -m tests.studies.finetuning ready --scenes DIR

They print tables of docs/finetuning.md; `ready` evaluates the bundle that ships. A run that was
interrupted continues where it stopped.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
import torch

from ramnas_edge.runtime.runtime import Runtime
from ramnas_edge.vision.detection import Limits
from ramnas_edge.vision.results import Detections, Mask
from ramnas_host.config import Finetuning, load_finetuning
from ramnas_host.data.cityscapes import load_cityscapes
from ramnas_host.data.coco import load_coco
from ramnas_host.finetuning import bootstrap
from ramnas_host.finetuning.detection_metrics import SCORES, coco_matches
from ramnas_host.finetuning.prepare import PreparedRun, prepare
from ramnas_host.finetuning.segmentation import evaluate_segmenter, segmentation_accuracies
from ramnas_host.finetuning.segmentation_metrics import always_majority, confusion
from ramnas_host.training import checkpoint
from ramnas_host.training.distributed import Ranks
from ramnas_models import ready
from ramnas_models.accuracy import Accuracy
from ramnas_models.bundle import open_bundle, write_bundle
from ramnas_models.named import find_arch

FORMATS = {"detection": "coco", "segmentation": "cityscapes"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("figures", "weights", "ready"))
    parser.add_argument("--task", choices=tuple(FORMATS), help="run only this task")
    parser.add_argument("--supernet", type=Path)
    parser.add_argument("--scenes", type=Path, required=True, help="made by `ramnas scenes`")
    parser.add_argument("--arch", default="tests/studies/ready_large.yaml")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--epochs", type=int, default=4, help="epochs of each training of `weights`"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)  # small layers: more threads mostly wait for each other
    tasks = [args.task] if args.task else list(FORMATS)
    if args.part == "ready":
        for task in tasks:
            _ready(args.scenes / FORMATS[task], task)
        return
    if not (args.supernet and args.out):
        parser.error(f"{args.part} needs --supernet and --out")
    if args.part == "figures":
        print("| task | accuracy | CPU minutes |\n|---|---|---|")
        for task in tasks:
            _figures(args, task)
    else:
        print("| task | metric | seed | supernet's weights | from scratch |\n|---|---|---|---|---|")
        for task in tasks:
            _weights(args, task)


def _figures(args: argparse.Namespace, task: str) -> None:
    recipe = load_finetuning(f"scenes-{task}")
    run, accuracies, minutes = _train(args, task, recipe, args.out / task, from_scratch=False)
    for accuracy in accuracies:
        print(f"| {task} | {accuracy} | {minutes:.1f} |", flush=True)
    if task == "segmentation":
        _print_majority(args, run)


def _train(
    args: argparse.Namespace, task: str, recipe: Finetuning, out: Path, *, from_scratch: bool
) -> tuple[PreparedRun, tuple[Accuracy, ...], float]:
    """Train, and return the run, its accuracies on the report split and its CPU minutes."""
    supernet = checkpoint.load(args.supernet)
    arch = find_arch(supernet.net.space, args.arch)
    data = args.scenes / FORMATS[task]
    run = prepare(supernet, arch, recipe, data, from_scratch=from_scratch)
    start = time.process_time()
    accuracies = run.train(out, Ranks(), 0, lambda step: None)
    minutes = (time.process_time() - start) / 60
    return run, accuracies, minutes


def _print_majority(args: argparse.Namespace, run: PreparedRun) -> None:
    """Print the score of calling every pixel background, which is the most frequent class."""
    data = load_cityscapes(args.scenes / "cityscapes")
    net: object = run.net
    matrices = evaluate_segmenter(net, data.report, run.about.preprocessing)  # type: ignore[arg-type]
    for accuracy in segmentation_accuracies(always_majority(matrices), data.classes, "report"):
        print(f"| majority class | {accuracy} | |")


def _weights(args: argparse.Namespace, task: str) -> None:
    """Compare two trainings per seed that differ only in their initial weights."""
    both: list[list[float]] = []
    for seed in range(args.seeds):
        recipe = msgspec.structs.replace(
            load_finetuning(f"scenes-{task}"), epochs=args.epochs, evaluate_every=args.epochs,
            seed=seed,
        )  # fmt: skip
        pair = []
        for scratch in (False, True):
            out = args.out / f"{task}-{seed}-{'scratch' if scratch else 'supernet'}"
            _, (first, *_), _ = _train(args, task, recipe, out, from_scratch=scratch)
            metric = f"{first.metric} (report split, n {first.n})"
            pair.append(100 * first.value)
        print(f"| {task} | {metric} | {seed} | {pair[0]:.1f} | {pair[1]:.1f} |", flush=True)
        both.append(pair)
    inherited, scratch_mean = np.mean(both, 0)
    print(f"| {task} | {metric} | mean | {inherited:.1f} | {scratch_mean:.1f} |", flush=True)


def _ready(folder: Path, task: str) -> None:
    """Print the accuracies of each model that ships, on the report split of scenes in `folder`."""
    bundle = open_bundle(ready.path())
    front = bundle.front(task)
    for model in front.models:
        alone = msgspec.structs.replace(
            bundle.manifest, tasks=(msgspec.structs.replace(front, models=(model,)),)
        )
        with TemporaryDirectory() as place:
            path = Path(place) / "bundle"
            write_bundle(path, alone, {model.file: bundle.read_model(model)})
            with Runtime.open(path, engine="onnxruntime-cpu", limits=Limits(0.01)) as runtime:
                found = (_boxes if task == "detection" else _pixels)(folder, runtime)
        for accuracy, stored in zip(found, model.accuracies, strict=True):
            print(f"{model.file}: {accuracy}; the manifest has {stored}", flush=True)


def _boxes(folder: Path, runtime: Runtime) -> tuple[Accuracy, ...]:
    data, rows = load_coco(folder), []
    for index, image_id in enumerate(data.report.ids):
        result = runtime(data.report.read(index))
        assert isinstance(result, Detections)
        corners, sides = result.boxes[:, :2], result.boxes[:, 2:] - result.boxes[:, :2]
        categories = np.array(data.category_ids)[result.classes]
        image_ids = np.full(len(categories), image_id)
        rows.append(np.column_stack([image_ids, corners, sides, result.scores, categories]))
    matches = coco_matches(data.report.file, data.report.ids, np.concatenate(rows))
    return bootstrap.accuracies(SCORES, matches.scores, matches.n, "report", intervals=True)


def _pixels(folder: Path, runtime: Runtime) -> tuple[Accuracy, ...]:
    data, matrices = load_cityscapes(folder), []
    for index in range(len(data.report)):
        image, labels = data.report.read(index)
        result = runtime(image)
        assert isinstance(result, Mask)
        matrices.append(confusion(labels, result.classes, len(data.classes)))
    return segmentation_accuracies(np.stack(matrices), data.classes, "report")


if __name__ == "__main__":
    main()
