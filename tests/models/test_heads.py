from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F

from ramnas_models.head_plan import lraspp, ssdlite
from ramnas_models.heads import Detector, Segmenter
from ramnas_models.space import load_space
from ramnas_models.supernet import Supernet
from tests.models.randomised import randomise

SPACE = load_space("micro")


def supernet(space: Any = SPACE) -> Supernet:
    torch.manual_seed(0)
    net = Supernet(space, num_classes=10).eval()
    randomise(net)
    return net


def detector(hw: tuple[int, int] = (48, 80)) -> Detector:
    net = supernet()
    made = Detector(net.extract(SPACE.max()), ssdlite(net.plan(SPACE.max(), hw), 10)).eval()
    randomise(made)
    return made


def segmenter(form: str, hw: tuple[int, int] = (48, 80), stride: int = 32) -> Segmenter:
    net = supernet()
    plan = lraspp(net.plan(SPACE.max(), hw), 11, form, stride)
    made = Segmenter(net.extract(SPACE.max()), plan).eval()
    randomise(made)
    return made


def run_layer(net: Any, key: str, x: torch.Tensor) -> torch.Tensor:
    """Run the layer `key` by torch's own operators, with the tensors of the state dict."""
    state = net.state_dict()
    layer = next(x for x in net.plan.layers() if x.key == key)
    x = F.conv2d(
        x, state[f"{key}.weight"], state.get(f"{key}.bias"), layer.stride, layer.kernel // 2,
        groups=layer.c_in if layer.depthwise else 1,
    )  # fmt: skip
    if layer.norm:
        mean, var, gamma, beta = (
            state[f"{key}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        x = F.batch_norm(x, mean, var, gamma, beta)
    return F.relu(x) if layer.act else x


@torch.no_grad()
def test_detector_rows_are_in_the_order_of_the_anchors() -> None:
    net = detector()
    x = torch.randn(2, 3, 48, 80)
    logits, deltas = net(x)
    count = net.plan.anchors.count
    assert logits.shape == (2, count, 11)
    assert deltas.shape == (2, count, 4)
    fine, top = net.features(x, net.plan.backbone, net.plan.taps)
    levels = [fine, top]
    for i in range(4):
        y = levels[-1]
        for part in ("reduce", "depthwise", "pointwise"):
            y = run_layer(net, f"ssd.extras.{i}.{part}", y)
        levels.append(y)
    row = 0
    for i, (level, (height, width)) in enumerate(
        zip(levels, net.plan.anchors.feature_hw, strict=True)
    ):
        for name, found, columns in (("classes", logits, 11), ("boxes", deltas, 4)):
            y = run_layer(net, f"ssd.{name}.{i}.depthwise", level)
            y = run_layer(net, f"ssd.{name}.{i}.pointwise", y)
            for v, u, shape in ((0, 0, 0), (height - 1, width // 2, 5), (height // 2, 0, 3)):
                expected = y[:, shape * columns : (shape + 1) * columns, v, u]
                place = found[:, row + (v * width + u) * 6 + shape]
                torch.testing.assert_close(place, expected, rtol=1e-4, atol=1e-4)
        row += height * width * 6
    assert row == count


@torch.no_grad()
def test_three_input_segmenter_equals_concatenation_and_one_convolution() -> None:
    """As published: two 1x1 convolutions, added, equal one over both inputs concatenated."""
    net = segmenter("three_input")
    x = torch.randn(2, 3, 48, 80)
    fine, middle, top = net.features(x, net.plan.backbone, net.plan.taps)
    gate = run_layer(net, "lraspp.gate", top.mean((2, 3), keepdim=True)).sigmoid()
    y = run_layer(net, "lraspp.project", top) * gate
    state = net.state_dict()
    for i, skip in enumerate((middle, fine)):
        key = f"lraspp.fusions.{i}"
        y = F.interpolate(y, skip.shape[2:], mode="bilinear", align_corners=False)
        y = torch.cat([y, run_layer(net, f"{key}.skip", skip)], 1)
        weight, bias = [], 0
        for part in ("coarse", "lift"):
            mean, var, gamma, beta = (
                state[f"{key}.{part}.bn.{s}"]
                for s in ("running_mean", "running_var", "weight", "bias")
            )
            scale = gamma / (var + 1e-5).sqrt()
            weight.append(state[f"{key}.{part}.weight"] * scale[:, None, None, None])
            bias = bias + beta - mean * scale
        y = F.relu(F.conv2d(y, torch.cat(weight, 1), bias))
    expected = run_layer(net, "lraspp.classify", y)
    found = net(x)
    assert found.shape == (2, 11, 24, 40)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


@torch.no_grad()
def test_two_input_segmenter_equals_classifying_after_the_interpolation() -> None:
    net = segmenter("two_input")
    x = torch.randn(2, 3, 48, 80)
    low, high = net.features(x, net.plan.backbone, net.plan.taps)
    gate = run_layer(net, "lraspp.gate", high.mean((2, 3), keepdim=True)).sigmoid()
    y = run_layer(net, "lraspp.project", high) * gate
    y = F.interpolate(y, low.shape[2:], mode="bilinear", align_corners=False)
    expected = run_layer(net, "lraspp.classify", y) + run_layer(net, "lraspp.classify_skip", low)
    found = net(x)
    assert found.shape == (2, 11, 6, 10)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


@torch.no_grad()
def test_the_backbone_is_copied_from_the_subnet_without_its_classifier() -> None:
    net = supernet()
    subnet = net.extract(SPACE.min())
    made = Detector(subnet, ssdlite(net.plan(SPACE.min(), (48, 80)), 10))
    ours, theirs = made.state_dict(), subnet.state_dict()
    copied = {key for key in theirs if key.startswith(("stem", "stages"))}
    assert {key for key in ours if not key.startswith("ssd.")} == copied
    assert all(torch.equal(ours[key], theirs[key]) for key in copied)
    ours["stem.weight"].zero_()
    assert theirs["stem.weight"].abs().max() > 0  # a copy, not a view


@torch.no_grad()
@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("hw", [(96, 160), (90, 141), (96, 141)])
def test_output_stride_16_gives_the_same_features_as_32_on_a_denser_map(
    padding: str, hw: tuple[int, int]
) -> None:
    """This is exact only if nothing but kernels mixes places, so without pooling and SE.

    At which pixels of the denser map they lie is said in `dilation.py`.
    """
    lite = load_space("lite")
    space = msgspec.structs.replace(lite, padding=padding)
    net = supernet(space)
    arch = space.min()
    plans = [lraspp(net.plan(arch, hw), 11, output_stride=stride) for stride in (32, 16)]
    x = torch.randn(1, 3, *hw)
    subnet = net.extract(arch)
    coarse, dense = (
        Segmenter(subnet, p).eval().features(x, p.backbone, range(len(p.backbone.blocks)))
        for p in plans
    )
    first = next(i for i, b in enumerate(plans[0].backbone.blocks) if b.stage == 5)
    rows, columns = (
        slice(int(padding == "same" and n % 2 == 0), None, 2) for n in dense[first].shape[2:]
    )
    for a, b in zip(coarse[first:], dense[first:], strict=True):
        assert b.shape[2:] == (-(-hw[0] // 16), -(-hw[1] // 16))
        torch.testing.assert_close(b[:, :, rows, columns], a, rtol=1e-3, atol=1e-4)


def loss(net: Any, x: torch.Tensor) -> torch.Tensor:
    out = net(x)
    if isinstance(out, tuple):
        return (
            F.cross_entropy(out[0].flatten(0, 1), torch.zeros(out[0][..., 0].numel()).long())
            + (out[1] - 1).square().mean()
        )
    return F.cross_entropy(out, torch.full((len(x), *out.shape[2:]), 3))


@pytest.mark.parametrize("make", [detector, lambda: segmenter("three_input", stride=16)])
def test_every_tensor_has_a_gradient(make: Any) -> None:
    net = make().train()
    loss(net, torch.randn(2, 3, 48, 80)).backward()
    still = [key for key, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_new_heads_start_at_the_loss_of_a_guess_and_learn(task: str) -> None:
    net, x = supernet(), torch.randn(8, 3, 48, 80)
    backbone, made = net.plan(SPACE.max(), (48, 80)), net.extract(SPACE.max())
    made = (
        Detector(made, ssdlite(backbone, 10))
        if task == "detection"
        else Segmenter(made, lraspp(backbone, 11))
    ).train()
    first = loss(made, x)
    assert abs(first.item() - np.log(11) - (task == "detection")) < 0.3
    optimizer = torch.optim.Adam(made.parameters(), 0.01)
    for _ in range(12):
        optimizer.zero_grad()
        loss(made, x).backward()
        optimizer.step()
    assert loss(made, x) < 0.5 * first


def test_recalibration_sets_the_statistics_of_backbone_and_head() -> None:
    net = detector()
    batches = [torch.randn(4, 3, 48, 80) + 1 for _ in range(3)]
    before = {k: v.clone() for k, v in net.state_dict().items()}
    assert net.recalibrate(batches) is net
    for key, value in net.state_dict().items():
        running = key.endswith(("running_mean", "running_var"))
        assert torch.equal(value, before[key]) != running, key
