"""Training as a process of torchrun that is alone in its run: nccl on a GPU, gloo on a CPU."""

from __future__ import annotations

import os
import socket
import time

import msgspec
import numpy as np
import torch
import torch.distributed as dist

from ramnas_host.config import SplitSizes, load_recipe
from ramnas_host.data.datasets import load_dataset
from ramnas_host.training import distributed, sandwich
from ramnas_host.training.distributed import Ranks
from ramnas_host.training.train import train
from ramnas_models.space import load_space
from ramnas_models.supernet import Supernet
from tests.gpu.sizes import Sizes
from tests.gpu.table import Rows

TOLERANCE = 1e-3  # of a loss; a GPU adds up in another order each time


def run(rows: Rows, sizes: Sizes, device: torch.device) -> None:
    """The same steps without torchrun's environment and with it, and what goes through nccl."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    expected = _losses(Ranks(device=device))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    os.environ.update(zip(names, ("0", "0", "1", "1", "127.0.0.1", str(port))))
    with distributed.started() as ranks:
        with rows.row(f"training, {backend}") as figures:
            assert dist.get_backend() == backend, f"the processes use {dist.get_backend()}"
            found = _losses(ranks)
            error = float(np.max(np.abs(found - expected) / expected))
            figures["steps"], figures["largest difference of a loss"] = len(found), error
            assert error <= TOLERANCE, f"the losses differ by more than {TOLERANCE}"
        with rows.row(f"synchronised BatchNorm, {backend}") as figures:
            alone, together = (_one_step(ranks.device, synchronised=s) for s in (False, True))
            error = float(((together - alone) / alone).abs().max())
            figures["largest difference of a loss"] = error
            assert error <= TOLERANCE, f"the losses differ by more than {TOLERANCE}"
        with rows.row(f"sum over the ranks, {backend}") as figures:
            values = torch.randn(2**22, device=ranks.device)
            before = values.clone()
            dist.all_reduce(values)
            start = time.perf_counter()
            for _ in range(10):
                dist.all_reduce(values)
            unchanged = torch.equal(values, before)  # waits for the GPU
            figures["MiB"], figures["ms"] = 16, 100 * (time.perf_counter() - start)
            assert unchanged, "a sum over one rank changed its values"


def _losses(ranks: Ranks) -> np.ndarray:
    """The losses of the first epoch of a small training, [steps, archs]."""
    images = SplitSizes(train=128, selection=16, calibration=16)
    recipe = msgspec.structs.replace(
        load_recipe("digits"), images=images, epochs=1, batch_size=32, precision="fp32"
    )
    losses = []
    train(
        load_space("micro"), load_dataset("digits", images), recipe, ranks=ranks,
        on_step=lambda step: losses.append(step.losses),
    )  # fmt: skip
    return np.array(losses)


def _one_step(device: torch.device, *, synchronised: bool) -> torch.Tensor:
    torch.manual_seed(0)
    space = load_space("micro")
    net = Supernet(space, 10).to(device).train()
    if synchronised:
        net.synchronise_batchnorm()
    x = torch.randn(32, 3, 48, 48, device=device)
    labels = torch.arange(32, device=device) % 10
    archs = sandwich.draw(space, net, np.random.default_rng(0))
    images = sandwich.at_any_resolution(x, "bilinear")
    return sandwich.step(net, archs, images, labels, load_recipe("digits"))
