"""What a training leaves in its folder: state, best and last weights, metrics, run.yaml."""

from __future__ import annotations

from pathlib import Path

import msgspec
import torch

from ramnas_host import checkpoint, loader, resume
from ramnas_host.config import Recipe
from ramnas_host.data import Dataset
from ramnas_host.distributed import Ranks
from ramnas_host.evaluate import Scores, true_scores
from ramnas_host.metrics import Metrics
from ramnas_models.files import make_folder, write_file
from ramnas_models.supernet import Supernet

STATE, BEST, LAST = "state.safetensors", "best.safetensors", "supernet.safetensors"


class RunFolder:
    """Goes on from what is in `folder` and keeps what comes; of many ranks only one writes."""

    def __init__(
        self, folder: Path, net: Supernet, state: resume.State, dataset: Dataset, recipe: Recipe,
        ranks: Ranks,
    ) -> None:  # fmt: skip
        self._folder, self._net, self._state = folder, net, state
        self._dataset, self._recipe, self._ranks = dataset, recipe, ranks
        self._about = checkpoint.describe(dataset, recipe)
        self._what = resume.identity(net.space, recipe, len(dataset.train))
        self._per_epoch = loader.steps_per_epoch(dataset.train, recipe)
        self._steps = recipe.epochs * self._per_epoch
        self._metrics: Metrics | None = None
        self.place = resume.Place()

    @property
    def last_good(self) -> str:
        """Where an earlier state is, for the message of a training that fails."""
        if not self.place.next_step:
            return "nothing was saved before"
        return f"the last good state, of step {self.place.next_step}, is {self._folder / STATE}"

    def start(self) -> int:
        """Load the state if there is one, write run.yaml; the first step to do."""
        if (self._folder / STATE).exists():
            self.place = resume.load(self._folder / STATE, self._state, self._what)
        self._ranks.wait()  # until all have read it, before one writes it anew
        if self._ranks.leads:
            make_folder(self._folder)
            write_file(self._folder / "run.yaml", msgspec.yaml.encode(self._resolved()))
            self._metrics = Metrics(self._folder, self.place.next_step)
        return self.place.next_step

    def after(self, done: int) -> tuple[Scores, Scores] | None:
        """Evaluate and save where it is time to, after `done` steps; scores of min and max."""
        scores = None
        if done == self._steps or done % (self._per_epoch * self._recipe.evaluate_every) == 0:
            scores = self._evaluate()
        if done < self._steps and (scores or done % self._recipe.save_every == 0):
            self.place = resume.Place(done, self.place.best)
            if self._ranks.leads:
                resume.save(self._folder / STATE, self._state, self.place, self._what)
        return scores

    def write(
        self, step: int, epoch: int, lr: float, images_per_s: float, losses: tuple[float, ...],
        scores: tuple[Scores, Scores] | None,
    ) -> None:  # fmt: skip
        """A row of metrics."""
        if self._metrics:
            self._metrics.write(step, epoch, lr, images_per_s, losses, scores)

    def finish(self) -> None:
        """The last weights take the place of the state."""
        if self._metrics:
            self._metrics.close()
        if self._ranks.leads:
            checkpoint.save(self._folder / LAST, self._net, self._about)
            (self._folder / STATE).unlink(missing_ok=True)

    def _evaluate(self) -> tuple[Scores, Scores]:
        space = self._net.space
        low, high = true_scores(
            self._net, [space.min(), space.max()], self._dataset, "validation", ranks=self._ranks
        )
        mean = (low.top1 + high.top1) / 2
        if mean > self.place.best:
            self.place = resume.Place(self.place.next_step, mean)
            if self._ranks.leads:
                checkpoint.save(self._folder / BEST, self._net, self._about)
        return low, high

    def _resolved(self) -> dict[str, object]:
        """All that this run was told, and what followed from it."""
        dataset, ranks = self._dataset, self._ranks
        parts = ("train", "calibration", "validation", "test")
        return {
            "space": msgspec.to_builtins(self._net.space),
            "recipe": msgspec.to_builtins(self._recipe),
            "peak_lr": self._recipe.lr,
            "images": {part: len(dataset.split(part)) for part in parts},
            "steps": self._steps,
            "processes": ranks.world,
            "device": str(ranks.device),
            "torch": str(torch.__version__),
        }
