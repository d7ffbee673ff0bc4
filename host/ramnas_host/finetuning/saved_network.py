"""Writes a fine-tuned network to a safetensors file and reads it back.

The metadata of the file hold everything that an export needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from ramnas_host.config import Finetuning, SegmentationHead
from ramnas_host.training import tensors
from ramnas_models.accuracy import Accuracy
from ramnas_models.bundle import Preprocessing
from ramnas_models.errors import DataError
from ramnas_models.head_plan import lraspp, ssdlite
from ramnas_models.heads import Detector, Segmenter
from ramnas_models.space import Arch, Space, read_space
from ramnas_models.supernet import Subnet, Supernet

Net = Detector | Segmenter | Subnet


class FinetunedAbout(msgspec.Struct, frozen=True):
    """The description that travels with the weights.

    `classes` are in the order of the bundle's manifest. `licence` and `source` cover the supernet's
    weights and the data. `from_scratch` says that only the architecture came from the supernet, not
    its weights. `accuracies` has those on `selection`, by which a budget chooses, and then those on
    `report`. It is empty until the training has ended. `data` is the digest of the data set; it is
    empty in files of earlier versions.
    """

    task: str
    arch: Arch
    classes: tuple[str, ...]
    input_hw: tuple[int, int]
    head: SegmentationHead | None
    preprocessing: Preprocessing
    licence: str
    source: str
    from_scratch: bool
    recipe: Finetuning
    accuracies: tuple[Accuracy, ...] = ()
    data: str = ""


@dataclass(frozen=True)
class Finetuned:
    """A network that was read from a file, with its BatchNorm recalibrated.

    `net.plan` and `net.numpy_weights()` are what `onnx_graph.build` takes.
    """

    net: Net
    space: Space
    about: FinetunedAbout


def build(supernet: Supernet, about: FinetunedAbout) -> Net:
    """Build the network that `about` describes: the supernet's weights and a new head for the task.

    Classification keeps the supernet's own head, which must have as many classes. DataError if a
    segmenter's recipe names no head.
    """
    backbone = supernet.plan(supernet.space.check(about.arch), about.input_hw)
    subnet = supernet.extract(about.arch)
    if about.task == "detection":
        return Detector(subnet, ssdlite(backbone, len(about.classes)))
    if about.task == "segmentation":
        if about.head is None:
            raise DataError(
                "a recipe for segmentation needs `head: {form: ..., output_stride: ...}`"
            )
        form, stride = about.head.form, about.head.output_stride
        return Segmenter(subnet, lraspp(backbone, len(about.classes), form, stride))
    return subnet


def save(path: Path, net: Net, space: Space, about: FinetunedAbout) -> None:
    """Write the network to `path`; if that fails, what was there before stays."""
    metadata = {
        "space": msgspec.json.encode(space).decode(),
        "finetuned": msgspec.json.encode(about).decode(),
        "licence": about.licence,  # where other programs that read safetensors look
        "source": about.source,
    }
    tensors.write(path, {key: value.cpu() for key, value in net.state_dict().items()}, metadata)


def load(path: Path) -> Finetuned:
    """Read a network that `save` wrote, in eval mode; DataError if the file holds anything else."""
    try:
        weights, metadata = tensors.read(path)
        space = read_space(msgspec.json.decode(metadata["space"]), f"{path} (space)")
        about = msgspec.json.decode(metadata["finetuned"], type=FinetunedAbout)
        net = build(Supernet(space, len(about.classes)), about)
        net.load_state_dict(weights)
    except (
        OSError, KeyError, RuntimeError, tensors.UnreadableError, msgspec.DecodeError,
    ) as error:  # fmt: skip
        raise DataError(f"{path} is not a network that ramnas finetune wrote: {error}") from error
    return Finetuned(net.eval(), space, about)
