from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from ramnas_models import onnx_graph
from ramnas_models.onnx_graph import Normalisation
from ramnas_models.plan import plan
from ramnas_models.space import load_space


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", ["micro", "table1", "ofa_mbv3", "lite"])
def test_the_graph_is_valid_and_old_enough_for_jetpack_5(name: str) -> None:
    space = load_space(name)
    for image_input in (False, True):
        model = onnx_graph.build(plan(space, space.max()), image_input=image_input)
        onnx.checker.check_model(model, full_check=True)
        assert (model.opset_import[0].version, model.ir_version) == (17, 8)


@pytest.mark.parametrize("name", ["micro", "table1", "ofa_mbv3", "lite"])
def test_random_weights_give_finite_logits_of_a_normal_size(name: str) -> None:
    space = load_space(name)
    for arch in (space.min(), space.max()):
        layout = plan(space, arch, num_classes=10)
        image = np.random.default_rng(0).standard_normal((1, 3, *layout.input_hw), np.float32)
        (logits,) = session(onnx_graph.build(layout)).run(None, {"image": image})
        assert logits.shape == (1, 10)
        assert 1e-3 < np.abs(logits).max() < 1e3  # denormals or infinities would distort timings


def test_a_graph_with_a_symbolic_batch_runs_any_batch() -> None:
    space = load_space("micro")
    layout = plan(space, space.min(), num_classes=10)
    run = session(onnx_graph.build(layout, image_input=True, batch=None))
    hw = layout.input_hw
    images = np.random.default_rng(0).integers(0, 256, (5, *hw, 3), np.uint8)
    (together,) = run.run(None, {"image": images})
    alone = [run.run(None, {"image": image[None]})[0][0] for image in images]
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_image_input_equals_normalising_by_hand(channels: str) -> None:
    space = load_space("micro")
    layout = plan(space, space.max(), num_classes=10)
    norm = Normalisation(channels=channels)
    bgr = np.random.default_rng(0).integers(0, 256, (1, *layout.input_hw, 3), np.uint8)
    ordered = bgr[..., ::-1] if channels == "rgb" else bgr
    normalised = ((ordered / 255 - norm.mean) / norm.std).astype(np.float32)
    by_hand = session(onnx_graph.build(layout)).run(
        None, {"image": np.ascontiguousarray(normalised.transpose(0, 3, 1, 2))}
    )[0]
    inside = session(onnx_graph.build(layout, image_input=True, normalisation=norm)).run(
        None, {"image": bgr}
    )[0]
    np.testing.assert_allclose(inside, by_hand, atol=1e-4 * np.abs(by_hand).max())
