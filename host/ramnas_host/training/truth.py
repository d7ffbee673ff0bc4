"""The true scores of archs on a split: each arch is evaluated once, and a file keeps its scores.

The file has a line of JSON for every evaluated arch, written as soon as its scores are known. So a
command that was stopped and is started again goes on where it was. Each line names by a digest the
weights and images that its scores are for, and only lines of the same weights and images count. The
file stays when the command has ended; without it, the archs are evaluated again.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from ramnas_host.data.images import Dataset
from ramnas_host.training.distributed import Ranks
from ramnas_host.training.evaluate import Scores, true_scores
from ramnas_models.files import make_folder, writing
from ramnas_models.space import Arch
from ramnas_models.supernet import Supernet

log = logging.getLogger(__name__)

_METHOD = "1"  # another number for every change that gives other scores


class _Line(msgspec.Struct, frozen=True):
    """A line of the file. `of` is the digest of the weights and images."""

    of: str
    arch_id: str
    scores: Scores


class Truth:
    """The true scores of the archs of a supernet on one split.

    All ranks make one, at the same time. Then they call `lead`, which gives the leading one the
    say: it calls this object with archs, and all ranks evaluate them.
    """

    def __init__(
        self, net: Supernet, dataset: Dataset, split: str, *, ranks: Ranks, path: Path | None = None
    ) -> None:
        """`net` is moved to the device of the ranks. Without a `path` nothing is kept."""
        self._dataset, self._split = dataset, split
        self._ranks, self._path = ranks, path
        self._of = ranks.from_leader(_digest(net, dataset, split) if ranks.leads else "")
        self._net = net.to(ranks.device)
        self._known = self._on_record() if ranks.leads else {}
        if self._known:
            log.info("%s has the accuracies of %d archs already", path, len(self._known))

    @property
    def top1(self) -> dict[str, float]:
        """The top-1 of every arch that is known so far, by arch id."""
        return {arch_id: scores.top1 for arch_id, scores in self._known.items()}

    def lead(self, work: Callable[[], None]) -> None:
        """Do `work` on the leading rank. The others evaluate what it asks for until it is done."""
        none: Sequence[Arch] | None = None
        if self._ranks.leads:
            work()
            self._ranks.from_leader(none)
            return
        while (archs := self._ranks.from_leader(none)) is not None:
            self._evaluate(archs, lambda count: None)

    def __call__(
        self, archs: Sequence[Arch], on_done: Callable[[int], None] = lambda count: None
    ) -> list[Scores]:
        """The scores of `archs`, in their order. Only the leading rank may call this.

        `on_done` is called with the number of archs that are done, those on record included.
        """
        new: Sequence[Arch] | None
        new = [*{arch.id: arch for arch in archs if arch.id not in self._known}.values()]
        before = len(archs) - len(new)
        on_done(before)
        if new:
            self._ranks.from_leader(new)
            self._evaluate(new, lambda count: on_done(before + count))
        return [self._known[arch.id] for arch in archs]

    def _evaluate(self, archs: Sequence[Arch], on_done: Callable[[int], None]) -> None:
        found = true_scores(
            self._net, archs, self._dataset, self._split,
            ranks=self._ranks, on_done=on_done, on_score=self._keep,
        )  # fmt: skip
        self._known.update(zip([arch.id for arch in archs], found, strict=True))
        if self._ranks.leads:  # ranks on other machines may have written to files of their own
            here = self._on_record()
            for arch, scores in zip(archs, found, strict=True):
                if arch.id not in here:
                    self._keep(arch, scores)

    def _keep(self, arch: Arch, scores: Scores) -> None:
        if self._path is None:
            return
        line = msgspec.json.encode(_Line(self._of, arch.id, scores)) + b"\n"
        make_folder(self._path.parent)
        with writing(self._path), self._path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # other ranks write too
            end = file.seek(0, 2)
            file.seek(max(0, end - 1))
            # a process that was killed may have left a part of a line
            file.write(line if file.read(1) in (b"", b"\n") else b"\n" + line)

    def _on_record(self) -> dict[str, Scores]:
        """The scores that the file has for these weights and images, by arch id."""
        if self._path is None or not self._path.exists():
            return {}
        found = {}
        for text in self._path.read_bytes().splitlines():
            try:
                line = msgspec.json.decode(text, type=_Line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue  # a line that was cut off
            if line.of == self._of:
                found[line.arch_id] = line.scores
        return found


def beside(out: Path) -> Path:
    """The file of accuracies of a command that writes `out`: front.accuracies.jsonl."""
    return out.with_suffix(".accuracies.jsonl")


def _digest(net: Supernet, dataset: Dataset, split: str) -> str:
    found = hashlib.sha256(_METHOD.encode())
    images = (dataset.calibration.identity, dataset.split(split).identity, split)
    for text in (net.space.hash, *images):
        found.update(f"{text}\0".encode())
    for key, value in sorted(net.state_dict().items()):
        found.update(f"{key} {value.dtype} {tuple(value.shape)}\0".encode())
        found.update(value.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:32]
