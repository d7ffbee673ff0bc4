"""A fine-tuned network as a file: safetensors, with all that export needs in the metadata."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from ramnas_host.config import Finetuning, SegmentationHead
from ramnas_host.training import tensors
from ramnas_models.bundle import Accuracy, Preprocessing
from ramnas_models.errors import DataError
from ramnas_models.head_plan import lraspp, ssdlite
from ramnas_models.heads import Detector, Segmenter
from ramnas_models.space import Arch, Space, read_space
from ramnas_models.supernet import Subnet, Supernet

Net = Detector | Segmenter | Subnet


class FinetunedAbout(msgspec.Struct, frozen=True):
    """What travels with the weights. `classes` of the task, as the manifest has them.

    `licence` and `source` are of the supernet's weights and of the data; `accuracies` are empty
    until the whole training is over; `from_scratch`: the supernet gave the architecture alone.
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


@dataclass(frozen=True)
class Finetuned:
    """BatchNorm is recalibrated: `net.numpy_weights()` go with `net.plan` into an ONNX graph."""

    net: Net
    space: Space
    about: FinetunedAbout


def build(supernet: Supernet, about: FinetunedAbout) -> Net:
    """The network of `about` with the supernet's weights; those of its task's head are new."""
    backbone = supernet.plan(supernet.space.check(about.arch), about.input_hw)
    subnet = supernet.extract(about.arch)
    if about.task == "detection":
        return Detector(subnet, ssdlite(backbone, len(about.classes)))
    if about.task == "segmentation":
        if about.head is None:
            raise DataError("the recipe of a segmenter needs head: {form, output_stride}")
        form, stride = about.head.form, about.head.output_stride
        return Segmenter(subnet, lraspp(backbone, len(about.classes), form, stride))
    return subnet


def save(path: Path, net: Net, space: Space, about: FinetunedAbout) -> None:
    """Write the network, whole or not at all."""
    metadata = {
        "space": msgspec.json.encode(space).decode(),
        "finetuned": msgspec.json.encode(about).decode(),
        "licence": about.licence,  # where other readers of safetensors look
        "source": about.source,
    }
    tensors.write(path, {key: value.cpu() for key, value in net.state_dict().items()}, metadata)


def load(path: Path) -> Finetuned:
    """Read a network written by `save`, in eval mode; DataError if it is none."""
    try:
        weights, metadata = tensors.read(path)
        space = read_space(msgspec.json.decode(metadata["space"]), f"{path} (space)")
        about = msgspec.json.decode(metadata["finetuned"], type=FinetunedAbout)
        net = build(Supernet(space, len(about.classes)), about)
        net.load_state_dict(weights)
    except (
        OSError, KeyError, RuntimeError, tensors.UnreadableError, msgspec.DecodeError,
    ) as error:  # fmt: skip
        raise DataError(f"{path} is no fine-tuned network of ramnas: {error}") from error
    return Finetuned(net.eval(), space, about)
