"""The 1,000 classes of ImageNet (ILSVRC 2012), in the order that networks have them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Tuple

_FILE = Path(__file__).parent / "imagenet_classes.txt"  # lines such as `n01440764 tench`


@functools.lru_cache(maxsize=1)
def _classes() -> Tuple[Tuple[str, ...], Tuple[str, ...]]:
    lines = [line.split(" ", 1) for line in _FILE.read_text(encoding="utf-8").splitlines()]
    return tuple(synset for synset, _ in lines), tuple(name for _, name in lines)


def synsets() -> Tuple[str, ...]:
    """WordNet's numbers of the classes, which are the names of ImageNet's folders."""
    return _classes()[0]


def names() -> Tuple[str, ...]:
    """A name for each class, such as `tench`; no two are the same, not even in lower case.

    They are WordNet's first words. Where those are the same for two classes, such as the crane that
    flies and the crane that lifts, a word in brackets tells them apart.
    """
    return _classes()[1]
