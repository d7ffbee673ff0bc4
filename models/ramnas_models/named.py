"""Find an arch by its name, its id or a file; read a list of archs from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, List, Mapping, Optional, Sequence

from ramnas_models.errors import SpaceError
from ramnas_models.space import Arch, Space, load_space
from ramnas_models.yaml_file import as_type, read_yaml

# Where imported weights come from; it stands in the facts that are stored with them.
ATTENTIVENAS = "AttentiveNAS supernet of Facebook, Inc. (github.com/facebookresearch/AttentiveNAS)"
ALPHANET = "AlphaNet supernet of Facebook, Inc. (github.com/facebookresearch/AlphaNet)"
EFFICIENTNET_LITE = {
    "lite0": "EfficientNet-Lite0 of Google (github.com/tensorflow/tpu)",
    "lite1": "EfficientNet-Lite1 of Google (github.com/tensorflow/tpu)",
    "lite2": "EfficientNet-Lite2 of Google (github.com/tensorflow/tpu)",
}

# The space in which EfficientNet-Lite0 to Lite2 are the max net.
_LITE = {"lite0": "lite", "lite1": "lite1", "lite2": "lite2"}

# The published networks of space attentivenas: resolution, widths, depths, kernels, expands.
_ATTENTIVENAS = {
    "A0": (192, (16, 16, 24, 32, 64, 112, 192, 216, 1792), "1333331", "3333333", "1444466"),
    "A1": (224, (16, 16, 24, 32, 64, 112, 192, 216, 1984), "1333331", "3335353", "1444466"),
    "A2": (224, (16, 16, 24, 32, 64, 112, 200, 224, 1984), "1333341", "3333353", "1454466"),
    "A3": (224, (16, 16, 24, 32, 64, 112, 208, 224, 1984), "2334351", "3335333", "1444466"),
    "A4": (256, (16, 16, 24, 32, 64, 112, 192, 216, 1984), "1334351", "3335353", "1445466"),
    "A5": (256, (16, 16, 24, 32, 72, 112, 192, 216, 1792), "1333461", "3335333", "1454466"),
    "A6": (288, (16, 16, 24, 32, 64, 112, 216, 224, 1984), "1334461", "3333353", "1465466"),
}

# AlphaNet's A5 is another network of the same size, and its A5_1 lies between A5 and A6 (the file
# configs/eval_alphanet_models.yml in its repository); the rest are those of AttentiveNAS.
_ALPHANET = {
    **_ATTENTIVENAS,
    "A5": (256, (16, 16, 24, 32, 64, 112, 208, 216, 1984), "1334451", "3333353", "1445466"),
    "A5_1": (288, (16, 16, 24, 32, 64, 112, 200, 216, 1984), "2343351", "3355333", "1444566"),
}

# Table 1 of the MobileNetV3 paper, as an arch of space mobilenet_v3: depths, kernels, expanded
# channels. Published: 219 MMACs and 5.4 M parameters; ours are 216.6 and 5.48, as torchvision's.
_MOBILENET_V3_LARGE = (
    224, 16, 16, 24, 40, 80, 112, 160, 1280,
    1, 2, 3, 4, 2, 3,
    3, 3, 3, 5, 5, 5, 3, 3, 3, 3, 3, 3, 5, 5, 5,
    16, 64, 72, 72, 120, 120, 240, 200, 184, 184, 480, 672, 672, 960, 960,
)  # fmt: skip


def find_arch(
    space: Space,
    wanted: str,
    known: Sequence[Arch] = (),
    family: Optional[Mapping[str, Arch]] = None,
    source: str = "",
) -> Arch:
    """Find an arch of `space` by name, by id in `known`, or in a YAML file.

    The names are min, max, mobilenet_v3_large, lite0 to lite2 and A0 to A6. `source` says where the
    weights come from: those of AlphaNet have another A5, and an A5_1. A name in `family` takes
    precedence over a published one. The YAML file holds either the list of the arch's integers or
    the fields `resolution`, `stem`, `stages` and `head`. SpaceError if there is no such arch, or if
    it is not in `space`.
    """
    if wanted in ("min", "max"):
        return space.min() if wanted == "min" else space.max()
    if family and wanted in family:
        return space.check(family[wanted])
    published = _ALPHANET if ALPHANET in source else _ATTENTIVENAS
    if wanted in published:
        resolution, widths, *digits = published[wanted]
        row = (resolution, *widths, *(int(d) for part in digits for d in part))
        return _published(space, wanted, row, "attentivenas")
    if wanted in _ALPHANET:
        raise SpaceError(
            f"{wanted} is a network of AlphaNet, and these weights are not known to be AlphaNet's: "
            "give the supernet that `ramnas import alphanet` made"
        )
    if wanted == "mobilenet_v3_large":
        return _published(space, wanted, _MOBILENET_V3_LARGE, "mobilenet_v3")
    if wanted in _LITE:
        home = load_space(_LITE[wanted])
        return _published(space, wanted, home.max().integers, home.name)
    for arch in known:
        if arch.id == wanted:
            return space.check(arch)
    if wanted.endswith((".yaml", ".yml")):
        return _arch(space, _read(Path(wanted)), wanted)
    raise SpaceError(
        f"unknown arch '{wanted}': give {', '.join((*published, *_LITE))}, mobilenet_v3_large, "
        "min, max, the id or name of an arch in the given front, or a .yaml file"
    )


def _published(space: Space, name: str, row: Sequence[int], home: str) -> Arch:
    try:
        return space.decode(row)
    except SpaceError as error:
        raise SpaceError(f"{name} is a network of space {home}: {error}") from error


def read_archs(space: Space, path: Path) -> List[Arch]:
    """Read the archs of a JSON or YAML file: a list of archs, or the candidates of a front.json.

    Each arch is the list of its integers, or has the fields `resolution`, `stem`, `stages` and
    `head`. SpaceError if the file holds neither, or if an arch is not in `space`.
    """
    content = _read(path)
    if isinstance(content, dict) and isinstance(content.get("candidates"), list):
        content = [c.get("arch") for c in content["candidates"] if isinstance(c, dict)]
    if not isinstance(content, list) or not content:
        raise SpaceError(f"{path} holds neither a list of archs nor a front")
    return [_arch(space, item, f"{i + 1} of {path}") for i, item in enumerate(content)]


def _read(path: Path) -> Any:
    try:
        return read_yaml(path)  # JSON is YAML too
    except ValueError as error:
        raise SpaceError(f"cannot read arch {path}: {error}") from error


def _arch(space: Space, content: Any, where: str) -> Arch:
    try:
        if isinstance(content, list):
            return space.decode(as_type(content, List[int]))
        return space.check(as_type(content, Arch))
    except (ValueError, SpaceError) as error:
        raise SpaceError(f"cannot read arch {where}: {error}") from error
