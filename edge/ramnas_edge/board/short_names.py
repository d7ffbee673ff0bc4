"""Device classes -> short names for people: `xeon 2c, onnxruntime-cpu`.

A device class (`Device.class_key`) is an identifier: it holds everything that shapes a latency. In
a table or a plot it would take the whole line.
"""

from __future__ import annotations

import re
from typing import Dict, Iterable, List, NamedTuple, Optional

# words that do not tell one board from another
_NOISE = {
    "r", "tm", "c", "cpu", "processor", "intel", "amd", "nvidia", "jetson", "developer", "dev",
    "kit", "engineering", "reference", "with", "graphics", "radeon", "0000",
}  # fmt: skip
_CLASS = re.compile(
    r"(?P<module>.+?)_(?P<cores>\d+c)(?:_(?P<quota>[0-9.]+)cpus)?_(?P<memory>\d+gib)"
    r"_(?P<system>[^_]+)(?:_(?P<mode>.+))?_(?P<engine>[a-z][a-z-]*)-(?P<version>[0-9.]+)"
)


class _Parts(NamedTuple):
    name: str  # always in the short name
    more: List[str]  # added one by one while another class would have the same name


def short_names(device_classes: Iterable[str]) -> Dict[str, str]:
    """Give each device class the shortest name that none of the others has.

    A text that is not a device class of ours stays as it is.
    """
    parts = {name: _parts(name) for name in dict.fromkeys(device_classes)}
    found: Dict[str, str] = {}
    for name, own in parts.items():
        found[name] = name
        for count in range(len(own.more) + 1 if own else 0):
            assert own is not None
            short = _joined(own, count)
            others = (_joined(o, count) if o else n for n, o in parts.items() if n != name)
            if short not in others:
                found[name] = short
                break
    return found


def legend(names: Dict[str, str]) -> List[str]:
    """One line per short name that says which device class it stands for."""
    return [f"{short} = {name}" for name, short in names.items() if short != name]


def _parts(device_class: str) -> Optional[_Parts]:
    match = _CLASS.fullmatch(device_class)
    if not match:
        return None
    words = re.sub(r"-(model|rev)-.*", "", match["module"]).split("-")
    telling = [w for w in words if w not in _NOISE and not re.fullmatch(r"[0-9.]+ghz|\d+-core", w)]
    mode = (match["mode"] or "").replace("_locked", "").replace("locked", "")
    quota = f"quota {match['quota']}" if match["quota"] else ""
    board = " ".join(filter(None, [*(telling or words)[:4], match["cores"], quota, mode]))
    locked = "locked" if (match["mode"] or "").endswith("locked") else "clocks free"
    more = [match["memory"], f"version {match['version']}", match["system"], locked]
    return _Parts(f"{board}, {match['engine']}", more)


def _joined(parts: _Parts, count: int) -> str:
    return ", ".join([parts.name, *parts.more[:count]])
