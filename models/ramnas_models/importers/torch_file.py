"""A torch file from elsewhere -> its tensors, read without running any code, by our names.

A checkpoint is a pickle, and unpickling can run any code. So it is read by torch's `weights_only`
unpickler, which knows tensors and plain containers and refuses everything else.
"""

from __future__ import annotations

import re
import tarfile
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Iterator

import torch
from torch import Tensor

from ramnas_models.errors import DataError
from ramnas_models.files import GIT_LFS

# Classes that may appear beside the weights: settings (nested dicts whose __dict__ is the dict
# itself) of the publisher of AttentiveNAS, and those that re-saved copies use instead. An
# OrderedDict, which torch allows anyway, stands in for each: it takes items and attributes, so no
# class is imported or called.
_CONFIG_CLASSES = (
    "utils.config.Config",
    "utils.config.AttrDict",
    "argparse.Namespace",
    "easydict.EasyDict",
)


def read_tensors(path: Path, entry: str | None = None) -> dict[str, Tensor]:
    """The tensors by name that a checkpoint file, zip or older format, holds; on the CPU.

    They are the whole object in the file, or its `entry`. DataError if the file is not a plain
    checkpoint, or if this torch cannot read it safely.
    """
    if torch.__version__ < "2.7":  # compared as versions, not as strings (TorchVersion)
        raise DataError(
            f"importing {path} needs torch 2.7 or newer, this is {torch.__version__}: older ones "
            "cannot read it safely (no stand-ins for foreign classes; CVE-2025-32434 before 2.6)"
        )
    content = _unpickle(path)
    if entry:
        # dict.get and dict.items: the file can give an OrderedDict attributes of these names
        content = dict.get(content, entry) if isinstance(content, dict) else None
    if not isinstance(content, dict):
        lacks = f"has no entry '{entry}'" if entry else "holds no tensors by name"
        raise DataError(f"{path} {lacks}: give the checkpoint as it was downloaded")
    where = f"'{entry}'" if entry else "the checkpoint"
    tensors = {}
    for key, value in dict.items(content):
        if not (isinstance(key, str) and isinstance(value, Tensor)):
            raise DataError(f"{path}: entry {key!r} of {where} is not a tensor")
        dense = value.device.type == "cpu" and value.layout == torch.strided
        if not dense or value.is_quantized or value.is_complex():
            raise DataError(f"{path}: tensor {key} is not a plain, dense tensor")
        tensors[key] = value
    return tensors


def renamed(
    state: Mapping[str, Tensor],
    wanted: Mapping[str, tuple[str, tuple[int, ...]]],
    unused: Collection[str],
    refusal: str,
    way_out: str,
) -> dict[str, Tensor]:
    """Copies of the tensors of `state` in float32, by our names.

    `wanted` says by their names how ours are called and shaped, and the tensors `unused` may be
    there too. DataError, which begins with `refusal` and ends with `way_out`, names the first five
    tensors that are missing, unknown, of another shape, or not finite.
    """
    problems = [*_faults(state, wanted)]
    known = {*wanted, *unused}
    problems += [f"unknown {key!r}" for key in state if key not in known]
    tensors = {}
    if not problems:
        for theirs, (ours, _) in wanted.items():
            tensor = state[theirs].detach().to(torch.float32, copy=True).contiguous()
            tensors[ours] = tensor
            if not tensor.isfinite().all():
                problems.append(f"{theirs} has values that are infinite or not numbers")
            elif theirs.endswith("running_var") and (tensor < 0).any():
                problems.append(f"{theirs} has variances below 0")
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise DataError(f"{refusal}: {'; '.join(problems[:5])}{more}. {way_out}")
    return tensors


def _faults(
    state: Mapping[str, Tensor], wanted: Mapping[str, tuple[str, tuple[int, ...]]]
) -> Iterator[str]:
    """The tensors that are missing or have another shape."""
    for key, (_, shape) in wanted.items():
        if key not in state:
            yield f"missing {key}"
        elif state[key].shape != shape:
            yield f"{key} is {list(state[key].shape)}, not {list(shape)}"


def _unpickle(path: Path) -> Any:
    """The object in a checkpoint file, made only of tensors, plain containers and stand-ins."""
    stand_ins: list[Any] = [(OrderedDict, name) for name in _CONFIG_CLASSES]
    try:
        _refuse_other_kinds(path)
        with warnings.catch_warnings():
            # they are about options of torch.load, which the user cannot set
            warnings.simplefilter("ignore")
            # not by its path: torch would read one that ends in .safetensors in another way
            with path.open("rb") as file, torch.serialization.safe_globals(stand_ins):
                return torch.load(file, map_location="cpu", weights_only=True)
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


def _refuse_other_kinds(path: Path) -> None:
    """Refuse what torch.load treats specially, or refuses less clearly than can be said."""
    if not path.is_file() and path.exists() and not path.is_dir():  # a pipe would wait for ever
        raise DataError(f"{path} cannot be read: it is a pipe, a socket or a device, not a file")
    with path.open("rb") as file:
        if file.read(len(GIT_LFS)) == GIT_LFS:
            raise DataError(
                f"{path} is only a pointer of Git LFS, and the file itself was not fetched: run "
                "git lfs pull where you cloned it"
            )
    if tarfile.is_tarfile(path):
        # AttentiveNAS's file names end in .pth.tar too, but those files are not archives
        raise DataError(f"{path} is a tar archive, not a checkpoint: unpack it first")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(name.endswith("constants.pkl") for name in names):
            raise DataError(f"{path} is a TorchScript program, not a checkpoint of weights")
        if not any(name.endswith("data.pkl") for name in names):
            raise DataError(f"{path} is a zip archive, not a checkpoint: unpack it first")
