"""Two lists of picture files -> the files that are in both, under whatever name."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path


def same_pictures(one: Iterable[Path], other: Iterable[Path]) -> list[tuple[Path, Path]]:
    """Pairs of a file of `one` and a file of `other` with the same bytes, ordered by path.

    Only files whose length occurs in both lists are read. Those that cannot be read are left out,
    since whoever needs them says why.
    """
    lengths, others = _by_length(one), _by_length(other)
    found = []
    for length in lengths.keys() & others.keys():
        known = {_digest(path): path for path in lengths[length]}
        for path in others[length]:
            digest = _digest(path)
            if digest and digest in known:
                found.append((known[digest], path))
    return sorted(found)


def _by_length(paths: Iterable[Path]) -> dict[int, list[Path]]:
    found = defaultdict(list)
    for path in paths:
        try:
            found[path.stat().st_size].append(path)
        except OSError:
            continue
    return found


def _digest(path: Path) -> bytes:
    try:
        return hashlib.blake2b(path.read_bytes()).digest()
    except OSError:
        return b""
