"""However many processes share an evaluation, its accuracies are those of one; n counts images."""

from __future__ import annotations

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

torch = pytest.importorskip("torch")

from ramnas_host.config import load_finetuning, load_recipe
from ramnas_host.data.about import describe
from ramnas_host.data.datasets import load_dataset
from ramnas_host.data.images import Files, Split
from ramnas_host.data.scenes import write_scenes
from ramnas_host.finetuning.classification import classification_task
from ramnas_host.finetuning.finetune import Task
from ramnas_host.finetuning.prepare import prepare
from ramnas_host.training import checkpoint
from ramnas_host.training.distributed import Ranks
from ramnas_models.accuracy import Accuracy, wilson
from ramnas_models.errors import DataError
from ramnas_models.space import load_space
from ramnas_models.supernet import Supernet
from tests.models.randomised import randomise

T = TypeVar("T")
SPACE = load_space("micro")
BROKEN = 2  # of the report's images


@dataclasses.dataclass(frozen=True)
class Threads(Ranks):
    """Ranks that are threads of this process."""

    met: threading.Barrier = dataclasses.field(default_factory=lambda: threading.Barrier(1))
    values: dict[int, Any] = dataclasses.field(default_factory=dict, hash=False)

    def gather(self, value: T) -> list[T]:
        self.values[self.rank] = value
        self.met.wait()
        found = [self.values[rank] for rank in range(self.world)]
        self.met.wait()
        return found


def evaluated_by(task: Task, world: int) -> tuple[Accuracy, ...]:
    """The accuracies on the report split, which all ranks must agree on."""
    met = threading.Barrier(world)
    values: dict[int, Any] = {}
    ranks = [Threads(rank, world, world, met=met, values=values) for rank in range(world)]
    with ThreadPoolExecutor(world) as pool:
        found = list(pool.map(lambda one: task.evaluate("report", one).accuracies, ranks))
    assert all(one == found[0] for one in found)
    return found[0]


def tasks(folder: Path, report: int, broken: int) -> dict[str, Task]:
    """One task of each kind, with random weights; `broken` images of the report are no images."""
    digits = load_dataset("digits", load_recipe("digits").images)
    folder.mkdir(exist_ok=True)
    write_scenes(digits, folder / "scenes", {"train": 4, "val": 1, "test": report}, seed=0)
    scenes = sorted((folder / "scenes/coco/test").iterdir())
    for path in scenes[:broken]:
        path.write_bytes(b"no image")
    torch.manual_seed(0)
    checkpoint.save(folder / "s", Supernet(SPACE, 10), describe(digits, load_recipe("digits")))
    supernet = checkpoint.load(folder / "s")
    made = {}
    for name, data in (("detection", "coco"), ("segmentation", "cityscapes")):
        recipe = msgspec.structs.replace(load_finetuning(f"scenes-{name}"), input_hw=(64, 96))
        run = prepare(supernet, SPACE.min(), recipe, folder / "scenes" / data)
        made[name] = run.task
    split = digits.report
    files = Split(Files(scenes), split.labels[: len(scenes)], split.preprocessing)
    subnet = supernet.net.extract(SPACE.min())
    made["classification"] = classification_task(
        subnet, dataclasses.replace(digits, report=files), load_recipe("digits").augment, 0.0
    )
    for task in made.values():
        randomise(task.net)
        task.net.eval()
    return made


@pytest.mark.parametrize("task", ["detection", "segmentation", "classification"])
def test_any_number_of_processes_gives_the_accuracies_of_one(task: str, tmp_path: Path) -> None:
    made = tasks(tmp_path, 5, BROKEN)[task]
    alone = made.evaluate("report", Ranks()).accuracies
    assert {accuracy.n for accuracy in alone} == {5 - BROKEN}
    assert {accuracy.split for accuracy in alone} == {"report"}
    for world in (2, 7):  # with 7, two have no image at all
        for one, shared in zip(alone, evaluated_by(made, world), strict=True):
            assert shared.value == pytest.approx(one.value, abs=1e-6)
            assert shared.interval == pytest.approx(one.interval, abs=1e-6)
            assert (shared.metric, shared.split, shared.n) == (one.metric, one.split, one.n)


def test_shares_without_an_image_that_can_be_read_are_no_error_unless_all_are(
    tmp_path: Path,
) -> None:
    made = tasks(tmp_path, 3, 2)
    for task in made.values():
        assert evaluated_by(task, 3)[0].n == 1
    top1 = evaluated_by(made["classification"], 3)[0]
    assert top1.interval == wilson(top1.value, 1)
    for task in tasks(tmp_path / "all", 2, 2).values():
        with pytest.raises(DataError):
            evaluated_by(task, 2)
