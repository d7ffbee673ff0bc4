"""An ONNX graph of any batch -> the same graph for batches of a fixed size."""

from __future__ import annotations

from onnx import ModelProto

from ramnas_models.errors import BundleError


def with_batch(model: bytes, batch: int) -> bytes:
    """The first dimension of all inputs and outputs is `batch`, be it symbolic or a number now.

    An engine plans memory and picks kernels better for shapes that it knows. BundleError if it is
    not ONNX, or an input or output has no dimensions.
    """
    try:
        proto = ModelProto.FromString(model)
    except Exception as error:  # protobuf's DecodeError, of whichever build of protobuf
        raise BundleError(f"a graph is not ONNX ({error}); write the bundle again") from error
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
