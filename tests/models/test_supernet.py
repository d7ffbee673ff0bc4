from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the supernet needs torch")

import onnxruntime as ort
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ramnas_models import onnx_graph
from ramnas_models.errors import DataError
from ramnas_models.plan import Conv
from ramnas_models.space import Arch, Space, load_space
from ramnas_models.supernet import ElasticConv, Supernet
from tests.models.generated import spaces
from tests.models.randomised import randomise


@pytest.fixture(scope="module", params=["micro", "table1", "ofa_mbv3", "mobilenet_v3", "lite"])
def net(request: pytest.FixtureRequest) -> Supernet:
    supernet = Supernet(load_space(request.param), num_classes=10).eval()
    randomise(supernet)
    return supernet


def archs(net: Supernet, n: int) -> list[Arch]:
    rng = np.random.default_rng(0)
    return [net.space.min(), net.space.max(), *(net.space.sample(rng) for _ in range(n - 2))]


def many(net: Supernet) -> list[Arch]:
    """The smallest, the largest and 20 random archs; some of table1 have 276 pixels."""
    return archs(net, 22)


def image(arch: Arch, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, arch.resolution, arch.resolution)


@torch.no_grad()
def test_elastic_forward_equals_the_extracted_net(net: Supernet) -> None:
    for arch in many(net):
        x = image(arch, 1)
        elastic, own = net(x, arch), net.extract(arch)(x)
        assert (elastic - own).abs().max() <= 1e-5 * elastic.abs().max()


@torch.no_grad()
def test_onnx_equals_torch(net: Supernet) -> None:
    for arch in many(net):
        subnet, x = net.extract(arch), image(arch, 1)
        model = onnx_graph.build(subnet.plan, subnet.numpy_weights())
        run = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        expected = subnet(x).numpy()
        (logits,) = run.run(None, {"image": x.numpy()})
        assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()


@torch.no_grad()
@settings(max_examples=15, derandomize=True, database=None)
@given(
    spaces(), st.none() | st.tuples(st.integers(1, 26), st.integers(1, 26)),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_supernet_subnet_and_onnx_agree_in_any_space(
    space: Space, hw: tuple[int, int] | None, seed: int
) -> None:
    """At the arch's resolution and at `hw`: torch pads by the map's size, ONNX by the plan's."""
    net = Supernet(space, num_classes=10).eval()
    randomise(net)
    for arch in (space.min(), space.max(), space.sample(np.random.default_rng(seed))):
        subnet, layout = net.extract(arch), net.plan(arch, hw)
        x = torch.randn(1, 3, *layout.input_hw)
        model = onnx_graph.build(layout, subnet.numpy_weights())
        run = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        expected = subnet(x)
        (logits,) = run.run(None, {"image": x.numpy()})
        near = 1e-4 * float(expected.abs().max())
        assert np.abs(logits - expected.numpy()).max() <= near
        assert (net(x, arch) - expected).abs().max() <= near


@torch.no_grad()
def test_every_tensor_of_a_subnet_changes_the_logits() -> None:
    net = Supernet(load_space("micro"), num_classes=10).eval()
    randomise(net)
    arch = net.space.max()
    subnet, x = net.extract(arch), image(arch, 1)
    before = subnet(x)
    for key, value in subnet.state_dict().items():
        kept = value.clone()
        value.mul_(1.5).add_(0.1)
        assert not torch.equal(subnet(x), before), key
        value.copy_(kept)
    assert torch.equal(subnet(x), before)


@torch.no_grad()
@pytest.mark.parametrize("hw", [(276, 276), (360, 640), (512, 1024), (37, 45)])
def test_odd_and_oblong_inputs_run_in_torch_and_onnx(net: Supernet, hw: tuple[int, int]) -> None:
    arch, x = net.space.min(), torch.randn(1, 3, *hw)
    layout = net.plan(arch, hw)
    weights = net.extract(arch).numpy_weights()
    model = onnx_graph.build(layout, weights)
    run = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = net(x, arch).numpy()
    found = run.run(None, {"image": x.numpy()})[0]
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    assert torch.equal(net.extract(arch)(x), net.extract(arch)(x))


def test_a_subnet_leaves_the_rest_of_the_supernet_alone() -> None:
    net = Supernet(load_space("micro"), num_classes=10).train()
    arch = net.space.min()
    net(image(arch), arch).sum().backward()
    subnet = net.extract(arch)
    shapes = {key: value.shape for key, value in subnet.named_parameters()}
    for key, parameter in net.named_parameters():
        if key not in shapes:
            assert parameter.grad is None, key
            continue
        grad = parameter.grad
        assert grad is not None
        inside = torch.zeros_like(grad, dtype=torch.bool)
        where = [slice(n) for n in shapes[key]]
        if grad.ndim == 4:
            edge = (grad.shape[2] - shapes[key][2]) // 2
            where[2:] = [slice(edge, edge + shapes[key][2])] * 2
        inside[tuple(where)] = True
        assert not grad[~inside].any(), key


def test_extracted_weights_are_copies() -> None:
    net = Supernet(load_space("micro"), num_classes=10)
    subnet = net.extract(net.space.max())
    before = net.state_dict()["stem.weight"].clone()
    subnet.state_dict()["stem.weight"].zero_()
    assert torch.equal(net.state_dict()["stem.weight"], before)


def test_training_leaves_the_running_statistics_alone() -> None:
    net = Supernet(load_space("micro"), num_classes=10).train()
    arch = net.space.min()
    before = {key: value.clone() for key, value in net.named_buffers()}
    net(image(arch), arch)
    assert all(torch.equal(before[key], value) for key, value in net.named_buffers())


def test_recalibration_leaves_the_supernet_alone() -> None:
    net = Supernet(load_space("micro"), num_classes=10)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    net.extract(net.space.min()).recalibrate([image(net.space.min(), 8)])
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_batch_of_one_runs_in_evaluation(tmp_path: Path) -> None:
    net = Supernet(load_space("micro"), num_classes=10).eval()
    with torch.no_grad():
        assert net(image(net.space.max(), 1), net.space.max()).shape == (1, 10)


def test_training_on_one_value_per_channel_is_refused_with_the_way_out(net: Supernet) -> None:
    one = torch.randn(1, 3, 16, 16)
    net.train()
    try:
        with pytest.raises(DataError, match=r"one pixel for the one image.*2 or more images"):
            net(one, net.space.min())
        assert net(one.repeat(2, 1, 1, 1), net.space.min()).isfinite().all()
    finally:
        net.eval()


def test_only_shortcuts_that_some_arch_uses_have_weights() -> None:
    keys = Supernet(load_space("table1")).state_dict()
    # only the first block of a stage can change the width
    assert {key.split(".")[2] for key in keys if "shortcut" in key} == {"0"}


@torch.no_grad()
@pytest.mark.parametrize("size", [1, 2, 7, 8])
@pytest.mark.parametrize("stride", [1, 2])
def test_with_same_padding_a_cropped_kernel_looks_where_the_whole_one_does(
    size: int, stride: int
) -> None:
    """A 5x5 that is zero outside its centre gives what its 3x3 gives, on even and odd maps."""
    whole, cropped = (
        Conv("x", 8, 8, kernel, stride, (size, size), depthwise=True, norm=False, same=True)
        for kernel in (5, 3)
    )
    module = ElasticConv(whole, None)
    torch.nn.init.normal_(module.weight)
    centre = torch.zeros(5, 5)
    centre[1:4, 1:4] = 1
    module.weight.mul_(centre)
    x = torch.randn(2, 8, size, size)
    torch.testing.assert_close(module(x, whole), module(x, cropped))


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:torch.distributed.nn.functional:FutureWarning")
@pytest.mark.parametrize("path", ["training", "evaluation", "all ranks"])
def test_batchnorm_adds_the_eps_of_its_space(
    path: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """With a variance as small as eps, another eps gives values that are 30 % off or more."""
    eps, x = 1e-3, 0.03 * torch.randn(64, 8, 6, 6)
    layer = Conv("x", 8, 8, 1, 1, (6, 6), depthwise=True, eps=eps)
    module = ElasticConv(layer, None).train(path != "evaluation")
    assert module.bn is not None
    module.weight.fill_(1.0)
    variance = x.var((0, 2, 3), unbiased=False, keepdim=True)
    expected = (x - x.mean((0, 2, 3), keepdim=True)) / (variance + eps).sqrt()
    if path == "evaluation":
        module.bn.running_mean.copy_(x.mean((0, 2, 3)))
        module.bn.running_var.copy_(variance.flatten())
    if path == "all ranks":
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
        )
        request.addfinalizer(torch.distributed.destroy_process_group)
        module.synchronised = True
    torch.testing.assert_close(module(x, layer), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@settings(max_examples=10, derandomize=True, database=None)
@given(spaces(), st.integers(0, 2**32 - 1))
def test_recalibrated_on_one_batch_a_net_gives_the_logits_of_training_on_it(
    space: Space, seed: int
) -> None:
    net = Supernet(space, num_classes=10).train()
    randomise(net)
    arch = space.sample(np.random.default_rng(seed))
    x = image(arch, 64)
    expected = net(x, arch)
    found = net.extract(arch).recalibrate([x])(x)
    assert (found - expected).abs().max() <= 1e-3 * expected.abs().max()
