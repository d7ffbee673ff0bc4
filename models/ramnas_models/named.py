"""An arch by what people call it: a published name, an id, or a YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import List, Sequence

import msgspec
import yaml

from ramnas_models.errors import SpaceError
from ramnas_models.space import Arch, Space

# Networks with a name, all of space attentivenas: resolution; widths; depths, kernels, expands.
_NAMED = {
    "A0": (192, (16, 16, 24, 32, 64, 112, 192, 216, 1792), "1333331", "3333333", "1444466"),
    "A1": (224, (16, 16, 24, 32, 64, 112, 192, 216, 1984), "1333331", "3335353", "1444466"),
    "A2": (224, (16, 16, 24, 32, 64, 112, 200, 224, 1984), "1333341", "3333353", "1454466"),
    "A3": (224, (16, 16, 24, 32, 64, 112, 208, 224, 1984), "2334351", "3335333", "1444466"),
    "A4": (256, (16, 16, 24, 32, 64, 112, 192, 216, 1984), "1334351", "3335353", "1445466"),
    "A5": (256, (16, 16, 24, 32, 72, 112, 192, 216, 1792), "1333461", "3335333", "1454466"),
    "A6": (288, (16, 16, 24, 32, 64, 112, 216, 224, 1984), "1334461", "3333353", "1465466"),
}


def find_arch(space: Space, wanted: str, known: Sequence[Arch] = ()) -> Arch:
    """An arch of `space` by name (A0 to A6, min, max), by id among `known`, or from a YAML file.

    The YAML is the list of its integers, or `resolution`, `stem`, `stages` and `head` by name.
    """
    if wanted in ("min", "max"):
        return space.min() if wanted == "min" else space.max()
    if wanted in _NAMED:
        resolution, widths, *digits = _NAMED[wanted]
        return space.decode([resolution, *widths, *(int(d) for part in digits for d in part)])
    for arch in known:
        if arch.id == wanted:
            return space.check(arch)
    if wanted.endswith((".yaml", ".yml")):
        try:
            content = yaml.safe_load(Path(wanted).read_text(encoding="utf-8"))
            if isinstance(content, list):
                return space.decode(msgspec.convert(content, List[int]))
            return space.check(msgspec.convert(content, Arch))
        except (OSError, UnicodeDecodeError, yaml.YAMLError, msgspec.ValidationError) as error:
            raise SpaceError(f"cannot read arch {wanted}: {error}") from error
    raise SpaceError(
        f"unknown arch '{wanted}': give {', '.join(_NAMED)}, min, max, the id of an arch in the "
        "given front, or a .yaml file"
    )
