"""Networks with their own weights -> the parts of a manifest and the ONNX files of a bundle."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ramnas_models import onnx_graph
from ramnas_models.accuracy import Accuracy
from ramnas_models.bundle import Cost, Latency, Model, Preprocessing
from ramnas_models.head_plan import SSDLitePlan
from ramnas_models.space import Arch, Space
from ramnas_models.supernet import Standalone


def model_of(
    net: Standalone, files: dict[str, bytes], *, name: str, file: str, space: str, arch: Arch,
    preprocessing: Preprocessing, accuracies: tuple[Accuracy, ...],
    latency: tuple[Latency, ...] = (),
) -> Model:  # fmt: skip
    """The manifest's entry for one network, whose ONNX graph is added to `files` as `file`.

    `space` is the key of the network's space in the manifest.
    """
    plan = net.plan
    files[file] = onnx_graph.build(
        plan, net.numpy_weights(), image_input=True, batch=None,
        normalisation=preprocessing.normalisation,
    ).SerializeToString()  # fmt: skip
    return Model(
        name=name,
        arch_id=plan.arch_id,
        space=space,
        arch=arch,
        file=file,
        sha256="",  # write_bundle fills it in
        input_hw=plan.input_hw,
        preprocessing=preprocessing.at(plan.input_hw[0]),
        accuracies=accuracies,
        cost=Cost(plan.macs, plan.macs_bn, plan.params),
        latency=latency,
        anchors=plan.anchors if isinstance(plan, SSDLitePlan) else None,
    )


def space_keys(spaces: Sequence[Space]) -> dict[str, str]:
    """The hash of each space -> its key in the manifest: its name, made unique."""
    keys: dict[str, str] = {}
    for space in spaces:
        if space.hash not in keys:
            names = [space.name, *(f"{space.name}-{n}" for n in range(2, len(spaces) + 1))]
            keys[space.hash] = next(name for name in names if name not in keys.values())
    return keys


def joined(texts: Iterable[str]) -> str:
    """The parts of all texts, which "; " separates, each once."""
    return "; ".join(dict.fromkeys(part for text in texts for part in text.split("; ")))
