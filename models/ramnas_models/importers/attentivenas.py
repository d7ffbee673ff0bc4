"""A downloaded AttentiveNAS or AlphaNet supernet -> tensors by the keys of our Supernet."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from ramnas_models.importers.torch_file import read_tensors, renamed
from ramnas_models.named import ALPHANET, ATTENTIVENAS
from ramnas_models.space import load_space
from ramnas_models.supernet import Supernet

LICENCE = "CC-BY-NC-4.0"
SOURCES = {"attentivenas": ATTENTIVENAS, "alphanet": ALPHANET}  # both have the same form
_CLASSES = 1000  # ImageNet's; no other classifier was published

# our name of a layer -> theirs; within a block both names are preceded by the block's
_LAYERS = {
    "stem": "first_conv.conv.conv",
    "expand": "mobile_inverted_conv.inverted_bottleneck.conv.conv",
    "depthwise": "mobile_inverted_conv.depth_conv.conv.conv",
    "se.reduce": "mobile_inverted_conv.depth_conv.se.fc.reduce",
    "se.expand": "mobile_inverted_conv.depth_conv.se.fc.expand",
    "project": "mobile_inverted_conv.point_linear.conv.conv",
    "shortcut": "shortcut.conv.conv",
    "head.expand": "last_conv.final_expand_layer.conv.conv",
    "head.mix": "last_conv.feature_mix_layer.conv.conv",
    "classifier": "classifier.linear.linear",
}


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The `state_dict` of a checkpoint file; DataError if the file is not a plain checkpoint."""
    return read_tensors(path, "state_dict")


def to_supernet(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Their tensors -> ours in float32 for `Supernet(attentivenas, 1000)`, and names left out.

    DataError with the first five problems if a tensor is missing, unknown, of another shape or not
    finite.
    """
    # DistributedDataParallel puts `module.` before every key
    prefix = "module." if all(key.startswith("module.") for key in state) else ""
    wanted = _wanted()
    dropped = [key for key in state if _is_unused(key[len(prefix) :], wanted)]
    tensors = renamed(
        state, {prefix + key: ours for key, ours in wanted.items()}, dropped,
        "this is not an AttentiveNAS or AlphaNet supernet",
        "Give the supernet checkpoint itself, not one of a single network",
    )  # fmt: skip
    return tensors, dropped


def _wanted() -> dict[str, tuple[str, torch.Size]]:
    """Their key -> (our key, shape), for every tensor of our supernet."""
    space = load_space("attentivenas")
    with torch.device("meta"):  # only the shapes are needed
        net = Supernet(space, _CLASSES)
    first, starts = 0, []
    for stage in space.stages:
        starts.append(first)
        first += max(stage.depths)
    return {_their_key(key, starts): (key, value.shape) for key, value in net.state_dict().items()}


def _their_key(ours: str, starts: list[int]) -> str:
    """`stages.2.1.project.bn.bias` -> `blocks.8.mobile_inverted_conv.point_linear.bn.bn.bias`."""
    block, layer = "", ours
    found = re.fullmatch(r"stages\.(\d+)\.(\d+)\.(.+)", ours)
    if found:
        block, layer = f"blocks.{starts[int(found[1])] + int(found[2])}.", found[3]
    layer, tensor = layer.rsplit(".", 1)
    if layer.endswith(".bn"):
        return f"{block}{_LAYERS[layer[:-3]].replace('.conv.conv', '.bn.bn')}.{tensor}"
    return f"{block}{_LAYERS[layer]}.{tensor}"


def _is_unused(key: str, wanted: dict[str, tuple[str, torch.Size]]) -> bool:
    """Whether no arch's forward pass reads this tensor of theirs."""
    if key.endswith(".num_batches_tracked") or ".bn_tracking." in key:
        return True
    # only the first block of a stage can change the width; the other 30 shortcuts are identities
    shortcut = re.fullmatch(r"blocks\.(\d+)\.shortcut\.conv\.conv\.weight", key)
    return shortcut is not None and int(shortcut[1]) < 37 and key not in wanted
