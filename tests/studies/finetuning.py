"""A detector and a segmenter on the scenes, and how much the supernet's weights help them.

    python -m tests.studies.finetuning figures --supernet FILE --scenes DIR --out DIR
    python -m tests.studies.finetuning weights --supernet FILE --scenes DIR --out DIR
    python -m tests.studies.finetuning ready --scenes DIR

They print tables of docs/finetuning.md; `ready` evaluates the bundle that ships. The first two take
any supernet, arch and recipe, a CPU or a GPU, and several of them under torchrun. A run that was
interrupted continues where it stopped.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np

from ramnas_edge.runtime.runtime import Runtime
from ramnas_edge.vision.detection import Limits
from ramnas_edge.vision.results import Detections, Mask
from ramnas_host.annotations.cityscapes import load_cityscapes
from ramnas_host.annotations.coco import load_coco
from ramnas_host.config import Finetuning, load_finetuning
from ramnas_host.finetuning import bootstrap
from ramnas_host.finetuning.detection_metrics import SCORES, coco_matches
from ramnas_host.finetuning.prepare import PreparedRun, prepare
from ramnas_host.finetuning.segmentation import evaluate_segmenter, segmentation_evaluation
from ramnas_host.finetuning.segmentation_metrics import always_majority, confusion
from ramnas_host.training import checkpoint, distributed
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
    parser.add_argument("--recipe", help="of the one task (default: scenes-TASK)")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--workers", type=int, default=0, help="processes that decode images")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--epochs", type=int, default=4, help="epochs of each training of `weights`"
    )
    args = parser.parse_args()
    if args.recipe and not args.task:
        parser.error("--recipe needs --task")
    tasks = [args.task] if args.task else list(FORMATS)
    if args.part == "ready":
        for task in tasks:
            _ready(args.scenes / FORMATS[task], task)
        return
    if not (args.supernet and args.out):
        parser.error(f"{args.part} needs --supernet and --out")
    with distributed.started(args.device) as ranks:
        if args.part == "figures":
            _print(ranks, "| task | accuracy | CPU minutes |\n|---|---|---|")
            for task in tasks:
                _figures(args, ranks, task)
        else:
            columns = "| task | metric | seed | supernet's weights | from scratch |"
            _print(ranks, f"{columns}\n|---|---|---|---|---|")
            for task in tasks:
                _weights(args, ranks, task)


def _print(ranks: Ranks, line: str) -> None:
    if ranks.leads:
        print(line, flush=True)


def _figures(args: argparse.Namespace, ranks: Ranks, task: str) -> None:
    recipe = load_finetuning(args.recipe or f"scenes-{task}")
    run, accuracies, minutes = _train(args, ranks, task, recipe, args.out / task)
    for accuracy in accuracies:
        _print(ranks, f"| {task} | {accuracy} | {minutes} |")
    if task == "segmentation":
        _print_majority(args, ranks, run)


def _train(
    args: argparse.Namespace, ranks: Ranks, task: str, recipe: Finetuning, out: Path, *,
    from_scratch: bool = False,
) -> tuple[PreparedRun, tuple[Accuracy, ...], str]:  # fmt: skip
    """Train, and return the run, its accuracies on the report split and its CPU minutes.

    The minutes are those of this process, and not known if the training was finished before.
    """
    supernet = checkpoint.load(args.supernet)
    arch = find_arch(supernet.net.space, args.arch, source=supernet.about.source)
    data = args.scenes / FORMATS[task]
    run = prepare(supernet, arch, recipe, data, from_scratch=from_scratch)
    scores = out / "scores.json"
    if ranks.from_leader(scores.exists()):
        finished = msgspec.json.decode(scores.read_bytes(), type=tuple[Accuracy, ...])
        return run, finished, "finished before"
    start = time.process_time()
    accuracies = run.train(out, ranks, args.workers, lambda step: None)
    return run, accuracies, f"{(time.process_time() - start) / 60:.1f}"


def _print_majority(args: argparse.Namespace, ranks: Ranks, run: PreparedRun) -> None:
    """Print the score of calling every pixel background, which is the most frequent class."""
    data = load_cityscapes(args.scenes / "cityscapes")
    net: object = run.net
    how = run.about.preprocessing
    matrices = evaluate_segmenter(net, data.report, how, ranks)  # type: ignore[arg-type]
    baseline = segmentation_evaluation(always_majority(matrices), data.classes, "report")
    for accuracy in baseline.accuracies:
        _print(ranks, f"| majority class | {accuracy} | |")


def _weights(args: argparse.Namespace, ranks: Ranks, task: str) -> None:
    """Compare two trainings per seed that differ only in their initial weights."""
    both: list[list[float]] = []
    for seed in range(args.seeds):
        recipe = msgspec.structs.replace(
            load_finetuning(args.recipe or f"scenes-{task}"), epochs=args.epochs,
            evaluate_every=args.epochs, seed=seed,
        )  # fmt: skip
        pair = []
        for scratch in (False, True):
            out = args.out / f"{task}-{seed}-{'scratch' if scratch else 'supernet'}"
            _, (first, *_), _ = _train(args, ranks, task, recipe, out, from_scratch=scratch)
            metric = f"{first.metric} (report split, n {first.n})"
            pair.append(100 * first.value)
        _print(ranks, f"| {task} | {metric} | {seed} | {pair[0]:.1f} | {pair[1]:.1f} |")
        both.append(pair)
    inherited, scratch_mean = np.mean(both, 0)
    _print(ranks, f"| {task} | {metric} | mean | {inherited:.1f} | {scratch_mean:.1f} |")


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
    report, found = load_coco(folder).report, []
    for index in range(len(report)):
        result = runtime(report.read(index))
        assert isinstance(result, Detections)
        found.append((result.boxes, result.scores, result.classes))
    matches = coco_matches(report.objects, found)
    return bootstrap.accuracies(SCORES, matches.scores, matches.n, "report", intervals=True)


def _pixels(folder: Path, runtime: Runtime) -> tuple[Accuracy, ...]:
    data, matrices = load_cityscapes(folder), []
    for index in range(len(data.report)):
        image, labels = data.report.read(index)
        result = runtime(image)
        assert isinstance(result, Mask)
        matrices.append(confusion(labels, result.classes, len(data.classes)))
    return segmentation_evaluation(np.stack(matrices), data.classes, "report").accuracies


if __name__ == "__main__":
    main()
