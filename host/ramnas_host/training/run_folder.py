"""The folder of a training: run.yaml, metrics, the state to go on from, best and last weights."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from ramnas_host.config import Schedule
from ramnas_host.training import resume
from ramnas_host.training.distributed import Ranks
from ramnas_host.training.metrics import Metrics
from ramnas_models.files import make_folder, write_file, writing

log = logging.getLogger(__name__)

STATE, BEST = "state.safetensors", "best.safetensors"


@dataclass(frozen=True)
class FolderContents:
    """What a kind of training writes into its folder.

    `last`: the file name of the last weights. `columns`: those of metrics.csv, losses before
    scores. `resolved`: what run.yaml says beside the recipe. `evaluate` returns the scores on the
    selection images and is called on every rank. `goodness` turns scores into one number; the best
    weights are those with the highest. `save` writes the weights to a file. Where the recipe has
    `ema`, the net has the moving average as its weights whenever one of these is called.
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
    """Goes on from the state in a folder, if there is one, and saves the results there.

    All ranks call it, and only the leading one writes.
    """

    def __init__(
        self, folder: Path, state: resume.State, contents: FolderContents, ranks: Ranks
    ) -> None:
        self._folder, self._state, self._contents, self._ranks = folder, state, contents, ranks
        self._steps = contents.recipe.epochs * contents.per_epoch
        self._metrics: Metrics | None = None
        self.progress = resume.TrainingProgress()

    @property
    def last_good(self) -> str:
        """Where the last good state is, for the error message of a training that fails."""
        if not self.progress.next_step:
            return "nothing was saved before"
        step = self.progress.next_step
        return f"the last good state, after step {step}, is in {self._folder / STATE}"

    def start(self) -> int:
        """Load the state, if there is one, and write run.yaml. Returns the first step to do."""
        contents = self._contents
        if (self._folder / STATE).exists():
            self.progress = resume.load(self._folder / STATE, self._state, contents.identity)
        self._ranks.wait()  # every rank must have read the state before it is overwritten
        if self._ranks.leads:
            make_folder(self._folder)
            if not self.progress.next_step:  # best weights there are from an earlier run
                _remove(self._folder / BEST)
            write_file(self._folder / "run.yaml", msgspec.yaml.encode(self._resolved()))
            self._metrics = Metrics(self._folder, self.progress.next_step, contents.columns)
        return self.progress.next_step

    def record(
        self, step: int, epoch: int, lr: float, images_per_s: float, wait_s: float,
        losses: tuple[float, ...],
    ) -> dict[str, float] | None:  # fmt: skip
        """Record a step that is done: evaluate if it is time to, add a row to the metrics, and save
        the state if it is time to. Returns the scores, if any."""
        scores, recipe = None, self._contents.recipe
        if step == self._steps or step % (self._contents.per_epoch * recipe.evaluate_every) == 0:
            scores = self._evaluate()
        # the row comes before the state: a run that is killed in between repeats the step, and the
        # other way round the row would be missing
        if self._metrics:
            self._metrics.write(step, epoch, lr, images_per_s, wait_s, losses, scores)
        if step < self._steps and (scores or step % recipe.save_every == 0):
            self._save(step)
        return scores

    def stop(self, step: int) -> None:
        """Save the state after `step`, with which the training was stopped.

        The last step is done again, because nobody has seen the scores that belong to it.
        """
        if self.progress.next_step < step < self._steps:
            self._save(step)
        if self._ranks.leads:
            log.warning(
                "stopped after step %d of %d; the same command goes on after step %d", step,
                self._steps, self.progress.next_step,
            )  # fmt: skip

    def finish(self) -> None:
        """Save the last weights and delete the state: the training is done."""
        if self._metrics:
            self._metrics.close()
        if self._ranks.leads:
            self._contents.save(self._folder / self._contents.last)
            _remove(self._folder / STATE)

    def _save(self, step: int) -> None:
        self.progress = resume.TrainingProgress(step, self.progress.best)
        if self._ranks.leads:
            state = self._folder / STATE
            resume.save(state, self._state, self.progress, self._contents.identity)

    def _evaluate(self) -> dict[str, float]:
        average = self._state.average
        with average.in_use() if average else nullcontext():
            scores = self._contents.evaluate()
            goodness = self._contents.goodness(scores)
            if goodness > self.progress.best:
                self.progress = resume.TrainingProgress(self.progress.next_step, goodness)
                if self._ranks.leads:
                    self._contents.save(self._folder / BEST)
        return scores

    def _resolved(self) -> dict[str, object]:
        """The settings of this run, and what follows from them."""
        return {
            **self._contents.resolved,
            "recipe": msgspec.to_builtins(self._contents.recipe),
            "peak_lr": self._contents.recipe.lr,
            "steps": self._steps,
            "processes": self._ranks.world,
            "device": str(self._ranks.device),
            "torch": str(torch.__version__),
        }


def _remove(path: Path) -> None:
    with writing(path):
        path.unlink(missing_ok=True)
