"""Where the max net knows its statistics, those of its slices take off what it misses them by."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor

from ramnas_models import supernet
from ramnas_models.recalibration import Controlled, Estimate, Known, PerImage, Reference
from ramnas_models.space import Arch, load_space
from ramnas_models.supernet import Standalone, Supernet
from tests.models.randomised import randomise

MICRO = load_space("micro")


def with_known_statistics(n: int = 300) -> Supernet:
    """A supernet whose max net has the statistics of `n` images as those that came with it."""
    torch.manual_seed(0)
    net = Supernet(MICRO, num_classes=10)
    randomise(net)
    largest = net.extract(MICRO.max()).recalibrate([images(n, seed=1)])
    net.load_state_dict(largest.state_dict(), strict=False)
    net.published_statistics = True
    return net


def images(n: int, seed: int = 0, size: int = 48) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    level, contrast = torch.rand(2, n, 1, 1, 1, generator=generator)
    return torch.randn((n, 3, size, size), generator=generator) * (0.2 + contrast) + 3 * level


def statistics(net: Standalone) -> dict[str, Tensor]:
    return {key: v.clone() for key, v in net.state_dict().items() if "running" in key}


def narrower() -> Arch:
    """Max with the smallest expands."""
    row = list(MICRO.max().integers)
    for place, choices in enumerate(MICRO.choices()):
        if row[place] in (4, 6):
            row[place] = min(c for c in choices if c)
    return MICRO.decode(row)


@pytest.mark.parametrize("most", [256, 20])
def test_the_max_net_keeps_what_it_knows(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supernet, "GROUP_IMAGES", most)
    monkeypatch.setattr(supernet, "GROUP_ELEMENTS", 1)
    net, x = with_known_statistics(), images(50)
    largest = net.extract(MICRO.max())
    before = statistics(largest)
    references = largest.references([x])
    for key, value in statistics(largest).items():
        assert torch.equal(value, before[key])
    for key, value in statistics(largest.recalibrate(x.split(7), references)).items():
        torch.testing.assert_close(value, before[key], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("arch", [narrower(), MICRO.min()], ids=["narrower", "min"])
def test_batches_make_no_difference(arch: Arch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supernet, "GROUP_IMAGES", 20)
    monkeypatch.setattr(supernet, "GROUP_ELEMENTS", 1)
    net, x = with_known_statistics(), images(50, size=arch.resolution)
    references = net.extract(MICRO.max()).references(x.split(9))
    small = net.extract(arch)
    expected = statistics(small.recalibrate([x], references))
    for size in (1, 7, 50):
        for key, value in statistics(small.recalibrate(x.split(size), references)).items():
            torch.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-5)


def test_a_layer_like_the_max_nets_comes_nearer_to_the_statistics_of_all_images() -> None:
    generator = torch.Generator().manual_seed(0)
    level = torch.randn(2000, 8, 1, 1, generator=generator)
    full = level + torch.randn(2000, 8, 4, 4, generator=generator)
    own = 0.8 * full + 0.3 * torch.randn(2000, 8, 4, 4, generator=generator)
    known, true = per_image(full).pooled(), per_image(own).pooled()
    errors = []
    for first in range(0, 2000, 20):
        few = slice(first, first + 20)
        controlled = Controlled(Reference(known, per_image(full[few]), 1e-5))
        controlled.add(own[few])
        plain = per_image(own[few]).pooled()
        errors.append([
            [float((found.mean - true.mean).square().mean()),
             float((found.variance / true.variance).log().square().mean())]
            for found in (plain, controlled.estimate)
        ])  # fmt: skip
    plain_error, controlled_error = torch.tensor(errors).mean(0)
    assert (controlled_error < plain_error / 5).all()


def per_image(x: Tensor) -> PerImage:
    variances, means = torch.var_mean(x, (2, 3), correction=0)
    return PerImage(means, variances)


def test_the_estimate_is_the_one_of_its_formula() -> None:
    full, noise = torch.randn(2, 40, 6, 5, 5).double()
    full = full * 2 + torch.randn(40, 6, 1, 1).double()
    own = (0.5 * full + noise)[:, :4]
    known = Estimate(torch.linspace(-1, 1, 6).double(), torch.linspace(1, 3, 6).double())
    controlled = Controlled(Reference(known, per_image(full), 1e-3))
    controlled.add(own[:17])
    controlled.add(own[17:])
    full = full[:, :4]
    means, full_means = own.mean((2, 3)), full.mean((2, 3))
    unit = torch.maximum(*(part.std((0, 2, 3), correction=0) for part in (own, full)))
    y, x = ((part - part.mean(0)).div(unit).flatten() for part in (means, full_means))
    b = torch.linalg.lstsq(x[:, None], y[:, None]).solution.squeeze()
    assert 0 < b < 1
    mean = means.mean(0) + b * (known.mean[:4] - full_means.mean(0))
    ratio = (known.variance[:4] + 1e-3) / (full.var((0, 2, 3), correction=0) + 1e-3)
    variance = (own.var((0, 2, 3), correction=0) + 1e-3) * ratio**b - 1e-3
    torch.testing.assert_close(controlled.estimate.mean, mean)
    torch.testing.assert_close(controlled.estimate.variance, variance)


@pytest.mark.parametrize("sign", [0.0, -1.0])
def test_a_layer_that_has_nothing_to_do_with_the_max_nets_gets_its_own(sign: float) -> None:
    """Nor is one corrected away from what it found because it goes the other way."""
    full = torch.randn(40, 6, 5, 5)
    own = sign * full + 3
    reference = Reference(Estimate(torch.ones(6), torch.ones(6)), per_image(full), 1e-3)
    controlled = Controlled(reference)
    controlled.add(own)
    torch.testing.assert_close(controlled.estimate.mean, own.double().mean((0, 2, 3)))


@pytest.mark.parametrize("dead", ["own", "full"])
def test_a_channel_that_is_dead_in_one_of_the_nets_does_not_decide_for_the_others(
    dead: str,
) -> None:
    """As after a relu6 that lets nothing through; expand 3 of EfficientNet-Lite0 has such ones."""
    generator = torch.Generator().manual_seed(0)
    full = torch.randn(40, 6, 5, 5, generator=generator)
    own = 0.8 * full + 0.1 * torch.randn(40, 6, 5, 5, generator=generator)
    known = Estimate(torch.ones(6), torch.ones(6))

    def estimate() -> Estimate:
        controlled = Controlled(Reference(known, per_image(full), 1e-3))
        controlled.add(own)
        return controlled.estimate

    expected = estimate()
    (own if dead == "own" else full)[:, 5] = 0
    found = estimate()
    for one, other in zip(found, expected):
        torch.testing.assert_close(one[:5], other[:5], rtol=0.1, atol=0.1)


@torch.no_grad()
def test_a_channel_that_is_dead_on_the_images_keeps_what_is_known_of_it() -> None:
    """The max net's own; with zero in its place, the first image that reaches it would explode."""
    full = torch.randn(10, 6, 4, 4)
    full[:, 2] = 0
    observer = Known(Estimate(torch.ones(6), torch.full((6,), 0.5)), 1e-3)
    observer.add(full)
    controlled = Controlled(observer.reference)
    controlled.add(full)
    for part, value in zip(controlled.estimate, (1.0, 0.5), strict=True):
        torch.testing.assert_close(part, torch.full((6,), value).double())


def test_dead_channels_stay_finite() -> None:
    full = torch.zeros(10, 6, 4, 4)
    known = Known(Estimate(torch.zeros(6), torch.zeros(6)), 1e-3)
    known.add(full)
    controlled = Controlled(known.reference)
    controlled.add(full)
    assert all(part.isfinite().all() for part in controlled.estimate)
