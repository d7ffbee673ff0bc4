"""Table V and Fig. 5 of the paper on a small scale: `micro` on Fashion-MNIST, on CPUs.

Every training has a folder below --out and every evaluation a file there, so an interrupted study
continues where it stopped. The tables are printed from these files.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from scipy.stats import kendalltau

from ramnas_host.config import Recipe, load_recipe
from ramnas_host.data.datasets import load_dataset
from ramnas_host.data.images import Dataset
from ramnas_host.finetuning.classification import classification_task
from ramnas_host.finetuning.finetune import finetune
from ramnas_host.training import checkpoint, train
from ramnas_host.training.evaluate import recalibrated_subnet, score
from ramnas_models.files import write_file
from ramnas_models.sampling import sample_by_macs
from ramnas_models.space import Arch, load_space

# row of Table V -> (smd_weighting, pair_loss)
VARIANTS = {
    "Baseline": ("off", "kl"),
    "EXP1 SMD": ("per_student", "kl"),
    "EXP2 DKD": ("off", "dkd"),
    "EXP3 both": ("per_student", "dkd"),
    "EXP3 both, per_teacher": ("per_teacher", "dkd"),
}
CONSISTENCY = ("Baseline", "EXP3 both")
RANDOM = 20
SPACE = load_space("micro")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with the IDX files of Fashion-MNIST")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--images", type=int, default=10_000, help="number of training images, 0: all"
    )
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count(), help="parallel processes of one thread"
    )
    args = parser.parse_args()
    recipe = load_recipe("fashion")
    recipe = msgspec.structs.replace(
        recipe,
        images=msgspec.structs.replace(recipe.images, train=args.images),
        epochs=args.epochs,
        evaluate_every=args.epochs,
    )
    trainings = [
        (name, seed, recipe, args.out, args.data) for seed in range(args.seeds) for name in VARIANTS
    ]
    with ProcessPoolExecutor(args.jobs, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for done in pool.map(_train_and_score, trainings):
            print(f"trained and scored: {done}", flush=True)
        chunks = [
            (name, part, recipe, args.out, args.data)
            for name in CONSISTENCY
            for part in range(RANDOM)
        ]
        for done in pool.map(_finetune_one, chunks):
            print(f"fine-tuned: {done}", flush=True)
    print(table_v(args.out, args.seeds))
    print(fig_5(args.out))


def archs() -> list[Arch]:
    """Min, max and 20 random subnets spread over the MACs of the space, the same on every call."""
    return sample_by_macs(SPACE, np.random.default_rng(0), RANDOM + 2)


def folder(out: Path, name: str, seed: int) -> Path:
    return out / f"{name.replace(' ', '_').replace(',', '')}-{seed}"


def _variant(recipe: Recipe, name: str, seed: int) -> Recipe:
    weighting, loss = VARIANTS[name]
    how = msgspec.structs.replace(recipe.distillation, smd_weighting=weighting, pair_loss=loss)
    return msgspec.structs.replace(recipe, distillation=how, seed=seed)


def _dataset(recipe: Recipe, data: Path | None) -> Dataset:
    return load_dataset(recipe.dataset, recipe.images, data)


def _train_and_score(task: tuple[str, int, Recipe, Path, Path | None]) -> str:
    name, seed, recipe, out, data = task
    recipe = _variant(recipe, name, seed)
    where = folder(out, name, seed)
    weights, scores = where / train.LAST, where / "scores.json"
    if scores.exists():
        return f"{where} (done earlier)"
    dataset = _dataset(recipe, data)
    if not weights.exists():
        train.train(SPACE, dataset, recipe, folder=where)
    net = checkpoint.load(weights).net
    found = []
    for arch in archs():
        got = score(recalibrated_subnet(net, arch, dataset.calibration), dataset.report)
        found.append({"arch_id": arch.id, "macs": net.plan(arch).macs, "top1": got.top1})
    write_file(scores, json.dumps(found, indent=1).encode())
    return str(where)


def _finetune_one(task: tuple[str, int, Recipe, Path, Path | None]) -> str:
    """Fine-tune one random subnet as in the paper: 4 epochs at a learning rate of 0.02."""
    name, part, recipe, out, data = task
    where = folder(out, name, 0) / f"finetuned-{part:02d}.json"
    if where.exists():
        return f"{where} (done earlier)"
    short = msgspec.structs.replace(
        recipe,
        epochs=4,
        warm_up_epochs=0,
        optimizer=msgspec.structs.replace(recipe.optimizer, lr=0.02, lr_batch=None),
    )
    dataset = _dataset(recipe, data)
    arch = archs()[2 + part]
    net = checkpoint.load(folder(out, name, 0) / train.LAST).net
    subnet = net.extract(arch)
    finetune(classification_task(subnet, dataset, short.augment, short.label_smoothing), short)
    write_file(where, json.dumps(score(subnet, dataset.report).top1).encode())
    return str(where)


def _scores(out: Path, name: str, seed: int) -> list[float]:
    content: list[dict[str, Any]] = json.loads(
        (folder(out, name, seed) / "scores.json").read_bytes()
    )
    return [100 * entry["top1"] for entry in content]


def table_v(out: Path, seeds: int) -> str:
    """A table of top-1 in %: mean and standard deviation over the seeds.

    The differences from Baseline are paired by seed and have their standard error.
    """
    lines = [
        "| | min | max | mean of 20 random | min - Baseline | max - Baseline | random - Baseline |",
        "|---|---|---|---|---|---|---|",
    ]
    figures: dict[str, list[list[float]]] = {}
    for name in VARIANTS:
        rows = [_scores(out, name, seed) for seed in range(seeds)]
        figures[name] = [[row[0], row[1], statistics.mean(row[2:])] for row in rows]
        cells = [
            f"{statistics.mean(v):.2f} ± {statistics.stdev(v):.2f}"
            for v in zip(*figures[name], strict=True)
        ]
        if name == "Baseline":
            cells += ["", "", ""]
        else:
            for column in range(3):
                differences = [
                    ours[column] - theirs[column]
                    for ours, theirs in zip(figures[name], figures["Baseline"], strict=True)
                ]
                error = statistics.stdev(differences) / len(differences) ** 0.5
                cells.append(f"{statistics.mean(differences):+.2f} ± {error:.2f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def fig_5(out: Path) -> str:
    """A table of inherited and fine-tuned top-1 of the 20 random subnets, for seed 0."""
    columns = {}
    for name in CONSISTENCY:
        inherited = _scores(out, name, 0)[2:]
        tuned = [
            100 * json.loads((folder(out, name, 0) / f"finetuned-{part:02d}.json").read_bytes())
            for part in range(RANDOM)
        ]
        columns[name] = (inherited, tuned)
    lines = [
        f"| {' | '.join(['MMACs', *(f'{n}: inherited | fine-tuned' for n in columns)])} |",
        "|" + "---|" * (1 + 2 * len(columns)),
    ]
    content = json.loads((folder(out, CONSISTENCY[0], 0) / "scores.json").read_bytes())
    macs = [entry["macs"] / 1e6 for entry in content[2:]]
    for i in np.argsort(macs):
        cells = [f"{columns[n][k][i]:.2f}" for n in columns for k in (0, 1)]
        lines.append(f"| {macs[i]:.2f} | {' | '.join(cells)} |")
    lines += ["", "| | RMSE (points) | Kendall tau |", "|---|---|---|"]
    for name, (inherited, tuned) in columns.items():
        rmse = float(np.sqrt(np.mean((np.array(inherited) - tuned) ** 2)))
        tau = float(kendalltau(inherited, tuned).statistic)
        lines.append(f"| {name} | {rmse:.2f} | {tau:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
