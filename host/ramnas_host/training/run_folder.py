"""What a training leaves in its folder: state, best and last weights, metrics, run.yaml."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from ramnas_host.config import Schedule
from ramnas_host.training import resume
from ramnas_host.training.distributed import Ranks
from ramnas_host.training.metrics import Metrics
from ramnas_models.files import make_folder, write_file

STATE, BEST = "state.safetensors", "best.safetensors"


@dataclass(frozen=True)
class Kept:
    """What one kind of training gives its folder.

    `last`: name of the file of the last weights. `columns` of metrics.csv: losses, then scores.
    `evaluate` gives the scores on the validation images, on every rank; `goodness` of them is what
    the best weights have the most of.
    """

    recipe: Schedule
    per_epoch: int
    identity: str
    last: str
    columns: tuple[str, ...]
    resolved: Mapping[str, object]
    evaluate: Callable[[], dict[str, float]]
    goodness: Callable[[dict[str, float]], float]
    save: Callable[[Path], None]


class RunFolder:
    """Goes on from what is in `folder` and keeps what comes; of many ranks only one writes."""

    def __init__(self, folder: Path, state: resume.State, what: Kept, ranks: Ranks) -> None:
        self._folder, self._state, self._what, self._ranks = folder, state, what, ranks
        self._steps = what.recipe.epochs * what.per_epoch
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
            self.place = resume.load(self._folder / STATE, self._state, self._what.identity)
        self._ranks.wait()  # until all have read it, before one writes it anew
        if self._ranks.leads:
            make_folder(self._folder)
            if not self.place.next_step:  # what is there is of an earlier run
                (self._folder / BEST).unlink(missing_ok=True)
            write_file(self._folder / "run.yaml", msgspec.yaml.encode(self._resolved()))
            self._metrics = Metrics(self._folder, self.place.next_step, self._what.columns)
        return self.place.next_step

    def after(self, done: int) -> dict[str, float] | None:
        """Evaluate and save where it is time to, after `done` steps; the scores."""
        scores, what = None, self._what
        if done == self._steps or done % (what.per_epoch * what.recipe.evaluate_every) == 0:
            scores = self._evaluate()
        if done < self._steps and (scores or done % what.recipe.save_every == 0):
            self.place = resume.Place(done, self.place.best)
            if self._ranks.leads:
                resume.save(self._folder / STATE, self._state, self.place, what.identity)
        return scores

    def write(
        self, step: int, epoch: int, lr: float, images_per_s: float, losses: tuple[float, ...],
        scores: dict[str, float] | None,
    ) -> None:  # fmt: skip
        """A row of metrics."""
        if self._metrics:
            self._metrics.write(step, epoch, lr, images_per_s, losses, scores)

    def finish(self) -> None:
        """The last weights take the place of the state."""
        if self._metrics:
            self._metrics.close()
        if self._ranks.leads:
            self._what.save(self._folder / self._what.last)
            (self._folder / STATE).unlink(missing_ok=True)

    def _evaluate(self) -> dict[str, float]:
        scores = self._what.evaluate()
        goodness = self._what.goodness(scores)
        if goodness > self.place.best:
            self.place = resume.Place(self.place.next_step, goodness)
            if self._ranks.leads:
                self._what.save(self._folder / BEST)
        return scores

    def _resolved(self) -> dict[str, object]:
        """All that this run was told, and what followed from it."""
        return {
            **self._what.resolved,
            "recipe": msgspec.to_builtins(self._what.recipe),
            "peak_lr": self._what.recipe.lr,
            "steps": self._steps,
            "processes": self._ranks.world,
            "device": str(self._ranks.device),
            "torch": str(torch.__version__),
        }
