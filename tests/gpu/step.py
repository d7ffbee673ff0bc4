"""A training step of the supernet in one precision, against four plain networks in its place."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ramnas_host.config import Recipe, load_recipe
from ramnas_host.training import cuda, optimizer, resume, sandwich, train
from ramnas_models.space import load_space
from ramnas_models.supernet import Supernet
from tests.gpu.plain import plain
from tests.gpu.sizes import Sizes
from tests.gpu.table import Figure, Rows

CLASSES = 1000
LR = 1e-3  # small, so that the weights stay close to the random ones that they start with
# how much the losses of the first step may differ from those expected, relative to the loss
TOLERANCES = {"fp32": 1e-3, "bf16": 0.1, "fp16": 2e-2}


def run(rows: Rows, sizes: Sizes, device: torch.device, precision: str, how: str = "") -> None:
    """One row; with `how` "compiled" that of the compiled supernet."""
    with rows.row(f"{sizes.space}, {precision}{f', {how}' if how else ''}") as figures:
        comparison = _Comparison(sizes, device, precision)
        if how == "compiled":
            comparison.compiled(figures)
        else:
            comparison.against_plain(figures)


class _Side:
    """What trains in a comparison: its tensors, and a call that takes one optimizer step."""

    def __init__(self, net: nn.Module, sgd: torch.optim.SGD, step: Callable[[], Tensor]) -> None:
        self.net, self.sgd = net, sgd
        self.step = step  # -> the loss of each network, [archs]

    def held_bytes(self) -> int:
        """Weights, gradients and momentum that are there between two steps."""
        tensors = [*self.net.parameters(), *self.net.buffers()]
        tensors += [p.grad for p in self.net.parameters() if p.grad is not None]
        tensors += [state["momentum_buffer"] for state in self.sgd.state.values()]
        return sum(tensor.nbytes for tensor in tensors)


class _Comparison:
    """Four archs, pictures of their resolutions and a recipe, for the supernet and its peer."""

    def __init__(self, sizes: Sizes, device: torch.device, precision: str) -> None:
        cuda.set_up(device, precision)
        torch.manual_seed(0)
        self.sizes, self.device, self.recipe = sizes, device, recipe(precision)
        self.net = Supernet(load_space(sizes.space), CLASSES).to(device).train()
        with torch.no_grad():
            for key, parameter in self.net.named_parameters():
                if key.endswith("bn.weight"):  # some start at 0, which would switch blocks off
                    parameter.uniform_(0.5, 1.5)
        self.archs = sandwich.draw(self.net.space, self.net, np.random.default_rng(0))
        x = torch.randn(sizes.batch, 3, sizes.pixels, sizes.pixels, device=device)
        x = x.contiguous(memory_format=torch.channels_last)
        self.images = sandwich.at_any_resolution(x, "bilinear")
        for arch in self.archs:
            self.images(arch.resolution)
        self.labels = torch.randint(0, CLASSES, (sizes.batch,), device=device)

    def compiled(self, figures: dict[str, Figure]) -> None:
        """The supernet alone, with max and min compiled as the recipe's `compile` does it."""
        start_weights = {key: value.clone() for key, value in self.net.state_dict().items()}
        expected = self._ours(self.net).step()
        self.net.load_state_dict(start_weights)
        ours = self._ours(train._compiled(self.net))
        start = time.perf_counter()
        losses = ours.step()
        self._finish()
        figures["first step, with compilation, s"] = time.perf_counter() - start
        (figures["images/s"],) = self._speeds([ours])
        self._memory(figures, "peak GiB", ours)
        self._check(figures, losses, expected, "from those without compilation")

    def against_plain(self, figures: dict[str, Figure]) -> None:
        """The supernet and four plain networks, which start with the same weights."""
        peer, ours = self._peer(), self._ours(self.net)
        losses, expected = ours.step(), peer.step()
        speed, peer_speed = self._speeds([ours, peer])
        figures["images/s"] = speed
        figures["plain networks images/s"] = peer_speed
        figures["times as fast"] = speed / peer_speed
        self._memory(figures, "peak GiB", ours)
        self._memory(figures, "plain networks peak GiB", peer)
        self._check(figures, losses, expected, "from those of the plain networks")

    def _check(
        self, figures: dict[str, Figure], losses: Tensor, expected: Tensor, difference: str
    ) -> None:
        error = float(((losses - expected) / expected).abs().max())
        figures["largest difference of a loss"] = error
        tolerance = TOLERANCES[self.recipe.precision]
        assert error <= tolerance, f"the losses differ by more than {tolerance} {difference}"

    def _ours(self, forward: sandwich.Forward) -> _Side:
        state = resume.new_state(self.net, self.recipe)

        def step() -> Tensor:
            state.sgd.zero_grad()
            losses = sandwich.step(
                forward, self.archs, self.images, self.labels, self.recipe, state.scaler
            )
            optimizer.update(state.sgd, self.net, self.recipe, LR, state.scaler)
            return losses

        return _Side(self.net, state.sgd, step)

    def _peer(self) -> _Side:
        """The usual code for the same job, with nothing of ramnas in it but the archs."""
        nets = nn.ModuleList(plain(self.net.extract(arch)) for arch in self.archs)
        nets = nets.to(self.device).train()
        settings, precision = self.recipe.optimizer, self.recipe.precision
        sgd = torch.optim.SGD(
            nets.parameters(), lr=LR, momentum=settings.momentum, nesterov=True,
            weight_decay=settings.weight_decay,
        )  # fmt: skip
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
        scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")

        def step() -> Tensor:
            sgd.zero_grad()
            losses: list[Tensor] = []
            taught: list[Tensor] = []
            for net, arch in zip(nets, self.archs):
                with torch.autocast(self.device.type, half, enabled=half is not None):
                    logits = net(self.images(arch.resolution))
                own = F.log_softmax(logits.float(), 1)
                if taught:
                    pairs = [
                        F.kl_div(own, teacher, reduction="batchmean", log_target=True)
                        for teacher in taught
                    ]
                    loss = torch.stack(pairs).mean()
                else:
                    smoothing = self.recipe.label_smoothing
                    loss = F.cross_entropy(logits.float(), self.labels, label_smoothing=smoothing)
                scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
                taught.append(own.detach())
                losses.append(loss.detach())
            scaler.step(sgd)
            scaler.update()
            return torch.stack(losses)

        return _Side(nets, sgd, step)

    def _speeds(self, sides: list[_Side]) -> list[float]:
        """Images per second of each, from the median of steps that are taken in turn."""
        seconds: list[list[float]] = [[] for _ in sides]
        warm_up = 0 if self.device.type == "cpu" else 2  # a GPU's first steps choose kernels
        for turn in range(warm_up + self.sizes.steps):
            for side, times in zip(sides, seconds):
                self._finish()
                start = time.perf_counter()
                side.step()
                self._finish()
                if turn >= warm_up:
                    times.append(time.perf_counter() - start)
        return [self.sizes.batch / statistics.median(times) for times in seconds]

    def _memory(self, figures: dict[str, Figure], name: str, side: _Side) -> None:
        """The most that a step needs on the GPU, without what the other side holds there."""
        if self.device.type == "cpu":
            return
        held, before = side.held_bytes(), torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        side.step()
        self._finish()
        figures[name] = (torch.cuda.max_memory_allocated() - before + held) / 2**30

    def _finish(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def recipe(precision: str) -> Recipe:
    """The recipe `imagenet` without dropout, with the loss that torch has a function for (KL)."""
    found = load_recipe("imagenet")
    distillation = msgspec.structs.replace(found.distillation, pair_loss="kl", temperature=1.0)
    return msgspec.structs.replace(
        found, precision=precision, dropout=0.0, drop_connect=0.0, distillation=distillation
    )
