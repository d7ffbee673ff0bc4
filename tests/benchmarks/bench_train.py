"""A training step of the supernet, against the same four networks copied out and trained plainly.

Besides: subnets mutual distillation against in-place distillation, and recalibration against a
plain forward pass of the same images.
"""

from __future__ import annotations

import statistics
import time

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ramnas_host import distill, sandwich
from ramnas_host.config import Recipe, load_recipe
from ramnas_models.space import Arch, load_space
from ramnas_models.supernet import Subnet, Supernet
from tests.benchmarks.timing import in_turn
from tests.saved_memory import saved_memory

BATCH = 64
PAIRS = 15


def run() -> dict[str, float]:
    """`micro`, 48 px, batch 64; the four archs of a step drawn anew for every pair."""
    space = load_space("micro")
    recipe = msgspec.structs.replace(load_recipe("fashion"), dropout=0.0, drop_connect=0.0)
    torch.manual_seed(0)
    net = Supernet(space, 10).train()
    with torch.no_grad():  # a last gamma of 0 would hide most of the gradient
        for key, parameter in net.named_parameters():
            if key.endswith("bn.weight"):
                parameter.uniform_(0.5, 1.5)
    x = torch.randn(BATCH, 3, 48, 48).to(memory_format=torch.channels_last)
    images = sandwich.at_any_resolution(x, "bilinear")
    labels = torch.randint(0, 10, (BATCH,))
    for resolution in space.resolutions:
        images(resolution)
    return {
        **_against_copies(net, images, labels, recipe),
        **_against_in_place(net, images, labels, recipe),
        **_recalibration(net, images),
    }


def _against_copies(
    net: Supernet, images: sandwich.Images, labels: Tensor, recipe: Recipe
) -> dict[str, float]:
    """The peer: deep copies of the four networks, all losses summed, one backward."""
    ours_s, peer_s, copy_s, errors, memory = [], [], [], [], []
    for pair in range(PAIRS + 1):
        archs = sandwich.draw(net.space, net, np.random.default_rng(pair))
        net.zero_grad()
        marks = [time.perf_counter()]
        sandwich.step(net, archs, images, labels, recipe)
        marks.append(time.perf_counter())
        copies = [net.extract(arch).train() for arch in archs]
        marks.append(time.perf_counter())
        _plain_step(copies, images, labels, recipe)
        marks.append(time.perf_counter())
        if pair == 0:
            continue  # the first is slow for both
        seconds = np.diff(marks)
        ours_s.append(seconds[0])
        copy_s.append(seconds[1])
        peer_s.append(seconds[2])
        errors.append(_largest_error(net, archs, copies))
        if pair <= 3:
            with saved_memory() as ours:
                sandwich.step(net, archs, images, labels, recipe)
            with saved_memory() as peer:
                _plain_step(copies, images, labels, recipe)
            memory.append(ours.most / peer.most)
    both = list(zip(ours_s, peer_s, copy_s, strict=True))
    return {
        "images_per_s": BATCH / statistics.median(ours_s),
        "peer_images_per_s": BATCH / statistics.median(peer_s),
        "times_as_fast_as_peer": statistics.median(peer / ours for ours, peer, _ in both),
        "times_as_fast_as_peer_with_copying": statistics.median(
            (peer + copying) / ours for ours, peer, copying in both
        ),
        "largest_gradient_error": max(errors),
        "saved_memory_of_peer": max(memory),
    }


def _plain_step(
    copies: list[Subnet], images: sandwich.Images, labels: Tensor, recipe: Recipe
) -> None:
    logits = [copy(images(copy.plan.input_hw[0])) for copy in copies]
    total = F.cross_entropy(logits[0], labels, label_smoothing=recipe.label_smoothing)
    how = recipe.distillation
    for student in range(1, len(copies)):
        for teacher, weight in distill.teachers(student, len(copies), how.smd_weighting):
            pair = sandwich.pair_loss(logits[student], logits[teacher].detach(), labels, how)
            total = total + weight * pair
    total.backward()


def _largest_error(net: Supernet, archs: list[Arch], copies: list[Subnet]) -> float:
    """Largest difference of a gradient from the sum over the copies, relative to its tensor."""
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
    largest = 0.0
    for key, parameter in net.named_parameters():
        if parameter.grad is not None:
            scale = max(1.0, float(expected[key].abs().max()))
            error = float((parameter.grad - expected[key]).abs().max()) / scale
            largest = max(largest, error)
    return largest


def _against_in_place(
    net: Supernet, images: sandwich.Images, labels: Tensor, recipe: Recipe
) -> dict[str, float]:
    """30 pairs of steps, mutual distillation and in-place distillation, on the same archs."""
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


def _recalibration(net: Supernet, images: sandwich.Images) -> dict[str, float]:
    """Eight batches of 64; the peer is the same subnet in evaluation."""
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
