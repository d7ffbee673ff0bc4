"""A downloaded AttentiveNAS or AlphaNet supernet -> tensors by the keys of our Supernet.

A checkpoint is a pickle, and unpickling can run any code. So it is read by torch's `weights_only`
unpickler, which knows tensors and plain containers and refuses everything else.
"""

from __future__ import annotations

import re
import tarfile
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, Iterator

import torch
from torch import Tensor

from ramnas_models.errors import DataError
from ramnas_models.named import ALPHANET, ATTENTIVENAS
from ramnas_models.space import load_space
from ramnas_models.supernet import Supernet

LICENCE = "CC-BY-NC-4.0"
SOURCES = {"attentivenas": ATTENTIVENAS, "alphanet": ALPHANET}  # both have the same form
_CLASSES = 1000  # ImageNet's; no other classifier was published

# Classes that may appear in the entry `args`: the publisher's own (nested dicts whose __dict__ is
# the dict itself), and those that re-saved copies use instead. An OrderedDict, which torch allows
# anyway, stands in for each: it takes items and attributes, so no class is imported or called.
_CONFIG_CLASSES = (
    "utils.config.Config",
    "utils.config.AttrDict",
    "argparse.Namespace",
    "easydict.EasyDict",
)

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
    """The `state_dict` of a checkpoint file, zip or older format, on the CPU.

    DataError if the file is not a plain checkpoint, or if this torch cannot read it safely.
    """
    if torch.__version__ < "2.7":  # compared as versions, not as strings (TorchVersion)
        raise DataError(
            f"importing {path} needs torch 2.7 or newer, this is {torch.__version__}: older ones "
            "cannot read it safely (no stand-ins for foreign classes; CVE-2025-32434 before 2.6)"
        )
    content = _unpickle(path)
    # dict.get and dict.items: the file can give an OrderedDict attributes of these names
    state = dict.get(content, "state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise DataError(
            f"{path} has no entry 'state_dict': give the supernet checkpoint as it was downloaded"
        )
    tensors = {}
    for key, value in dict.items(state):
        if not (isinstance(key, str) and isinstance(value, Tensor)):
            raise DataError(f"{path}: entry {key!r} of 'state_dict' is not a tensor")
        if value.device.type != "cpu" or value.layout != torch.strided or value.is_quantized:
            raise DataError(f"{path}: tensor {key} is not a plain, dense tensor")
        tensors[key] = value
    return tensors


def to_supernet(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Their tensors -> ours in float32 for `Supernet(attentivenas, 1000)`, and names left out.

    DataError with the first five problems if a tensor is missing, unknown or of another shape.
    """
    # DistributedDataParallel puts `module.` before every key
    prefix = "module." if all(key.startswith("module.") for key in state) else ""
    wanted = _wanted()
    dropped = [key for key in state if _is_unused(key[len(prefix) :], wanted)]
    known = {*dropped, *(prefix + key for key in wanted)}
    problems = [*_faults(state, prefix, wanted)]
    problems += [f"unknown {key!r}" for key in state if key not in known]
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise DataError(
            f"this is not an AttentiveNAS or AlphaNet supernet: {'; '.join(problems[:5])}{more}. "
            "Give the supernet checkpoint itself, not one of a single network"
        )
    tensors = {
        ours: state[prefix + theirs].detach().to(torch.float32, copy=True).contiguous()
        for theirs, (ours, _) in wanted.items()
    }
    return tensors, dropped


# -- the file --------------------------------------------------------------------------------------


def _unpickle(path: Path) -> Any:
    """The object in a checkpoint file, made only of tensors, plain containers and stand-ins."""
    try:
        _refuse_other_archives(path)
        return _load(path)
    except DataError:
        raise
    except Exception as error:  # a damaged pickle may raise anything: KeyError, struct.error, ...
        raise DataError(f"{path} {_fault(error)}") from error


def _fault(error: Exception) -> str:
    # an error without a file name comes from seeking beyond the end of a file that was cut short
    if isinstance(error, OSError) and error.filename:
        return f"cannot be read: {error.strerror}"
    # torch's own text goes on to recommend weights_only=False, so only its finding is passed on
    found = re.search(r"GLOBAL (\S+)", str(error))
    if found:
        return (
            f"is refused: it wants to use {found[1]!r}, which weights do not need, so it may be "
            "malicious or damaged; download it again from the publisher"
        )
    return (
        f"is damaged or not a torch checkpoint ({type(error).__name__}); "
        "download it again, or save it again with torch.save and its default protocol"
    )


def _load(path: Path) -> Any:
    stand_ins: list[Any] = [(OrderedDict, name) for name in _CONFIG_CLASSES]
    with warnings.catch_warnings():
        # they are about options of torch.load, which the user cannot set
        warnings.simplefilter("ignore")
        # not by its path: torch would read one that ends in .safetensors in another way
        with path.open("rb") as file, torch.serialization.safe_globals(stand_ins):
            return torch.load(file, map_location="cpu", weights_only=True)


def _refuse_other_archives(path: Path) -> None:
    """Refuse the two kinds of archive that torch.load treats specially and refuses less clearly."""
    if tarfile.is_tarfile(path):
        # the publisher's file names end in .pth.tar too, but those files are not archives
        raise DataError(f"{path} is a tar archive, not a checkpoint: unpack it first")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("constants.pkl") for name in archive.namelist()):
                raise DataError(f"{path} is a TorchScript program, not a checkpoint of weights")


# -- the names -------------------------------------------------------------------------------------


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


def _faults(
    state: dict[str, Tensor], prefix: str, wanted: dict[str, tuple[str, torch.Size]]
) -> Iterator[str]:
    """The tensors that are missing or have another shape."""
    for theirs, (_, shape) in wanted.items():
        key = prefix + theirs
        if key not in state:
            yield f"missing {key}"
        elif state[key].shape != shape:
            yield f"{key} is {list(state[key].shape)}, not {list(shape)}"
