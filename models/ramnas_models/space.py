"""The search space as data, and the archs in it: YAML -> Space -> Arch <-> integer encoding."""

from __future__ import annotations

import functools
import hashlib
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import msgspec
import numpy as np

from ramnas_models.errors import SpaceError
from ramnas_models.yaml_file import as_type, read_yaml

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rows = NDArray[np.int64]  # encodings, one per row

Ints = Tuple[int, ...]
ACTIVATIONS = ("relu", "relu6", "swish", "hswish")
PADDINGS = ("symmetric", "same")
BN_EPS = 1e-5  # of BatchNorm, where nothing else is said
_FOLDER = Path(__file__).parent / "spaces"


class StageArch(msgspec.Struct, frozen=True, omit_defaults=True):
    """One stage of an arch.

    `kernels` and `expands` hold one value, shared by all blocks (granularity `stage`), or one per
    block slot, with 0 in the slots past the depth (granularity `block`). `se` says whether the
    blocks have squeeze-and-excite; it is None where the space leaves no choice.
    """

    width: int
    depth: int
    kernels: Ints
    expands: Ints
    se: Optional[bool] = None

    def kernel(self, block: int) -> int:
        return self.kernels[block if len(self.kernels) > 1 else 0]

    def expand(self, block: int) -> int:
        return self.expands[block if len(self.expands) > 1 else 0]


class Arch(msgspec.Struct, frozen=True):
    """One network of a space; a value that is compared and hashed by its content."""

    resolution: int
    stem: int
    stages: Tuple[StageArch, ...]
    head: int

    @property
    def integers(self) -> Ints:
        """The resolution, widths (stem, stages, head), depths, kernels, expands and SEs, raw.

        An SE (squeeze-and-excite) is 1 or 0, and only stages that have the choice have one.
        """
        stages = self.stages
        return (
            self.resolution,
            self.stem,
            *(s.width for s in stages),
            self.head,
            *(s.depth for s in stages),
            *(k for s in stages for k in s.kernels),
            *(e for s in stages for e in s.expands),
            *(int(s.se) for s in stages if s.se is not None),
        )

    @property
    def id(self) -> str:
        """Twelve hex digits of the SHA-256 of the integers: short, stable, the key everywhere."""
        return hashlib.sha256(",".join(map(str, self.integers)).encode()).hexdigest()[:12]


class Stem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    widths: Ints
    kernel: int
    stride: int
    act: str


class Stage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What an arch may choose in one stage.

    `expands` are the expanded channels of a block as a `ratio` to its input, or in `channels`. A
    block whose expanded channels are those of its input has no expanding convolution. `se` is a
    list, such as [false, true], where an arch may choose squeeze-and-excite.
    """

    widths: Ints
    depths: Ints
    kernels: Ints
    expands: Ints
    stride: int
    se: Union[bool, Tuple[bool, ...]]
    act: str
    expand_unit: str = "ratio"

    @property
    def se_choices(self) -> Tuple[bool, ...]:
        return self.se if isinstance(self.se, tuple) else (self.se,)


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """1x1 to `expand` times the last stage's width, pooling, 1x1 to a width, classifier.

    Without `expand` there is no second 1x1: the one before the pooling gives the width.
    """

    widths: Ints
    expand: Optional[int] = None
    act: str


class Space(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A search space (Table I of the paper is one); `load_space` reads it from YAML.

    `granularity` says whether kernels and expands are chosen per `stage` or per `block`. With
    `shortcut` `projected` every block has a shortcut, with `identity` only the blocks that keep
    size and width. Widths and expanded channels are multiplied by `width_multiplier`
    and then made divisible by 8. With `padding` `symmetric` both sides of a map are padded alike,
    with `same` as TensorFlow's SAME does it (`plan.Conv.pads`). `bn_eps` is what BatchNorm adds to
    a variance. Heads for detection and segmentation have a padding and an eps of their own.

    The methods `*_rows` work on a matrix of encodings, int64 [n, slots], as a search uses it.
    """

    name: str
    source: str
    granularity: str
    resolutions: Ints
    stem: Stem
    stages: Tuple[Stage, ...]
    head: Head
    shortcut: str = "projected"
    width_multiplier: float = 1.0
    padding: str = "symmetric"
    bn_eps: float = BN_EPS

    @property
    def hash(self) -> str:
        """Twelve hex digits that depend on all that shapes a network, not on name and source."""
        shape = {**msgspec.structs.asdict(self), "name": "", "source": ""}
        # spaces of earlier versions could not say these, and their hashes stay as they were
        for key, usual in (("padding", "symmetric"), ("bn_eps", BN_EPS)):
            if shape[key] == usual:
                del shape[key]
        return hashlib.sha256(msgspec.json.encode(shape)).hexdigest()[:12]

    def min(self) -> Arch:
        """The smallest choice everywhere."""
        return self.decode([slot.choices[0] for slot in _slots(self)])

    def max(self) -> Arch:
        """The largest choice everywhere."""
        return self.decode([slot.choices[-1] for slot in _slots(self)])

    def choices(self) -> Tuple[Ints, ...]:
        """The values allowed in each slot of the encoding, rising; slots past the depth hold 0."""
        return tuple(slot.choices for slot in _slots(self))

    def size(self) -> int:
        """How many different archs the space has."""
        total = len(self.resolutions) * len(self.stem.widths) * len(self.head.widths)
        for stage in self.stages:
            block = len(stage.kernels) * len(stage.expands)
            total *= len(stage.se_choices)
            if self.granularity == "stage":
                total *= len(stage.widths) * len(stage.depths) * block
            else:
                total *= len(stage.widths) * sum(block**depth for depth in stage.depths)
        return total

    # -- encoding: Arch <-> 31 raw integers for the 7-stage spaces ---------------------------------

    def encode(self, arch: Arch) -> Rows:
        """Arch -> int64 [slots], raw values (`Arch.integers`)."""
        return np.array(arch.integers, dtype=np.int64)

    def encode_all(self, archs: Sequence[Arch]) -> Rows:
        """Archs -> int64 [n, slots]."""
        return np.array([arch.integers for arch in archs], dtype=np.int64)

    def decode(self, row: Union[Sequence[int], Rows]) -> Arch:
        """int [slots] -> Arch, the inverse of `encode`.

        Values in slots past the depth count as 0. SpaceError names a value that is not allowed.
        """
        slots = _slots(self)
        if len(row) != len(slots):
            raise SpaceError(
                f"space {self.name}: an arch has {len(slots)} integers, got {len(row)}"
            )
        values = _canonical(self, np.array(row, dtype=np.int64)[None])[0].tolist()
        at = sections(self)
        widths, depths = values[at.widths], values[at.depths]
        for slot, value in zip(slots, values):
            if value not in slot.choices and slot.block < depths[slot.stage]:
                raise SpaceError(
                    f"space {self.name}: {slot.name} is {value}, not one of {list(slot.choices)}"
                )
        kernels, expands = iter(values[at.kernels]), iter(values[at.expands])
        chosen, stages = iter(values[at.se]), []
        for stage, width, depth in zip(self.stages, widths[1:-1], depths):
            count = _per_stage(self, stage)
            kernel, expand = (tuple(islice(rest, count)) for rest in (kernels, expands))
            se = bool(next(chosen)) if isinstance(stage.se, tuple) else None
            stages.append(StageArch(width, depth, kernel, expand, se))
        return Arch(resolution=values[0], stem=widths[0], stages=tuple(stages), head=widths[-1])

    def check(self, arch: Arch) -> Arch:
        """`arch` itself if it is in this space; else a SpaceError that names the wrong value."""
        if self.decode(arch.integers) != arch:
            raise SpaceError(
                f"space {self.name}: arch {arch.id} is not in canonical form; "
                "slots past the depth must hold 0"
            )
        return arch

    # -- variation: the same rng gives the same archs, and every arch is valid -------------------

    def sample(self, rng: np.random.Generator) -> Arch:
        """One arch; each choice is drawn uniformly."""
        return self.decode(self.sample_rows(1, rng)[0])

    def sample_rows(self, n: int, rng: np.random.Generator) -> Rows:
        """`n` encodings; each choice is drawn uniformly."""
        return _canonical(self, _pick(self, self._unit(n, rng)))

    def mutate(self, arch: Arch, p: float, rng: np.random.Generator) -> Arch:
        """Draw each choice anew with probability `p`."""
        return self.decode(self.mutate_rows(self.encode(arch)[None], p, rng)[0])

    def mutate_rows(self, rows: Rows, p: float, rng: np.random.Generator) -> Rows:
        fresh = _pick(self, rng.random(rows.shape))
        # a slot that comes into use because the depth grew has no old value to keep
        unset = (rows == 0) & _of_blocks(self)
        return _canonical(self, np.where((rng.random(rows.shape) < p) | unset, fresh, rows))

    def crossover(self, a: Arch, b: Arch, rng: np.random.Generator) -> Arch:
        """Take each choice from `a` or from `b`, with equal probability."""
        rows = self.encode(a)[None], self.encode(b)[None]
        return self.decode(self.crossover_rows(*rows, rng)[0])

    def crossover_rows(self, a: Rows, b: Rows, rng: np.random.Generator) -> Rows:
        child = np.where(rng.random(a.shape) < 0.5, a, b)
        # a slot that the child uses but one parent does not takes the value of the other parent
        unset = (child == 0) & _of_blocks(self)
        return _canonical(self, np.where(unset, np.maximum(a, b), child))

    def sample_leaning(self, rng: np.random.Generator, lean: float) -> Arch:
        """One arch; each choice lies at u ** `lean` along its list, with u uniform in [0, 1).

        A `lean` of 1 is uniform; above 1 favours the small end, below 1 the large end.
        """
        return self.decode(_canonical(self, _pick(self, self._unit(1, rng) ** lean))[0])

    def _unit(self, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        return rng.random((n, len(_slots(self))))


class _Slot(msgspec.Struct, frozen=True):
    """One place of the encoding: the values allowed there and the block it describes (-1: none)."""

    name: str
    choices: Ints
    stage: int = 0
    block: int = -1


class Sections(NamedTuple):
    """Where an encoding holds what, after the resolution: widths of stem, stages and head, depths,
    kernels, expands, and the SEs of the stages that have the choice."""

    widths: slice
    depths: slice
    kernels: slice
    expands: slice
    se: slice


@functools.lru_cache(maxsize=32)
def sections(space: Space) -> Sections:
    stages = space.stages
    blocks = sum(_per_stage(space, stage) for stage in stages)
    chosen = sum(isinstance(stage.se, tuple) for stage in stages)
    ends = np.cumsum([1, len(stages) + 2, len(stages), blocks, blocks, chosen]).tolist()
    return Sections(*(slice(start, end) for start, end in zip(ends, ends[1:])))


def _per_stage(space: Space, stage: Stage) -> int:
    """How many kernels (and as many expands) an arch has for this stage."""
    return 1 if space.granularity == "stage" else max(stage.depths)


@functools.lru_cache(maxsize=32)
def _slots(space: Space) -> Tuple[_Slot, ...]:
    stages = list(enumerate(space.stages, start=1))
    return (
        _Slot("resolution", space.resolutions),
        _Slot("stem width", space.stem.widths),
        *(_Slot(f"stage {i} width", stage.widths) for i, stage in stages),
        _Slot("head width", space.head.widths),
        *(_Slot(f"stage {i} depth", stage.depths) for i, stage in stages),
        *(
            _Slot(f"stage {i} {what} of block {block + 1}", choices, i - 1, block)
            for what in ("kernel", "expand")
            for i, stage in stages
            for choices in [stage.kernels if what == "kernel" else stage.expands]
            for block in range(_per_stage(space, stage))
        ),
        *(
            _Slot(f"stage {i} se", tuple(map(int, stage.se)), i - 1)
            for i, stage in stages
            if isinstance(stage.se, tuple)
        ),
    )


@functools.lru_cache(maxsize=32)
def _choice_matrix(space: Space) -> Tuple[Rows, Rows]:
    """The choices of every slot, [slots, most choices] padded by repetition, and their counts."""
    slots = _slots(space)
    counts = np.array([len(slot.choices) for slot in slots])
    most = counts.max()
    padded = [slot.choices + slot.choices[-1:] * (most - len(slot.choices)) for slot in slots]
    return np.array(padded, dtype=np.int64), counts


@functools.lru_cache(maxsize=32)
def _of_blocks(space: Space) -> NDArray[np.bool_]:
    """Which slots describe a block, so that 0 means that the block does not exist, bool [slots]."""
    return np.array([slot.block >= 0 for slot in _slots(space)])


def _pick(space: Space, unit: NDArray[np.float64]) -> Rows:
    """Numbers in [0, 1), [n, slots] -> the choice at that place in each slot's list."""
    choices, counts = _choice_matrix(space)
    index = np.minimum((unit * counts).astype(np.int64), counts - 1)  # a power may round up to 1
    return choices[np.arange(len(counts)), index]


def _canonical(space: Space, rows: Rows) -> Rows:
    """Put 0 into every slot past its stage's depth."""
    if space.granularity == "stage":
        return rows
    slots = _slots(space)
    depths = rows[:, sections(space).depths]
    blocks = np.array([slot.block for slot in slots])
    used = blocks < depths[:, [slot.stage for slot in slots]]
    return np.where(used, rows, 0)


def load_space(name_or_path: Union[str, Path]) -> Space:
    """Read a space by name (`table1`, `micro`) or from a YAML file; SpaceError if it is invalid."""
    path = Path(name_or_path)
    if path.suffix.lower() not in (".yaml", ".yml"):
        path = _FOLDER / f"{name_or_path}.yaml"
        if not path.is_file():
            known = sorted(p.stem for p in _FOLDER.glob("*.yaml"))
            raise SpaceError(
                f"unknown space '{name_or_path}': known are {', '.join(known)}, "
                "or give the path of a .yaml file"
            )
    try:
        content = read_yaml(path)
    except ValueError as error:
        raise SpaceError(f"cannot read space {path}: {error}") from error
    return read_space(content, str(path))


def read_space(content: Any, where: str) -> Space:
    """Plain data (from YAML) -> Space; SpaceError names `where`, the key and what is wrong."""
    try:
        space = as_type(content, Space)
    except ValueError as error:
        raise SpaceError(f"{where}: {error}") from error
    for key, fault in _faults(space):
        raise SpaceError(f"{where}: {key}: {fault}")
    return space


def _faults(space: Space) -> Iterator[Tuple[str, str]]:
    """(key, fault) of every value that has the right type but makes no sense."""
    if space.granularity not in ("stage", "block"):
        yield "granularity", f"'{space.granularity}' is not 'stage' or 'block'"
    if space.shortcut not in ("projected", "identity"):
        yield "shortcut", f"'{space.shortcut}' is not 'projected' or 'identity'"
    if space.padding not in PADDINGS:
        yield "padding", f"'{space.padding}' is not 'symmetric' or 'same'"
    if not 0 < space.bn_eps < 1:
        yield "bn_eps", f"{space.bn_eps} must be above 0 and below 1"
    if not 0 < space.width_multiplier < 100:
        yield "width_multiplier", f"{space.width_multiplier} must be above 0 and below 100"
    if not space.stages:
        yield "stages", "must not be empty"
    parts: List[Tuple[str, msgspec.Struct]] = [("stem.", space.stem), ("head.", space.head)]
    parts += [(f"stages[{i}].", stage) for i, stage in enumerate(space.stages)]
    fields: List[Tuple[str, Any]] = [("resolutions", space.resolutions)]
    fields += [
        (part + key, value)
        for part, struct in parts
        for key, value in msgspec.structs.asdict(struct).items()
    ]
    for key, value in fields:
        if isinstance(value, tuple) and not value:
            yield key, "must not be empty"
        if isinstance(value, tuple) and list(value) != sorted(set(value)):
            yield key, f"{list(value)} must rise and not repeat"
        if key.endswith(".act") and value not in ACTIVATIONS:
            yield key, f"unknown activation '{value}': known are {', '.join(ACTIVATIONS)}"
        if key.endswith(".expand_unit") and value not in ("ratio", "channels"):
            yield key, f"'{value}' is not 'ratio' or 'channels'"
        if key.endswith(".stride") and value not in (1, 2):
            yield key, f"stride {value} is not 1 or 2"
        for number in value if isinstance(value, tuple) else [value]:
            if type(number) is int and number < 1:
                yield key, f"{number} must be at least 1"
            elif ".kernel" in key and number % 2 == 0:
                yield key, f"kernel {number} must be odd"
