"""A training step of the supernet, against the same four networks copied and trained plainly.

It also compares mutual distillation of the subnets with in-place distillation, and recalibration
of BatchNorm with a plain forward pass of the same images.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ramnas_host.config import Recipe, load_recipe
from ramnas_host.training import distill, sandwich
from ramnas_models.space import Arch, load_space
from ramnas_models.supernet import Subnet, Supernet
from tests.benchmarks.timing import in_turn
from tests.saved_memory import saved_memory

Case = tuple[Supernet, sandwich.Images, Tensor]  # network, images, labels


def run() -> dict[str, float]:
    """Train `table1` with batches of 8 at up to 288 px and `micro` with 64 at up to 48 px.

    Dropout is off. Each pair of steps draws four new archs. One thread, so that the scheduling of
    threads is not part of the comparison.
    """
    recipe = msgspec.structs.replace(load_recipe("fashion"), dropout=0.0, drop_connect=0.0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        full, small = _case("table1", 8), _case("micro", 64)
        found = {
            **_against_copies(full, recipe, pairs=5),
            **_against_copies(small, recipe, pairs=15),
            **_against_in_place(small, recipe),
            **_recalibration(small),
        }
    finally:
        torch.set_num_threads(threads)
    return found


def _case(space_name: str, batch: int) -> Case:
    space = load_space(space_name)
    torch.manual_seed(0)
    net = Supernet(space, 10).train()
    # the last gamma of each block starts at 0, which would hide most of the gradient
    with torch.no_grad():
        for key, parameter in net.named_parameters():
            if key.endswith("bn.weight"):
                parameter.uniform_(0.5, 1.5)
    side = max(space.resolutions)
    x = torch.randn(batch, 3, side, side).to(memory_format=torch.channels_last)
    images = sandwich.at_any_resolution(x, "bilinear")
    for resolution in space.resolutions:
        images(resolution)
    return net, images, torch.randint(0, 10, (batch,))


def _against_copies(case: Case, recipe: Recipe, pairs: int) -> dict[str, float]:
    """The peer trains deep copies of the four networks: all losses summed, one backward."""
    net, images, labels = case
    ours_s, peer_s, copy_s, errors, memory = [], [], [], [], []
    for pair in range(pairs + 1):
        archs = sandwich.draw(net.space, net, np.random.default_rng(pair))
        net.zero_grad()
        start = time.perf_counter()
        copies = [net.extract(arch).train() for arch in archs]
        copying = time.perf_counter() - start
        seconds = {}
        steps: list[tuple[str, Callable[[], object]]] = [
            ("ours", lambda a=archs: sandwich.step(net, a, images, labels, recipe)),
            ("peer", lambda c=copies: _plain_step(c, images, labels, recipe)),
        ]
        # in alternating order, so that neither always comes second
        for name, step in steps if pair % 2 else reversed(steps):
            start = time.perf_counter()
            step()
            seconds[name] = time.perf_counter() - start
        if pair == 0:
            continue  # the first pair is slow for both
        ours_s.append(seconds["ours"])
        peer_s.append(seconds["peer"])
        copy_s.append(copying)
        errors.append(_largest_error(net, archs, copies))
        if pair <= 3:
            used = {}
            for name, step in steps:
                with saved_memory() as saved:
                    step()
                used[name] = saved.most
            memory.append(used["ours"] / used["peer"])
    all_s = list(zip(ours_s, peer_s, copy_s, strict=True))
    name = net.space.name
    return {
        f"{name}_images_per_s": len(labels) / statistics.median(ours_s),
        f"{name}_peer_images_per_s": len(labels) / statistics.median(peer_s),
        f"{name}_times_as_fast": statistics.median(peer / ours for ours, peer, _ in all_s),
        f"{name}_times_as_fast_with_copying": statistics.median(
            (peer + copying) / ours for ours, peer, copying in all_s
        ),
        f"{name}_largest_gradient_error": max(errors),
        f"{name}_share_of_peer_memory": statistics.median(memory),
    }


def _plain_step(
    copies: list[Subnet], images: sandwich.Images, labels: Tensor, recipe: Recipe
) -> None:
    logits = [copy(images(copy.plan.input_hw[0])) for copy in copies]
    total = F.cross_entropy(logits[0], labels, label_smoothing=recipe.label_smoothing)
    how = recipe.distillation
    for student in range(1, len(copies)):
        for teacher, weight in distill.teachers(student, len(copies), how.smd_weighting):
            learns = distill.predict(logits[student], labels, how)
            teaches = distill.predict(logits[teacher].detach(), labels, how)
            total = total + weight * distill.pair_loss(learns, teaches, how)
    total.backward()


def _largest_error(net: Supernet, archs: list[Arch], copies: list[Subnet]) -> float:
    """The largest error of a gradient, compared with the sum over the copies.

    It is relative to the largest gradient of the same tensor, or to a thousandth of the largest
    gradient of all, whichever is larger.
    """
    expected = {key: torch.zeros_like(p) for key, p in net.named_parameters()}
    for copy in copies:
        for key, parameter in copy.named_parameters():
            if parameter.grad is None:
                continue
            where = [slice(n) for n in parameter.shape]
            if parameter.ndim == 4:  # the centre of a larger kernel
                edge = (expected[key].shape[2] - parameter.shape[2]) // 2
                where[2:] = [slice(edge, edge + parameter.shape[2])] * 2
            expected[key][tuple(where)] += parameter.grad
    floor = 1e-3 * max(float(grad.abs().max()) for grad in expected.values())
    largest = 0.0
    for key, parameter in net.named_parameters():
        if parameter.grad is not None:
            scale = max(floor, float(expected[key].abs().max()))
            error = float((parameter.grad - expected[key]).abs().max()) / scale
            largest = max(largest, error)
    return largest


def _against_in_place(case: Case, recipe: Recipe) -> dict[str, float]:
    """Time 30 pairs of steps on the same archs: mutual and in-place distillation."""
    net, images, labels = case
    how = recipe.distillation
    off = msgspec.structs.replace(
        recipe, distillation=msgspec.structs.replace(how, smd_weighting="off")
    )
    archs = sandwich.draw(net.space, net, np.random.default_rng(0))
    _, _, ratio = in_turn(
        lambda: sandwich.step(net, archs, images, labels, recipe),
        lambda: sandwich.step(net, archs, images, labels, off),
        pairs=30,
    )
    return {"mutual_over_in_place_distillation": ratio}


def _recalibration(case: Case) -> dict[str, float]:
    """Recalibrate on eight batches of 64; the peer is a plain forward pass through the subnet."""
    net, images, _ = case
    ratios = []
    for seed in range(5):
        arch = net.space.sample(np.random.default_rng(seed))
        subnet = net.extract(arch)
        batches = [images(arch.resolution)] * 8

        def forward(subnet: Subnet = subnet, batches: list[Tensor] = batches) -> None:
            with torch.no_grad():
                for batch in batches:
                    subnet(batch)

        def recalibrate(subnet: Subnet = subnet, batches: list[Tensor] = batches) -> None:
            subnet.recalibrate(batches)

        ratios.append(in_turn(recalibrate, forward, pairs=5)[2])
    return {"recalibration_over_forward": statistics.median(ratios)}
