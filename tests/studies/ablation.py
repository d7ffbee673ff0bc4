"""Table V and Fig. 5 of the paper for any space and recipe, on one CPU or GPU or on several.

    python -m tests.studies.ablation --data DIR
    torchrun --nproc-per-node 8 -m tests.studies.ablation --space table1 --recipe imagenet \\
        --seeds 1 --data IMAGENET --out runs/ablation

Every training has a folder below --out, and every accuracy that is known is in a file there. So an
interrupted study continues where it stopped, and the tables are printed from these files. All
accuracies are those of the report split. Nothing is chosen by them: the networks are the last ones
of their training, and fine-tuning takes the epoch that is best on the selection split.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from scipy.stats import kendalltau

from ramnas_host.config import Finetuning, Recipe, load_finetuning, load_recipe
from ramnas_host.data import loader
from ramnas_host.data.datasets import load_dataset
from ramnas_host.data.images import Dataset
from ramnas_host.data.loader import ImageSource
from ramnas_host.finetuning.prepare import prepare
from ramnas_host.training import checkpoint, distributed, train
from ramnas_host.training.distributed import Ranks
from ramnas_host.training.truth import Truth
from ramnas_models.accuracy import Accuracy, share
from ramnas_models.files import write_file
from ramnas_models.sampling import sample_by_macs
from ramnas_models.space import Arch, Space, load_space

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


class Scored(msgspec.Struct):
    """An arch and its accuracy on the report split."""

    arch_id: str
    macs: int
    top1: Accuracy


@dataclass(frozen=True)
class Study:
    """What the study is about, and the processes that work on it."""

    space: Space
    recipe: Recipe
    data: Path | None
    out: Path
    workers: int | None
    ranks: Ranks

    @property
    def archs(self) -> list[Arch]:
        """Min, max and 20 random subnets spread over the MACs of the space, always the same."""
        return sample_by_macs(self.space, np.random.default_rng(0), RANDOM + 2)

    def folder(self, name: str, seed: int) -> Path:
        return self.out / f"{name.replace(' ', '_').replace(',', '')}-{seed}"

    def scores(self, name: str, seed: int) -> list[Scored]:
        content = (self.folder(name, seed) / "report.json").read_bytes()
        return msgspec.json.decode(content, type=list[Scored])

    def tuned(self, name: str, part: int) -> Path:
        return self.folder(name, 0) / f"finetuned-{part:02d}"

    def done(self, path: Path) -> bool:
        """Whether a file is there, as the leading process sees it, so that all agree."""
        return self.ranks.from_leader(path.exists())

    def workers_for(self, images: ImageSource) -> int:
        if self.workers is not None:
            return self.workers
        return loader.default_workers(images, self.ranks.local_world)

    def say(self, text: str) -> None:
        if self.ranks.leads:
            print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--space", default="micro")
    parser.add_argument("--recipe", default="fashion")
    parser.add_argument("--data", type=Path, help="folder of the data set")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, help="number of training images, 0: all")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--workers", type=int, help="processes that decode images")
    args = parser.parse_args()
    recipe = load_recipe(args.recipe)
    if args.images is not None:
        images = msgspec.structs.replace(recipe.images, train=args.images)
        recipe = msgspec.structs.replace(recipe, images=images)
    if args.epochs is not None:
        recipe = msgspec.structs.replace(recipe, epochs=args.epochs)
    with distributed.started(args.device) as ranks:
        study = Study(load_space(args.space), recipe, args.data, args.out, args.workers, ranks)
        dataset = load_dataset(recipe.dataset, recipe.images, args.data)
        for seed in range(args.seeds):
            for name in VARIANTS:
                _train_and_score(study, dataset, name, seed)
        for name in CONSISTENCY:
            for part in range(RANDOM):
                _finetune_one(study, name, part)
        if ranks.leads:
            print(table_v(study, args.seeds))
            print(fig_5(study))


def _train_and_score(study: Study, dataset: Dataset, name: str, seed: int) -> None:
    weighting, loss = VARIANTS[name]
    how = msgspec.structs.replace(
        study.recipe.distillation, smd_weighting=weighting, pair_loss=loss
    )
    recipe = msgspec.structs.replace(study.recipe, distillation=how, seed=seed)
    folder, ranks = study.folder(name, seed), study.ranks
    weights, scores = folder / train.LAST, folder / "report.json"
    if study.done(scores):
        return
    if not study.done(weights):
        train.train(
            study.space, dataset, recipe, folder=folder, ranks=ranks,
            workers=study.workers_for(dataset.train),
        )  # fmt: skip
        ranks.wait()  # the leading process writes the weights
    net = checkpoint.load(weights).net
    truth = Truth(net, dataset, ranks=ranks, path=folder / "truth.jsonl")

    def score() -> None:
        found = [
            Scored(arch.id, net.plan(arch).macs, share("top1", one.top1, "report", one.n))
            for arch, one in zip(study.archs, truth(study.archs, "report"), strict=True)
        ]
        write_file(scores, msgspec.json.encode(found))

    truth.lead(score)
    study.say(f"trained and scored: {folder}")


def _finetuning(recipe: Recipe) -> Finetuning:
    """As in the paper, 4 epochs from a learning rate of 0.02, at the batches of the supernet."""
    same = {
        key: getattr(recipe, key)
        for key in ("batch_size", "accumulate", "precision", "sync_batchnorm", "max_broken")
    }
    inherited = load_finetuning("inherited")
    settings = msgspec.structs.replace(
        inherited.optimizer,
        clip_norm=recipe.optimizer.clip_norm,
        clip_value=recipe.optimizer.clip_value,
    )
    return msgspec.structs.replace(inherited, optimizer=settings, **same)


def _finetune_one(study: Study, name: str, part: int) -> None:
    folder, ranks = study.tuned(name, part), study.ranks
    if study.done(folder / "scores.json"):
        return
    supernet = checkpoint.load(study.folder(name, 0) / train.LAST)
    run = prepare(supernet, study.archs[2 + part], _finetuning(study.recipe), study.data)
    run.train(folder, ranks, study.workers_for(run.task.train), lambda step: None)
    study.say(f"fine-tuned: {folder}")


def _percent(scores: list[Scored]) -> list[float]:
    return [100 * one.top1.value for one in scores]


def _mean(values: list[float], spread: float | None, sign: str = "") -> str:
    """The mean, and its spread if there are several values to know it from."""
    mean = f"{statistics.mean(values):{sign}.2f}"
    return mean if spread is None else f"{mean} ± {spread:.2f}"


def table_v(study: Study, seeds: int) -> str:
    """A table of top-1 in %: mean and standard deviation over the seeds.

    The differences from Baseline are paired by seed and have their standard error.
    """
    lines = [
        "| | min | max | mean of 20 random | min - Baseline | max - Baseline | random - Baseline |",
        "|---|---|---|---|---|---|---|",
    ]
    figures: dict[str, list[list[float]]] = {}
    for name in VARIANTS:
        rows = [_percent(study.scores(name, seed)) for seed in range(seeds)]
        figures[name] = [[row[0], row[1], statistics.mean(row[2:])] for row in rows]
        columns = [list(column) for column in zip(*figures[name], strict=True)]
        cells = [_mean(c, statistics.stdev(c) if seeds > 1 else None) for c in columns]
        if name == "Baseline":
            cells += ["", "", ""]
        else:
            for column in range(3):
                differences = [
                    ours[column] - theirs[column]
                    for ours, theirs in zip(figures[name], figures["Baseline"], strict=True)
                ]
                error = statistics.stdev(differences) / seeds**0.5 if seeds > 1 else None
                cells.append(_mean(differences, error, "+"))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "Single networks, of seed 0:", ""]
    for name in VARIANTS:
        low, high = study.scores(name, 0)[:2]
        lines.append(f"- {name}: min {low.top1}; max {high.top1}")
    return "\n".join([*lines, ""])


def fig_5(study: Study) -> str:
    """A table of inherited and fine-tuned top-1 of the 20 random subnets, for seed 0."""
    columns: dict[str, tuple[list[float], list[float]]] = {}
    for name in CONSISTENCY:
        tuned = []
        for part in range(RANDOM):
            content = (study.tuned(name, part) / "scores.json").read_bytes()
            found = msgspec.json.decode(content, type=list[Accuracy])
            tuned.append(next(100 * one.value for one in found if one.metric == "top1"))
        columns[name] = _percent(study.scores(name, 0)[2:]), tuned
    first = study.scores(CONSISTENCY[0], 0)[2:]
    macs = [one.macs / 1e6 for one in first]
    lines = [
        f"Top-1 in %, report split, n {first[0].top1.n}:",
        "",
        f"| {' | '.join(['MMACs', *(f'{n}: inherited | fine-tuned' for n in columns)])} |",
        "|" + "---|" * (1 + 2 * len(columns)),
    ]
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
