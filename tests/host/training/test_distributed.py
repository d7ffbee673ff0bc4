"""Two real gloo processes under torchrun, against one process that does their work in turn."""

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

from ramnas_host.config import Recipe, load_recipe
from ramnas_host.data import loader
from ramnas_host.data.augment import Augmentation
from ramnas_host.data.datasets import load_dataset
from ramnas_host.training import optimizer, sandwich
from ramnas_host.training.distributed import Ranks
from ramnas_models.sampling import sample_by_macs
from ramnas_models.space import load_space
from ramnas_models.supernet import Supernet

SPACE = load_space("micro")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def twenty_steps(**changes: object) -> Recipe:
    """Batches of 16; 320 images are 20 steps."""
    digits = load_recipe("digits")
    images = msgspec.structs.replace(digits.images, train=320)
    return msgspec.structs.replace(
        digits, images=images, epochs=1, batch_size=16, dropout=0.0, drop_connect=0.0, **changes
    )


def two_processes(recipe: Recipe, folder: Path) -> list[dict[str, Tensor]]:
    (folder / "recipe.json").write_bytes(msgspec.json.encode(recipe))
    worker = Path(__file__).with_name("ddp_worker.py")
    ran = subprocess.run(
        [*TORCHRUN, str(worker), str(folder / "recipe.json"), str(folder)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


@functools.cache  # both tests compare with both
def one_process(shares: int) -> dict[str, Tensor]:
    """The same batches in `shares` parts one after the other, the gradients averaged; float64."""
    recipe = twenty_steps()
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


def test_two_processes_give_the_weights_of_one(tmp_path: Path) -> None:
    first, second = two_processes(twenty_steps(), tmp_path)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert first["stem.weight"].dtype == torch.float64
    assert largest_difference(first, one_process(shares=2)) < 1e-6
    # statistics of half a batch are others, and that shows
    assert largest_difference(first, one_process(shares=1)) > 1e-4


def test_synchronised_batchnorm_gives_the_weights_of_the_whole_batch(tmp_path: Path) -> None:
    """With statistics over both processes, two halves are one batch, but for the order of sums."""
    synchronised, _ = two_processes(twenty_steps(sync_batchnorm=True), tmp_path)
    assert largest_difference(synchronised, one_process(shares=1)) < 1e-6
    assert largest_difference(synchronised, one_process(shares=2)) > 1e-4


def test_train_and_evaluate_run_under_torchrun(tmp_path: Path) -> None:
    """The verbs themselves: one set of files, archs shared over ranks, the figures of one."""
    recipe = tmp_path / "short.yaml"
    recipe.write_bytes(msgspec.yaml.encode(twenty_steps(evaluate_every=1)))
    out = tmp_path / "run"
    verb = [*TORCHRUN, "-m", "ramnas_host"]
    ran = subprocess.run(
        [*verb, "train", "--recipe", str(recipe), "--out", str(out)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("supernet:") == 1
    assert (out / "run.yaml").read_text().count("processes: 2") == 1
    archs = sample_by_macs(SPACE, np.random.default_rng(0), 5)
    (tmp_path / "archs.json").write_text(json.dumps([list(arch.integers) for arch in archs]))
    found = {}
    for name, how in (("alone", [sys.executable, "-m", "ramnas_host"]), ("shared", verb)):
        ran = subprocess.run(
            [*how, "evaluate", "--supernet", str(out / "supernet.safetensors"),
             "--archs", str(tmp_path / "archs.json"), "--out", str(tmp_path / f"{name}.json")],
            capture_output=True, text=True,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        assert "5 archs, mean" in ran.stdout
        found[name] = json.loads((tmp_path / f"{name}.json").read_bytes())
    assert found["alone"] == found["shared"]
    assert [entry["arch_id"] for entry in found["alone"]["archs"]] == [a.id for a in archs]


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    recipe = tmp_path / "odd.yaml"
    odd = msgspec.structs.replace(twenty_steps(), batch_size=15)
    recipe.write_bytes(msgspec.yaml.encode(odd))
    ran = subprocess.run(
        [*TORCHRUN, "-m", "ramnas_host", "train", "--recipe", str(recipe),
         "--out", str(tmp_path / "run")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode != 0
    assert "batch_size 15 cannot be shared evenly by 2 processes" in ran.stderr


def test_alone_nothing_is_exchanged() -> None:
    ranks, value = Ranks(), torch.ones(2)
    assert ranks.leads
    assert ranks.mean(value) is value
    assert ranks.gather("x") == ["x"]
    assert list(ranks.share([1, 2, 3])) == [1, 2, 3]
