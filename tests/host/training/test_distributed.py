"""Two gloo processes under torchrun, compared with one process that does the work of both.

torchrun starts them once for all tests: the start costs more than what they do.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor

from ramnas_host.cli import main
from ramnas_host.config import Recipe, SplitSizes, load_recipe
from ramnas_host.data import loader
from ramnas_host.data.augment import Augmentation
from ramnas_host.data.datasets import load_dataset
from ramnas_host.training import checkpoint, distributed, optimizer, pretrained, sandwich, train
from ramnas_host.training.distributed import Ranks
from ramnas_models.errors import DataError
from ramnas_models.plan import part_of
from ramnas_models.sampling import sample_by_macs
from ramnas_models.space import Arch, load_space
from ramnas_models.supernet import Supernet

SPACE = load_space("micro")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def two_steps(**changes: object) -> Recipe:
    """32 images in batches of 16."""
    digits = load_recipe("digits")
    images = SplitSizes(train=32, selection=50, calibration=20)
    short = {"images": images, "epochs": 1, "batch_size": 16, "random_subnets": 0}
    return msgspec.structs.replace(digits, **{**short, **changes})


def five_archs() -> list[Arch]:
    return sample_by_macs(SPACE, np.random.default_rng(0), 5)


def evaluate_verb(folder: Path, out: str) -> list[str]:
    files = {"--supernet": "run/supernet.safetensors", "--archs": "archs.json", "--out": out}
    return [
        "evaluate",
        *(word for key, name in files.items() for word in (key, str(folder / name))),
    ]


def front_verbs(folder: Path, out: str) -> list[list[str]]:
    """A small search by MACs, its verification and its bundle, in the folder `out`."""
    weights = ["--supernet", str(folder / "run/supernet.safetensors"), "--device", "cpu"]
    found, verified, bundle, store = (
        str(folder / out / name) for name in ("front.json", "verified.json", "bundle", "s.sqlite")
    )
    few = {"accuracy-samples": 20, "population": 40, "parents": 20, "generations": 2,
           "infill-rounds": 2, "candidates": 3}  # fmt: skip
    small = [word for name, count in few.items() for word in (f"--{name}", str(count))]
    return [
        ["search", *weights, *small, "--objectives", "top1,macs", "--out", found],
        ["verify", *weights, "--front", found, "--store", store, "--out", verified],
        ["bundle", *weights, "--front", verified, "--out", bundle],
    ]


class TwoProcesses:
    """What a run of ddp_worker.py in two processes printed and left in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, recipe in (
            ("short", two_steps(evaluate_every=1)), ("odd", two_steps(batch_size=15)),
        ):  # fmt: skip
            (folder / f"{name}.yaml").write_bytes(msgspec.yaml.encode(recipe))
        integers = [list(arch.integers) for arch in five_archs()]
        (folder / "archs.json").write_text(json.dumps(integers))
        jobs = {
            "trainings": {
                "plain": two_steps(), "synchronised": two_steps(sync_batchnorm=True),
                "in parts": two_steps(accumulate=2),
                "frozen": two_steps(sync_batchnorm=True, freeze="stage2"),
            },
            "commands": [
                self._train("short", "run"),
                [
                    *self._train("short", "continued"), "--freeze", "stage2",
                    "--init", str(folder / "run/supernet.safetensors"),
                ],
                evaluate_verb(folder, "shared.json"),
                *front_verbs(folder, "two"),
            ],
            "refused": self._train("odd", "refused"),
        }  # fmt: skip
        (folder / "jobs.json").write_bytes(msgspec.json.encode(jobs))
        worker = Path(__file__).with_name("ddp_worker.py")
        self.ran = subprocess.run(
            [*TORCHRUN, str(worker), str(folder / "jobs.json"), str(folder)],
            capture_output=True, text=True,
        )  # fmt: skip
        assert self.ran.returncode == 0, self.ran.stderr

    def _train(self, recipe: str, out: str) -> list[str]:
        return ["train", "--recipe", str(self.folder / f"{recipe}.yaml"),
                "--out", str(self.folder / out)]  # fmt: skip

    def weights(self, training: str) -> list[dict[str, Tensor]]:
        """The weights that each rank has at the end of a training."""
        return [
            torch.load(self.folder / f"{training}-rank{rank}.pt", weights_only=True)
            for rank in (0, 1)
        ]


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> TwoProcesses:
    return TwoProcesses(tmp_path_factory.mktemp("two"))


@functools.cache  # several tests compare with them
def one_process(shares: int) -> dict[str, Tensor]:
    """The weights after the same steps in one process, in float64.

    It does the `shares` parts of each batch one after the other and averages their gradients.
    """
    recipe = two_steps()
    torch.set_default_dtype(torch.float64)
    try:
        dataset = load_dataset(recipe.dataset, recipe.images)
        torch.manual_seed(recipe.seed)
        net = Supernet(SPACE, 10).train()
        sgd = optimizer.sgd(net, recipe)
        augmentation = Augmentation(recipe.augment, dataset.train.preprocessing.normalisation)
        steps = len(dataset.train) // recipe.batch_size
        parts = [
            loader.batches(dataset.train, recipe, 0, steps, rank=rank, world=shares)
            for rank in range(shares)
        ]
        for step in range(steps):
            archs = sandwich.draw(SPACE, net, np.random.default_rng((recipe.seed, step)))
            sgd.zero_grad()
            for part in parts:
                batch = next(part)
                images = sandwich.at_any_resolution(augmentation(batch.pixels), "bilinear")
                sandwich.step(net, archs, images, batch.labels, recipe)
            for parameter in net.parameters():
                if parameter.grad is not None:
                    parameter.grad /= shares
            lr = recipe.lr * optimizer.rate(step, steps, recipe.warm_up_epochs * steps)
            optimizer.update(sgd, net, recipe, lr)
        return net.state_dict()
    finally:
        torch.set_default_dtype(torch.float32)


def largest_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return max(float((a[key] - b[key]).abs().max()) for key in a)


def test_two_processes_give_the_weights_of_one(two_processes: TwoProcesses) -> None:
    first, second = two_processes.weights("plain")
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert first["stem.weight"].dtype == torch.float64
    assert largest_difference(first, one_process(shares=2)) < 1e-6
    # BatchNorm over half a batch has other statistics, which shows in the weights
    assert largest_difference(first, one_process(shares=1)) > 1e-4


def test_parts_one_after_the_other_give_the_weights_of_processes_side_by_side(
    two_processes: TwoProcesses,
) -> None:
    """BatchNorm normalises a part as it does the share of a process, which has the same images."""
    in_parts, _ = two_processes.weights("in parts")
    assert largest_difference(in_parts, one_process(shares=4)) < 1e-6
    recipe = two_steps(accumulate=2)
    torch.set_default_dtype(torch.float64)
    try:
        alone = train.train(SPACE, load_dataset(recipe.dataset, recipe.images), recipe)
    finally:
        torch.set_default_dtype(torch.float32)
    assert largest_difference(alone.state_dict(), one_process(shares=2)) < 1e-6


def test_synchronised_batchnorm_gives_the_weights_of_the_whole_batch(
    two_processes: TwoProcesses,
) -> None:
    """With statistics over both processes two halves are one batch, but for the order of sums."""
    synchronised, _ = two_processes.weights("synchronised")
    assert largest_difference(synchronised, one_process(shares=1)) < 1e-6
    assert largest_difference(synchronised, one_process(shares=2)) > 1e-4


def test_two_processes_train_one_set_of_files(two_processes: TwoProcesses) -> None:
    assert two_processes.ran.stdout.count("supernet:") == 2  # two trainings
    record = (two_processes.folder / "run/run.yaml").read_text()
    assert record.count("processes: 2") == 1


def test_two_processes_leave_frozen_stages_alone(two_processes: TwoProcesses) -> None:
    """From random weights, with synchronised BatchNorm, and from those of another training."""
    first, second = two_processes.weights("frozen")
    assert all(torch.equal(first[key], second[key]) for key in first)
    torch.set_default_dtype(torch.float64)
    try:
        torch.manual_seed(two_steps().seed)
        before = Supernet(SPACE, 10).state_dict()
    finally:
        torch.set_default_dtype(torch.float32)
    run, continued = (
        checkpoint.load(two_processes.folder / name / train.LAST) for name in ("run", "continued")
    )
    assert continued.about.init == pretrained.digest(run)
    for old, new in ((before, first), (run.net.state_dict(), continued.net.state_dict())):
        for key in new:
            if ".bn.running_" not in key and not key.endswith("bias"):
                kept = part_of(key) in ("stem", "stage1", "stage2")
                assert torch.equal(old[key], new[key]) == kept, key


def test_archs_shared_by_two_processes_score_as_in_one(two_processes: TwoProcesses) -> None:
    assert two_processes.ran.stdout.count("mean of all: top1 ") == 1
    folder = two_processes.folder
    assert main.main(evaluate_verb(folder, "alone.json")) == 0
    shared, alone = (
        json.loads((folder / f"{name}.json").read_bytes()) for name in ("shared", "alone")
    )
    assert alone == shared
    assert [entry["arch_id"] for entry in alone["archs"]] == [a.id for a in five_archs()]


def test_two_processes_find_the_front_of_one_and_write_its_bundle(
    two_processes: TwoProcesses,
) -> None:
    folder = two_processes.folder
    (folder / "one").mkdir()
    for argv in front_verbs(folder, "one"):
        assert main.main(argv) == 0
    for file in ("front.json", "verified.json", "bundle/manifest.json"):
        assert (folder / "one" / file).read_bytes() == (folder / "two" / file).read_bytes(), file
    for file in ("front", "verified"):  # in the order in which the processes were done
        one, two = (
            sorted((folder / name / f"{file}.accuracies.jsonl").read_text().splitlines())
            for name in ("one", "two")
        )
        assert one == two
    assert len(one) == len(set(one))
    assert two_processes.ran.stdout.count("front of ") == 1


def test_when_a_process_fails_the_others_end_at_once(two_processes: TwoProcesses) -> None:
    assert "DataError: this rank is lost" in two_processes.ran.stdout
    assert "FleetError: another process of this run has ended" in two_processes.ran.stdout


def test_a_batch_that_cannot_be_shared_is_refused(two_processes: TwoProcesses) -> None:
    assert "batch_size 15 cannot be shared evenly by 2 processes" in two_processes.ran.stderr


def test_alone_nothing_is_exchanged() -> None:
    ranks, value = Ranks(), torch.ones(2)
    assert ranks.leads
    assert ranks.mean(value) is value
    assert ranks.gather("x") == ["x"]
    assert ranks.from_leader("x") == "x"
    assert list(ranks.share([1, 2, 3])) == [1, 2, 3]
    done: list[int] = []
    assert list(ranks.taken(3, done.append)) == [0, 1, 2]
    assert done == [1, 2, 3]


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(DataError, match="finds no GPU on this machine; give --device cpu"):
        distributed.started("cuda").__enter__()
    with distributed.started("auto") as ranks:
        assert ranks.device.type == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with distributed.started("auto") as ranks:
        assert ranks.device.type == "cuda"
    with distributed.started("cpu") as ranks:
        assert ranks.device.type == "cpu"
    for name, value in (("WORLD_SIZE", 2), ("LOCAL_WORLD_SIZE", 2), ("LOCAL_RANK", 1)):
        monkeypatch.setenv(name, str(value))
    with pytest.raises(DataError, match="2 processes share 1 GPU"):
        distributed.started("auto").__enter__()
