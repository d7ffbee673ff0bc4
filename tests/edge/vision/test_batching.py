from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto

from ramnas_edge.engines import backends
from ramnas_edge.vision.batching import with_batch
from ramnas_models import onnx_graph
from ramnas_models.errors import BundleError
from ramnas_models.head_plan import TASKS, for_task
from ramnas_models.plan import plan
from ramnas_models.space import load_space


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("batch", [None, 1])
def test_a_batch_gives_each_frame_the_outputs_of_batch_1(task: str, batch: int | None) -> None:
    space = load_space("micro")
    layout = for_task(task, plan(space, space.min(), num_classes=3, input_hw=(48, 64)))
    model = onnx_graph.build(layout, image_input=True, batch=batch).SerializeToString()
    images = np.random.default_rng(0).integers(0, 256, (3, 48, 64, 3), np.uint8)
    backend = backends.load("onnxruntime-cpu")
    three = backend.open(with_batch(model, 3), backends.Options())
    assert {tensor.shape[0] for tensor in (*three.inputs, *three.outputs)} == {3}
    one = backend.open(with_batch(model, 1), backends.Options())
    for i, image in enumerate(images):
        for both, alone in zip(three.infer({"image": images}), one.infer({"image": image[None]})):
            np.testing.assert_allclose(both[i], alone[0], rtol=1e-4, atol=1e-5)


def test_a_graph_that_already_has_this_batch_is_returned_unchanged() -> None:
    space = load_space("micro")
    model = onnx_graph.build(plan(space, space.min(), num_classes=3), batch=2).SerializeToString()
    assert with_batch(model, 2) is model


def test_a_model_without_a_batch_dimension_is_refused() -> None:
    space = load_space("micro")
    made = onnx_graph.build(plan(space, space.min(), num_classes=3))
    made.graph.output[0].type.tensor_type.shape.Clear()
    with pytest.raises(BundleError, match=r"'logits' of graph .* has no batch dimension"):
        with_batch(made.SerializeToString(), 1)
    with pytest.raises(BundleError, match="is not ONNX"):
        with_batch(b"no model", 1)
    assert ModelProto.FromString(b"") == ModelProto()  # an empty file is a valid graph of nothing
    with pytest.raises(BundleError, match="has 0 inputs and 0 outputs"):
        with_batch(b"", 1)
