from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

from ramnas_edge.engines import backends
from ramnas_edge.vision.channels import for_rgb
from ramnas_models import onnx_graph
from ramnas_models.errors import BundleError
from ramnas_models.onnx_graph import Normalisation
from ramnas_models.plan import plan
from ramnas_models.quantise import quantised
from ramnas_models.space import load_space


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_rgb_frames_give_the_outputs_of_bgr_frames(order: str) -> None:
    space = load_space("micro")
    how = Normalisation((0.5, 0.4, 0.3), (0.2, 0.25, 0.3), order)
    layout = plan(space, space.min(), num_classes=7)
    made = onnx_graph.build(layout, image_input=True, normalisation=how)
    model = made.SerializeToString()
    image = np.random.default_rng(0).integers(0, 256, (1, 24, 24, 3), np.uint8)
    backend = backends.load("onnxruntime-cpu")
    bgr = backend.open(model, backends.Options()).infer({"image": image})[0]
    rgb = backend.open(for_rgb(model), backends.Options())
    mirrored = np.ascontiguousarray(image[..., ::-1])
    tolerance = float(np.abs(bgr).max()) * 1e-4  # the same terms are added in another order
    np.testing.assert_allclose(rgb.infer({"image": mirrored})[0], bgr, atol=tolerance)
    assert np.abs(rgb.infer({"image": image})[0] - bgr).max() > 10 * tolerance
    assert for_rgb(for_rgb(model)) == model


def test_the_stem_of_an_int8_graph_is_reversed_too() -> None:
    space = load_space("micro")
    made = onnx_graph.build(plan(space, space.min(), num_classes=7), image_input=True)
    after = ModelProto.FromString(for_rgb(quantised(made).SerializeToString()))
    before = quantised(ModelProto.FromString(for_rgb(made.SerializeToString())))
    plain = {t.name: numpy_helper.to_array(t) for t in quantised(made).graph.initializer}
    for a, b in zip(after.graph.initializer, before.graph.initializer):
        np.testing.assert_array_equal(numpy_helper.to_array(a), numpy_helper.to_array(b))
    changed = [
        t.name for t in after.graph.initializer
        if not np.array_equal(numpy_helper.to_array(t), plain[t.name])
    ]  # fmt: skip
    assert len(changed) == 2  # the mean and the stem


def test_a_graph_that_reads_its_image_twice_is_refused() -> None:
    space = load_space("micro")
    made = onnx_graph.build(plan(space, space.min(), num_classes=7), image_input=True)
    made.graph.node.add(op_type="Identity", input=["image"], output=["other"])
    with pytest.raises(BundleError, match=r"'image' is read by 2 nodes .* channels='bgr'"):
        for_rgb(made.SerializeToString())
