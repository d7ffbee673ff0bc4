"""A new supernet of any space tells images apart and learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from ramnas_models import space as space_module
from ramnas_models.head_plan import lraspp, ssdlite
from ramnas_models.heads import Detector, Segmenter
from ramnas_models.space import Arch, Space, load_space
from ramnas_models.supernet import Supernet
from tests.models.generated import spaces

SHIPPED = sorted(path.stem for path in (Path(space_module.__file__).parent / "spaces").glob("*"))
CLASSES = 10


def new_net(space: Space, seed: int) -> tuple[Supernet, list[Arch]]:
    """A supernet as `seed` initialises it, with the smallest, the largest and a random arch."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    return Supernet(space, CLASSES), [space.min(), space.max(), space.sample(rng)]


def six_images(arch: Arch) -> Tensor:
    side = min(arch.resolution, 32)  # the large spaces would take long at their own
    return torch.randn(6, 3, side, side)


def check_it_can_learn(space: Space, seed: int) -> None:
    net, archs = new_net(space, seed)
    for arch in archs:
        check_six_logits(net, arch)
        check_loss_and_gradients(net, arch)
        net.reset_parameters()


@torch.no_grad()
def check_six_logits(net: Supernet, arch: Arch) -> None:
    images = six_images(arch)
    logits = net.train()(images, arch)
    assert torch.pdist(logits).min() > 1e-3 * logits.abs().max()
    # with the statistics of a new network, which are void, the values are tiny but not the same
    logits = net.eval()(images, arch)
    assert torch.pdist(logits).min() > 1e-3 * logits.abs().max()


def check_loss_and_gradients(net: Supernet, arch: Arch) -> None:
    """Within twenty steps of plain SGD on one batch the loss has fallen, and stays so for a step.

    At the first step a gamma of 0 keeps gradients from all that comes before it in its block. That
    step moves the gamma away from 0, so that from the second step on every tensor has a gradient.
    """
    images, labels = six_images(arch), torch.arange(6)
    optimizer = torch.optim.SGD(net.train().parameters(), 0.1)
    losses = []
    for step in range(20):
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(net(images, arch), labels)
        loss.backward()
        if step == 1:
            used = {key for key, _ in net.extract(arch).named_parameters()}
            gradients = {key: value.grad for key, value in net.named_parameters() if key in used}
            assert not [k for k, grad in gradients.items() if grad is None or not grad.any()]
        optimizer.step()
        losses.append(loss.item())
        if step > 1 and max(losses[-2:]) < 0.97 * losses[0]:
            return  # the other steps would show nothing new
    raise AssertionError(losses)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_new_net_of_every_shipped_space_tells_images_apart_and_learns(name: str) -> None:
    check_it_can_learn(load_space(name), 0)


@settings(max_examples=25, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(spaces(), st.integers(0, 2**32 - 1))
def test_a_new_net_of_any_space_tells_images_apart_and_learns(space: Space, seed: int) -> None:
    check_it_can_learn(space, seed)


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_a_new_net_with_a_new_head_tells_images_apart(name: str, task: str) -> None:
    net, (arch, *_) = new_net(load_space(name), 0)
    layout = net.plan(arch, (96, 64))
    made = (
        Detector(net.extract(arch), ssdlite(layout, CLASSES))
        if task == "detection"
        else Segmenter(net.extract(arch), lraspp(layout, CLASSES))
    ).train()
    images = torch.randn(6, 3, 96, 64)
    optimizer = torch.optim.SGD(made.parameters(), 0.1)
    for _ in range(2):  # from the second step on, no gamma of 0 holds a gradient back
        optimizer.zero_grad(set_to_none=True)
        outputs = made(images)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        for out in outputs:
            assert torch.pdist(out.flatten(1)).min() > 1e-3 * out.abs().max()
        sum((out - 1).square().mean() for out in outputs).backward()
        optimizer.step()
    still = [key for key, p in made.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still
