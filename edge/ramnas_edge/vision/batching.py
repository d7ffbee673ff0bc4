"""An ONNX graph whose batch size is open -> the same graph for batches of one fixed size."""

from __future__ import annotations

from onnx import ModelProto, TensorProto

from ramnas_models.errors import BundleError


def with_batch(model: bytes, batch: int) -> bytes:
    """Set the first dimension of every input and output to `batch`, whatever it was before.

    Engines plan memory and choose kernels better for shapes that they know. Raises BundleError if
    `model` is not ONNX, has no input or output or weights in other files, or if an input or output
    has no dimensions.
    """
    try:
        proto = ModelProto.FromString(model)
    except Exception as error:  # each build of protobuf has a DecodeError of its own
        raise BundleError(f"the model is not ONNX ({error}); write the bundle again") from error
    if not proto.graph.input or not proto.graph.output:
        raise BundleError(
            f"graph '{proto.graph.name}' has {len(proto.graph.input)} inputs and "
            f"{len(proto.graph.output)} outputs, but needs one or more of each; export it again"
        )
    for tensor in proto.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            raise BundleError(
                f"the weights of graph '{proto.graph.name}', such as '{tensor.name}', lie in "
                "another file (external data), which a bundle does not have; export the model "
                "with its weights inside"
            )
    changed = False
    for value in (*proto.graph.input, *proto.graph.output):
        shape = value.type.tensor_type.shape
        if not shape.dim:
            raise BundleError(
                f"'{value.name}' of graph '{proto.graph.name}' has no batch dimension; "
                "export the graph with one"
            )
        changed |= shape.dim[0].dim_value != batch
        shape.dim[0].dim_value = batch
    fixed: bytes = proto.SerializeToString() if changed else model
    return fixed
