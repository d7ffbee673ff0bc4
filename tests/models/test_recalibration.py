"""BatchNorm statistics are those of all images, each counted once, however they are batched."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ramnas_models import supernet
from ramnas_models.errors import DataError
from ramnas_models.head_plan import lraspp, ssdlite
from ramnas_models.heads import Detector, Segmenter
from ramnas_models.space import Arch, Space, load_space
from ramnas_models.supernet import Standalone, Subnet, Supernet
from tests.models.generated import spaces
from tests.models.randomised import randomise

MICRO = load_space("micro")


def subnet(space: Space = MICRO, arch: Arch | None = None) -> Subnet:
    net = Supernet(space, num_classes=10)
    randomise(net)
    return net.extract(arch or space.max())


def statistics(net: Standalone) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in net.state_dict().items() if "running" in k}


def images(net: Subnet, count: int, seed: int = 0) -> Tensor:
    """Images that differ in brightness and contrast, so that batches differ from one another."""
    generator = torch.Generator().manual_seed(seed)
    size = (count, 3, *net.plan.input_hw)
    level, contrast = torch.rand(2, count, 1, 1, 1, generator=generator)
    return torch.randn(size, generator=generator) * (0.2 + contrast) + 3 * level


@torch.no_grad()
def exact(net: Subnet, x: Tensor) -> dict[str, Tensor]:
    """The statistics of one batch of all images, layer by layer in float64."""
    found: dict[str, Tensor] = {}
    double = Subnet(net.plan, net).double()

    def watch(key: str, module: torch.nn.Module) -> None:
        bn = module.bn

        def before(_: object, inputs: tuple[Tensor, object]) -> None:
            y, layer = inputs
            y = F.conv2d(
                y, module.weight, None, layer.stride, layer.pads(layer.in_hw)[0],
                groups=layer.c_in if layer.depthwise else 1,
            )  # fmt: skip
            bn.running_mean.copy_(y.mean((0, 2, 3)))
            bn.running_var.copy_(y.var((0, 2, 3), correction=0))
            found[f"{key}.bn.running_mean"] = bn.running_mean.clone()
            found[f"{key}.bn.running_var"] = bn.running_var.clone()

        module.register_forward_pre_hook(before)

    for key, module in double.named_modules():
        if getattr(module, "bn", None) is not None:
            watch(key, module)
    double.eval()(x.double())
    return found


@pytest.mark.parametrize("count", [20, 257])
def test_statistics_are_exactly_those_of_all_images(count: int) -> None:
    """The first layer's to 1e-5; 1e-3 later, where float32 itself no longer gives float64's."""
    net = subnet(arch=MICRO.min())
    x = images(net, count)
    expected = exact(net, x)
    found = statistics(net.recalibrate(x.split(100)))
    assert found.keys() == expected.keys()
    for key, value in found.items():
        within = 1e-5 if key.startswith("stem") else 1e-3
        torch.testing.assert_close(value.double(), expected[key], rtol=within, atol=within)


@pytest.mark.parametrize("count", [1, 7, 257])
def test_batches_make_no_difference(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither where all images are one group nor where there are several."""
    net = subnet()
    x = images(net, count)
    for most in (supernet.GROUP_IMAGES, 20):
        monkeypatch.setattr(supernet, "GROUP_IMAGES", most)
        if most == 20:
            monkeypatch.setattr(supernet, "GROUP_ELEMENTS", 1)
        expected = statistics(net.recalibrate([x]))
        for size in (1, 7, 64, 256):
            found = statistics(net.recalibrate(x.split(size)))
            for key, value in found.items():
                torch.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-5)


@settings(max_examples=30)
@given(spaces(), st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 99))
def test_batches_make_no_difference_in_any_space(space: Space, sizes: list[int], seed: int) -> None:
    net = subnet(space)
    x = images(net, sum(sizes), seed)
    expected = statistics(net.recalibrate([x]))
    found = statistics(net.recalibrate(x.split(sizes)))
    for key, value in found.items():
        assert value.isfinite().all(), key
        torch.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-5)


def test_groups_hold_every_image_once_and_are_of_nearly_equal_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supernet, "GROUP_ELEMENTS", 1)
    monkeypatch.setattr(supernet, "GROUP_IMAGES", 10)
    net = subnet()
    for count in range(1, 45):
        x = torch.arange(count).view(-1, 1, 1, 1).expand(-1, 3, 48, 48)
        for size in (1, 4, 10, 50):
            groups = list(net._groups(x.split(size)))
            assert torch.equal(torch.cat(groups), x)
            assert {len(group) for group in groups[:-2]} <= {10}
            assert all(len(group) >= min(count, 5) for group in groups)


@torch.no_grad()
@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_batches_make_no_difference_to_detectors_and_segmenters(task: str) -> None:
    net = subnet()
    layout = Supernet(MICRO, 10).plan(MICRO.max(), (48, 80))
    made: Detector | Segmenter = (
        Detector(net, ssdlite(layout, 10))
        if task == "detection"
        else Segmenter(net, lraspp(layout, 11))
    )
    randomise(made)
    x = torch.randn(9, 3, 48, 80)
    expected = statistics(made.recalibrate([x]))
    assert len(expected) == 2 * sum(getattr(x, "norm", False) for x in made.plan.layers())
    for key, value in statistics(made.recalibrate(x.split(1))).items():
        torch.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_after_recalibration_an_image_gives_the_logits_of_training() -> None:
    net = subnet()
    x = images(net, 50)
    trained = net.train()(x)
    assert (net.recalibrate(x.split(9))(x) - trained).abs().max() < 1e-3 * trained.abs().max()


def test_few_images_are_a_warning_with_their_number(caplog: pytest.LogCaptureFixture) -> None:
    net = subnet()
    with caplog.at_level(logging.WARNING):
        net.recalibrate([images(net, supernet.MIN_IMAGES)])
        assert not caplog.records
        net.recalibrate(images(net, 5).split(1))
    assert "fewer than 64 images (5)" in caplog.text


def test_no_images_are_an_error_and_change_nothing() -> None:
    net = subnet()
    before = statistics(net)
    with pytest.raises(DataError, match="no images to recalibrate"):
        net.recalibrate([])
    with pytest.raises(ValueError, match="torn"):
        net.recalibrate(torn(images(net, 3)))
    for key, value in statistics(net).items():
        assert torch.equal(value, before[key])
    assert net(images(net, 1)).isfinite().all()


def torn(x: Tensor) -> Iterator[Tensor]:
    yield x
    raise ValueError("torn")
