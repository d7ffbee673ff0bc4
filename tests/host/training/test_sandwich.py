"""A training step: which network learns from which, where gradients go, and the memory it needs."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F
from torch import Tensor

from ramnas_host.config import Recipe, load_recipe
from ramnas_host.training import distill, sandwich
from ramnas_models.space import Arch, load_space
from ramnas_models.supernet import DropRates, Supernet
from tests.saved_memory import saved_memory

SPACE = load_space("micro")


def recipe(weighting: str = "per_student", loss: str = "dkd", **changes: object) -> Recipe:
    digits = load_recipe("digits")
    how = msgspec.structs.replace(digits.distillation, smd_weighting=weighting, pair_loss=loss)
    return msgspec.structs.replace(digits, distillation=how, **changes)


def batch(n: int = 8, dtype: torch.dtype = torch.float32) -> tuple[sandwich.Images, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 3, 48, 48, generator=generator, dtype=dtype)
    return sandwich.at_any_resolution(x, "bilinear"), torch.arange(n) % 10


def supernet(dtype: torch.dtype = torch.float32) -> Supernet:
    torch.manual_seed(0)
    net = Supernet(SPACE, 10).to(dtype).train()
    with torch.no_grad():  # a last gamma of 0 would stop the gradient of every block
        for key, parameter in net.named_parameters():
            if key.endswith("bn.weight"):
                parameter.uniform_(0.5, 1.5)
    return net


def four(seed: int = 0) -> list[Arch]:
    return sandwich.draw(SPACE, supernet(), np.random.default_rng(seed))


def gradients(net: Supernet) -> dict[str, Tensor]:
    return {
        key: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for key, p in net.named_parameters()
    }


def inside(net: Supernet, arch: Arch) -> dict[str, Tensor]:
    """Which elements of each tensor `arch` uses, as masks.

    By the rule these are the first n of every dimension, and the centre of the kernel.
    """
    shapes = {key: p.shape for key, p in net.extract(arch).named_parameters()}
    masks = {}
    for key, parameter in net.named_parameters():
        mask = torch.zeros(parameter.shape, dtype=torch.bool)
        if key in shapes:
            where = [slice(n) for n in shapes[key]]
            if parameter.ndim == 4:
                edge = (parameter.shape[2] - shapes[key][2]) // 2
                where[2:] = [slice(edge, edge + shapes[key][2])] * 2
            mask[tuple(where)] = True
        masks[key] = mask
    return masks


def test_sandwich_goes_from_large_to_small() -> None:
    net = supernet()
    for seed in range(5):
        archs = four(seed)
        macs = [net.plan(arch).macs for arch in archs]
        assert archs[0] == SPACE.max()
        assert archs[-1] == SPACE.min()
        assert macs == sorted(macs, reverse=True)


@pytest.mark.parametrize("weighting", ["per_student", "per_teacher", "off"])
def test_each_students_backward_adds_gradient_only_inside_its_own_slices(weighting: str) -> None:
    net, archs = supernet(), four()
    images, labels = batch()
    seen = []

    def forward(x: Tensor, arch: Arch, drop: DropRates | None) -> Tensor:
        seen.append(gradients(net))  # the sum over the networks before this one
        out: Tensor = net(x, arch, drop)
        return out

    sandwich.step(forward, archs, images, labels, recipe(weighting))
    seen.append(gradients(net))
    for k, arch in enumerate(archs):
        masks = inside(net, arch)
        used = 0
        for key, after in seen[k + 1].items():
            added = after - seen[k][key]
            assert not added[~masks[key]].any(), f"network {k}: {key}"
            used += int(added[masks[key]].any())
        assert used > 20


def test_no_gradient_reaches_a_teachers_logits() -> None:
    """In elements that only max uses, the gradient is that of its own loss, to the last bit."""
    images, labels = batch()
    net, archs = supernet(), four()
    sandwich.step(net, archs[:1], images, labels, recipe())
    alone = gradients(net)
    net.zero_grad()
    sandwich.step(net, archs, images, labels, recipe())
    together = gradients(net)
    masks = [inside(net, arch) for arch in archs[1:]]
    outer = 0
    for key, grad in together.items():
        only_max = ~(masks[0][key] | masks[1][key] | masks[2][key])
        assert torch.equal(grad[only_max], alone[key][only_max]), key
        outer += int(grad[only_max].count_nonzero())
    assert outer > 1000


@pytest.mark.parametrize("loss", ["kl", "dkd"])
@pytest.mark.parametrize(
    ("weighting", "pairs"),
    [
        # from the paper: (student, teacher) -> weight, networks in the order max, r1, r2, min
        ("per_student", {(1, 0): 1, (2, 0): 1 / 2, (2, 1): 1 / 2, (3, 0): 1 / 3, (3, 1): 1 / 3,
                         (3, 2): 1 / 3}),
        ("per_teacher", {(1, 0): 1 / 3, (2, 0): 1 / 3, (3, 0): 1 / 3, (2, 1): 1 / 2,
                         (3, 1): 1 / 2, (3, 2): 1}),
        ("off", {(1, 0): 1, (2, 0): 1, (3, 0): 1}),
    ],
)  # fmt: skip
def test_the_step_is_the_sum_of_the_weighted_pairs(
    weighting: str, loss: str, pairs: dict[tuple[int, int], float]
) -> None:
    """Losses and gradients equal those of one sum in which every pair is written out (Eq. 3, 4)."""
    how = recipe(weighting, loss)
    net, archs = supernet(torch.float64), four()
    images, labels = batch(dtype=torch.float64)
    losses = sandwich.step(net, archs, images, labels, how)
    ours = gradients(net)
    net.zero_grad()
    logits = [net(images(arch.resolution), arch) for arch in archs]
    expected = [F.cross_entropy(logits[0], labels, label_smoothing=0.1)]
    for student in (1, 2, 3):
        expected.append(
            sum(
                weight * distill.pair_loss(
                    *(
                        distill.predict(x, labels, how.distillation)
                        for x in (logits[student], logits[teacher].detach())
                    ),
                    how.distillation,
                )
                for (s, teacher), weight in pairs.items() if s == student
            )
        )  # fmt: skip
    sum(expected).backward()
    torch.testing.assert_close(losses, torch.stack(expected).detach())
    for key, grad in gradients(net).items():
        torch.testing.assert_close(ours[key], grad, rtol=1e-9, atol=1e-11)


def test_one_step_is_four_forwards_and_four_backwards() -> None:
    net, archs = supernet(), four()
    images, labels = batch()
    forwards: list[str] = []
    backwards = 0

    def forward(x: Tensor, arch: Arch, drop: DropRates | None) -> Tensor:
        forwards.append(arch.id)
        out: Tensor = net(x, arch, drop)

        def count(grad: Tensor) -> None:
            nonlocal backwards
            backwards += 1

        out.register_hook(count)
        return out

    sandwich.step(forward, archs, images, labels, recipe())
    assert forwards == [arch.id for arch in archs]
    assert backwards == 4


def test_memory_peaks_at_the_max_net() -> None:
    """The saved activations of a step are at most 1.05 times those of the max net alone."""
    net = supernet()
    images, labels = batch(32)
    for seed in range(3):
        archs = four(seed)
        with saved_memory() as alone:
            sandwich.step(net, archs[:1], images, labels, recipe())
        with saved_memory() as step:
            sandwich.step(net, archs, images, labels, recipe())
        assert alone.most > 1e6
        assert step.most <= 1.05 * alone.most
        assert step.now == 0


def test_only_the_max_net_has_dropout_and_drop_connect() -> None:
    seen: list[DropRates | None] = []
    net, archs = supernet(), four()
    images, labels = batch()

    def forward(x: Tensor, arch: Arch, drop: DropRates | None) -> Tensor:
        seen.append(drop)
        return net(x, arch, drop)

    sandwich.step(forward, archs, images, labels, recipe(dropout=0.2, drop_connect=0.1))
    assert seen == [DropRates(0.2, 0.1), None, None, None]


def test_bf16_gives_almost_the_losses_of_fp32() -> None:
    images, labels = batch(32)
    archs, found = four(), []
    for precision in ("fp32", "bf16"):
        net = supernet()
        found.append(sandwich.step(net, archs, images, labels, recipe(precision=precision)))
        assert all(p.dtype == torch.float32 for p in net.parameters())
    torch.testing.assert_close(found[0], found[1], rtol=0.1, atol=0.05)


def test_fp16_scales_the_loss_so_that_small_gradients_survive() -> None:
    images, labels = batch(16)
    archs, found = four(), []
    for precision, scaler in (("fp32", None), ("fp16", torch.amp.GradScaler("cpu", 1024.0))):
        net = supernet()
        sandwich.step(net, archs, images, labels, recipe(precision=precision), scaler)
        scale = scaler.get_scale() if scaler else 1.0
        found.append(gradients(net)["classifier.weight"] / scale)
    torch.testing.assert_close(found[0], found[1], rtol=0.1, atol=0.01)


def test_images_are_resized_once_for_each_resolution() -> None:
    images, _ = batch()
    assert images(24) is images(24)
    assert images(48).shape == (8, 3, 48, 48)
    assert images(24).shape == (8, 3, 24, 24)
