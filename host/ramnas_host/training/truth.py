"""Archs -> their true scores on a split: each is evaluated once, and a file keeps its scores.

The file has a line of JSON for every evaluated arch, written as soon as its scores are known. So a
command that was stopped and is started again goes on where it was. Each line names by a digest the
weights and images that its scores are for, and only lines of the same weights and images count. The
file stays when the command has ended; without it, the archs are evaluated again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import msgspec

from ramnas_host.data.images import Dataset
from ramnas_host.training import tensors
from ramnas_host.training.distributed import Ranks
from ramnas_host.training.evaluate import Scores, true_scores
from ramnas_models.files import lock, make_folder, writing
from ramnas_models.space import Arch
from ramnas_models.supernet import Supernet

_METHOD = "1"  # another number for every change that gives other scores


class _Line(msgspec.Struct, frozen=True):
    """A line of the file. `of` is the digest of the weights and images."""

    of: str
    arch_id: str
    scores: Scores


class _Request(NamedTuple):
    """What the leading rank asks of all: the scores of `archs` on `split`, whose digest is `of`."""

    archs: Sequence[Arch]
    split: str
    of: str


class Truth:
    """The true scores of the archs of a supernet.

    All ranks make one, at the same time. Then they call `lead`, where the leading one asks for the
    scores of archs and all of them evaluate.
    """

    def __init__(
        self, net: Supernet, dataset: Dataset, *, ranks: Ranks = Ranks(), path: Path | None = None
    ) -> None:
        """`net` is moved to the device of the ranks. Without a `path` nothing is kept in a file."""
        self._net, self._dataset = net.to(ranks.device), dataset
        self._ranks, self._path = ranks, path
        self._digests: dict[str, str] = {}
        self._known = self._on_record() if ranks.leads else {}

    def lead(self, work: Callable[[], None]) -> None:
        """Do `work` on the leading rank. The others evaluate what it asks for until it is done."""
        request: _Request | None = None
        if self._ranks.leads:
            work()
            self._ranks.from_leader(request)
            return
        while request := self._ranks.from_leader(request):
            self._evaluate(request, lambda count: None)

    def __call__(
        self, archs: Sequence[Arch], split: str, on_done: Callable[[int], None] = lambda count: None
    ) -> list[Scores]:
        """The scores of `archs` on `split`, in their order. Only the leading rank may ask.

        `on_done` is called with the number of archs that are done, those on record included.
        """
        of = self._digest(split)
        new = {arch.id: arch for arch in archs if (of, arch.id) not in self._known}
        before = len(archs) - len(new)
        on_done(before)
        if new:
            request = self._ranks.from_leader(_Request([*new.values()], split, of))
            self._evaluate(request, lambda count: on_done(before + count))
        return [self._known[of, arch.id] for arch in archs]

    def _evaluate(self, request: _Request, on_done: Callable[[int], None]) -> None:
        archs, split, of = request
        found = true_scores(
            self._net, archs, self._dataset, split, ranks=self._ranks, on_done=on_done,
            on_score=lambda arch, scores: self._keep(_Line(of, arch.id, scores)),
        )  # fmt: skip
        if not self._ranks.leads:
            return
        # ranks on other machines may have written to files of their own
        here = self._on_record()
        for arch, scores in zip(archs, found, strict=True):
            if (of, arch.id) not in here:
                self._keep(_Line(of, arch.id, scores))
            self._known[of, arch.id] = scores

    def _digest(self, split: str) -> str:
        """Names the weights and the images of `split`, and those that recalibrate BatchNorm."""
        if split not in self._digests:
            images = (self._dataset.calibration.identity, self._dataset.split(split).identity)
            facts = "\0".join((_METHOD, self._weights, split, *images))
            self._digests[split] = hashlib.sha256(facts.encode()).hexdigest()[:32]
        return self._digests[split]

    @cached_property
    def _weights(self) -> str:
        return tensors.digest(self._net.space.hash.encode(), self._net.state_dict())

    def _keep(self, line: _Line) -> None:
        if self._path is None:
            return
        text = msgspec.json.encode(line) + b"\n"
        make_folder(self._path.parent)
        with writing(self._path), self._path.open("a+b") as file:
            lock(file.fileno(), wait=True)  # other ranks write too
            file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
            # a process that was killed may have left a part of a line
            file.write(text if file.read(1) in (b"", b"\n") else b"\n" + text)

    def _on_record(self) -> dict[tuple[str, str], Scores]:
        """The scores in the file, by the digest of weights and images and the arch id."""
        if self._path is None or not self._path.exists():
            return {}
        found = {}
        for text in self._path.read_bytes().splitlines():
            with suppress(msgspec.DecodeError, UnicodeDecodeError):  # a line that was cut off
                line = msgspec.json.decode(text, type=_Line)
                found[line.of, line.arch_id] = line.scores
        return found


def beside(out: Path) -> Path:
    """The file of accuracies of a command that writes `out`: front.accuracies.jsonl."""
    return out.with_suffix(".accuracies.jsonl")
