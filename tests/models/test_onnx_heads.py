"""Detection and segmentation graphs, built without torch, are compared with the torch heads."""

from __future__ import annotations

import functools
from typing import Any, Dict, List, Tuple

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ramnas_models import onnx_graph
from ramnas_models.dilation import dilated
from ramnas_models.head_plan import AnyPlan, lraspp, ssdlite
from ramnas_models.onnx_heads import _scale
from ramnas_models.plan import Plan, plan
from ramnas_models.quantise import quantised
from ramnas_models.space import Space, load_space
from tests.models.generated import deep_spaces

SPACES = ("micro", "table1", "ofa_mbv3", "mobilenet_v3", "lite")
HEADS = {
    "ssdlite": lambda backbone: ssdlite(backbone, 10),
    "lraspp": lambda backbone: lraspp(backbone, 11),
    "lraspp, stride 16": lambda backbone: lraspp(backbone, 11, output_stride=16),
    "lraspp, two inputs": lambda backbone: lraspp(backbone, 11, "two_input", 16),
}
CASES = [(name, hw) for name in SPACES for hw in ((360, 640), (33, 47))]
CASES.append(("table1", (512, 1024)))


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def head(name: str, kind: str, hw: Tuple[int, int] = (33, 47)) -> AnyPlan:
    space = load_space(name)
    return HEADS[kind](plan(space, space.min(), num_classes=10, input_hw=hw))


@functools.lru_cache(maxsize=None)
def supernet(name: str) -> Any:
    from ramnas_models.supernet import Supernet

    return Supernet(load_space(name), num_classes=10)


def torch_head(name: str, kind: str, hw: Tuple[int, int]) -> Any:
    pytest.importorskip("torch")
    from ramnas_models.heads import Detector, Segmenter
    from tests.models.randomised import randomise

    net = supernet(name)
    made = HEADS[kind](net.plan(net.space.min(), hw))
    head_class = Detector if kind == "ssdlite" else Segmenter
    whole = head_class(net.extract(net.space.min()), made).eval()
    randomise(whole)
    return whole


def outputs(net: Any, x: np.ndarray) -> List[np.ndarray]:
    import torch

    with torch.no_grad():
        found = net(torch.from_numpy(x))
    return [t.numpy() for t in (found if isinstance(found, tuple) else (found,))]


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize(("name", "hw"), CASES)
def test_the_graph_gives_the_same_outputs_as_torch(
    name: str, kind: str, hw: Tuple[int, int]
) -> None:
    net = torch_head(name, kind, hw)
    rng = np.random.default_rng(0)
    norm = onnx_graph.Normalisation()
    bgr = rng.integers(0, 256, (1, *hw, 3), np.uint8)
    scaled = ((bgr[..., ::-1] / 255 - norm.mean) / norm.std).astype(np.float32)
    image = np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))
    expected = outputs(net, image)
    weights = net.numpy_weights()
    for image_input, feed in ((False, image), (True, bgr)):
        model = onnx_graph.build(net.plan, weights, image_input=image_input, logits=True)
        found = session(model).run(None, {"image": feed})
        assert [f.shape for f in found] == [e.shape for e in expected]
        for a, b in zip(found, expected):
            assert np.abs(a - b).max() <= 1e-4 * np.abs(b).max()


def block_ends(model: onnx.ModelProto, layout: Plan) -> List[str]:
    """The names of what the blocks of `layout` write: a sum with the shortcut, or a projection."""
    writers = {name: n.output[0] for n in model.graph.node for name in n.input}
    ends = [writers[f"{block.project.key}.weight"] for block in layout.blocks]
    return [writers[e] if b.shortcut else e for e, b in zip(ends, layout.blocks)]


@settings(max_examples=10, derandomize=True, database=None)
@given(
    deep_spaces, st.sampled_from([*HEADS, "lraspp, two inputs, stride 32"]),
    st.tuples(st.integers(1, 70), st.integers(1, 70)), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_the_graph_of_any_space_gives_the_same_outputs_as_torch(
    space: Space, kind: str, hw: Tuple[int, int], seed: int
) -> None:
    torch = pytest.importorskip("torch")
    from ramnas_models.heads import Detector, Segmenter
    from ramnas_models.supernet import Supernet
    from tests.models.randomised import randomise

    make = HEADS.get(kind, lambda backbone: lraspp(backbone, 11, "two_input", 32))
    net, arch = Supernet(space, num_classes=10), space.sample(np.random.default_rng(seed))
    head_class = Detector if kind == "ssdlite" else Segmenter
    whole = head_class(net.extract(arch), make(net.plan(arch, hw))).eval()
    randomise(whole)
    x = torch.randn(1, 3, *hw).numpy()
    model = onnx_graph.build(whole.plan, whole.numpy_weights(), logits=True)
    for a, b in zip(session(model).run(None, {"image": x}), outputs(whole, x)):
        assert np.abs(a - b).max() <= 1e-4 * np.abs(b).max()


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("hw", [(64, 64), (61, 61), (64, 45), (35, 96)])
def test_dilated_features_are_the_strided_ones_on_a_denser_map_in_onnx_too(
    same: bool, hw: Tuple[int, int]
) -> None:
    """Where a map has an even size, SAME padding puts the pixels of the strided map at 1, 3, 5."""
    space = msgspec.structs.replace(load_space("lite"), padding="same" if same else "symmetric")
    backbone = plan(space, space.max(), input_hw=hw)
    strided, dense = dilated(backbone, 32), dilated(backbone, 16)
    place = next(i for i, b in enumerate(backbone.blocks) if b.stage == 5)
    x = np.random.default_rng(0).standard_normal((1, 3, *hw), np.float32)
    found = []
    for layout in (strided, dense):
        model = onnx_graph.build(layout)
        ends = block_ends(model, layout)
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in ends[place:])
        found.append(session(model).run(ends[place:], {"image": x}))
    first = strided.blocks[place].depthwise.in_hw
    rows, columns = (slice(int(same and n % 2 == 0), None, 2) for n in first)
    assert len(found[0]) == 5
    for coarse, fine in zip(*found):
        assert coarse.shape[2:] == tuple(-(-n // 2) for n in first)
        near = 1e-4 * np.abs(coarse).max()
        assert np.abs(fine[:, :, rows, columns] - coarse).max() <= near


@pytest.mark.parametrize("kind", [kind for kind in HEADS if kind != "ssdlite"])
def test_class_map_is_the_argmax_of_the_logits(kind: str) -> None:
    made = head("micro", kind, (90, 160))
    image = np.random.default_rng(0).standard_normal((2, 3, 90, 160), np.float32)
    (logits,) = session(onnx_graph.build(made, batch=2, logits=True)).run(None, {"image": image})
    (found,) = session(onnx_graph.build(made, batch=2)).run(None, {"image": image})
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, logits.argmax(1))
    assert len(np.unique(found)) > 2


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("name", SPACES)
def test_the_graph_is_valid_and_declares_the_true_shapes_of_its_outputs(
    name: str, kind: str
) -> None:
    for image_input in (False, True):
        for batch, logits in ((1, False), (3, True), (None, False)):
            made = head(name, kind)
            model = onnx_graph.build(made, image_input=image_input, batch=batch, logits=logits)
            onnx.checker.check_model(model, full_check=True)
            assert (model.opset_import[0].version, model.ir_version) == (17, 8)
            declared = {
                v.name: [d.dim_value or d.dim_param for d in v.type.tensor_type.shape.dim]
                for v in model.graph.output
            }
            if kind == "ssdlite":
                assert list(declared) == ["class_logits", "box_regression"]
            else:
                assert list(declared) == ["class_logits" if logits else "class_map"]
            n = batch or 2
            image = np.zeros((n, 33, 47, 3) if image_input else (n, 3, 33, 47))
            image = image.astype(np.uint8 if image_input else np.float32)
            found = session(model).run(None, {"image": image})
            for shape, value in zip(declared.values(), found):
                assert shape == [batch or "N", *value.shape[1:]]
                assert value.shape[0] == n


@pytest.mark.parametrize("kind", HEADS)
def test_a_graph_with_a_symbolic_batch_runs_any_batch(kind: str) -> None:
    run = session(onnx_graph.build(head("micro", kind), image_input=True, batch=None, logits=True))
    images = np.random.default_rng(0).integers(0, 256, (5, 33, 47, 3), np.uint8)
    together = run.run(None, {"image": images})
    alone = [run.run(None, {"image": image[None]}) for image in images]
    for i, value in enumerate(together):
        one_by_one = np.concatenate([a[i] for a in alone])
        np.testing.assert_allclose(value, one_by_one, rtol=1e-4, atol=1e-5 * np.abs(value).max())


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("name", SPACES)
def test_random_weights_give_finite_outputs_of_a_normal_size(name: str, kind: str) -> None:
    made = head(name, kind, (96, 128))
    image = np.random.default_rng(0).standard_normal((1, 3, 96, 128), np.float32)
    for value in session(onnx_graph.build(made, logits=True)).run(None, {"image": image}):
        assert 1e-3 < np.abs(value).max() < 1e3  # denormals or infinities would distort timings


def test_every_resize_reaches_its_size_however_an_engine_rounds() -> None:
    for size in range(1, 400):
        for to in {2 * size, 2 * size - 1, 4 * size - 3, 8 * size - 5, 5 * size + 2} - {-1, 0, 1}:
            if to < size:
                continue
            scale = _scale(size, to)
            assert int(size * float(scale)) == int(np.float32(size) * scale) == to
            assert abs(float(scale) * size / to - 1) < 2e-7


def calibrated(model: onnx.ModelProto, image: np.ndarray) -> Dict[str, float]:
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    outputs = {o.name for o in model.graph.output}
    names = [n.output[0] for n in model.graph.node if n.output[0] not in outputs]
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    values = session(shown).run(names, {"image": image})
    return {"image": 255.0, **{n: float(np.abs(v).max()) for n, v in zip(names, values)}}


@pytest.mark.parametrize("kind", HEADS)
def test_int8_with_calibrated_ranges_gives_nearly_the_float_outputs(kind: str) -> None:
    made = head("micro", kind, (96, 128))
    model = onnx_graph.build(made, image_input=True, logits=True)
    image = np.random.default_rng(0).integers(0, 256, (1, 96, 128, 3), np.uint8)
    ranges = calibrated(model, image)
    for integer_bias in (True, False):
        small = quantised(model, ranges, integer_bias=integer_bias)
        onnx.checker.check_model(small, full_check=True)
        expected = session(model).run(None, {"image": image})
        for a, b in zip(session(small).run(None, {"image": image}), expected):
            assert np.linalg.norm(a - b) < 0.15 * np.linalg.norm(b)


def test_int8_detector_has_all_its_convolutions_in_int8(tmp_path: Any) -> None:
    model = onnx_graph.build(head("micro", "ssdlite", (96, 128)))
    settings = ort.SessionOptions()
    settings.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.qdqisint8allowed", "1")
    data = quantised(model).SerializeToString()
    ort.InferenceSession(data, settings, providers=["CPUExecutionProvider"])
    ops = [n.op_type for n in onnx.load(settings.optimized_model_filepath).graph.node]
    assert ops.count("QLinearConv") == sum(n.op_type == "Conv" for n in model.graph.node)
