from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ramnas_models.errors import SpaceError
from ramnas_models.plan import plan
from ramnas_models.sampling import sample_by_macs
from ramnas_models.space import Arch, Space, load_space, read_space
from tests.models.generated import spaces

SPACES = ("micro", "table1", "attentivenas", "ofa_mbv3", "mobilenet_v3", "lite", "lite1", "lite2")
seeds = st.integers(0, 2**32 - 1)


def by_block(space: Space) -> Space:
    """The same space with kernels and expands chosen per block."""
    return msgspec.structs.replace(space, name=f"{space.name}-block", granularity="block")


ALL = [load_space(name) for name in SPACES] + [by_block(load_space("micro"))]
all_spaces = st.sampled_from(ALL) | spaces()


@given(all_spaces, seeds)
def test_decode_inverts_encode(space: Space, seed: int) -> None:
    arch = space.sample(np.random.default_rng(seed))
    assert space.decode(space.encode(arch)) == arch
    assert space.check(arch) is arch


@given(all_spaces, seeds, st.floats(0, 1))
def test_every_produced_arch_is_valid_and_canonical(space: Space, seed: int, p: float) -> None:
    rng = np.random.default_rng(seed)
    a, b = space.sample(rng), space.sample(rng)
    for arch in (a, b, space.mutate(a, p, rng), space.crossover(a, b, rng)):
        space.check(arch)
        for stage in arch.stages:
            if space.granularity == "block":
                assert all(k > 0 for k in stage.kernels[: stage.depth])
                assert not any(stage.kernels[stage.depth :])
                assert not any(stage.expands[stage.depth :])


@given(all_spaces, seeds)
def test_crossover_takes_each_choice_from_a_parent(space: Space, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = space.sample(rng), space.sample(rng)
    child = space.encode(space.crossover(a, b, rng))
    assert all(c in (x, y, 0) for c, x, y in zip(child, space.encode(a), space.encode(b)))


@given(all_spaces, seeds)
def test_same_seed_same_archs(space: Space, seed: int) -> None:
    first, second = (np.random.default_rng(seed) for _ in range(2))
    for _ in range(3):
        a, b = space.sample(first), space.sample(second)
        assert a == b
        assert hash(a) == hash(b)
        assert space.mutate(a, 0.2, first) == space.mutate(b, 0.2, second)


def with_se_choice(space: Space) -> Space:
    """The same space with squeeze-and-excite as a choice of every stage."""
    stages = tuple(msgspec.structs.replace(stage, se=(False, True)) for stage in space.stages)
    return msgspec.structs.replace(space, stages=stages)


@given(spaces(), seeds)
def test_mutation_with_probability_0_and_crossover_with_oneself_change_nothing(
    space: Space, seed: int
) -> None:
    """A squeeze-and-excite of 0 is a choice, and not a slot past the depth."""
    rng = np.random.default_rng(seed)
    arch = space.sample(rng)
    assert space.mutate(arch, 0.0, rng) == space.crossover(arch, arch, rng) == arch


def test_se_is_a_choice_of_the_stages_that_list_it() -> None:
    fixed = load_space("micro")
    space = with_se_choice(fixed)
    assert space.size() == 2**7 * fixed.size()
    assert [stage.se for stage in space.min().stages] == [False] * 7
    assert [stage.se for stage in space.max().stages] == [True] * 7
    assert space.max().integers == (*fixed.max().integers, *[1] * 7)
    assert space.choices()[-7:] == ((0, 1),) * 7
    plain, squeezed = (plan(space, arch) for arch in (space.min(), space.max()))
    assert not any(block.se for block in plain.blocks)
    assert all(block.se for block in squeezed.blocks)
    # where it is not a choice, nothing about an arch has changed, nor how it is written
    assert fixed.max().stages[0].se is None
    assert b"se" not in msgspec.json.encode(fixed.max())
    assert msgspec.json.decode(msgspec.json.encode(space.min()), type=Arch) == space.min()


def test_values_past_the_depth_do_not_make_another_network() -> None:
    space = by_block(load_space("micro"))
    row = space.encode(space.min())
    noisy = np.where(row == 0, 5, row)
    assert (noisy != row).any()
    assert space.decode(noisy) == space.min()
    assert space.decode(noisy).id == space.min().id


def test_ids_are_short_stable_and_distinct() -> None:
    space = load_space("table1")
    assert (space.min().id, space.max().id) == ("4efbeea189dd", "8f5c13352906")
    rng = np.random.default_rng(0)
    archs = {space.sample(rng) for _ in range(2000)}
    assert len({arch.id for arch in archs}) == len(archs)


def test_encoding_of_the_seven_stage_spaces_has_31_raw_integers() -> None:
    row = load_space("table1").encode(load_space("table1").min()).tolist()
    widths, depths = [16, 16, 24, 32, 64, 112, 192, 216, 1792], [1, 3, 3, 3, 3, 3, 1]
    assert row == [192, *widths, *depths, *[3] * 7, *[1, 4, 4, 4, 4, 6, 6]]


def test_size_counts_every_arch_once() -> None:
    assert load_space("attentivenas").size() == pytest.approx(4.4e11, rel=0.01)
    tiny = small_space(granularity="block")
    rng = np.random.default_rng(0)
    assert len({tiny.sample(rng) for _ in range(3000)}) == tiny.size()


@pytest.mark.parametrize("name", SPACES)
def test_sample_by_macs_fills_ten_bins(name: str) -> None:
    space = load_space(name)
    archs = sample_by_macs(space, np.random.default_rng(0), 100)
    assert space.min() in archs
    assert space.max() in archs
    macs = np.log([plan(space, arch).macs for arch in archs])
    assert np.histogram(macs, 10)[0].tolist() == [10] * 10
    assert len(set(archs)) == 100


def test_sample_by_macs_can_return_every_arch_of_a_tiny_space() -> None:
    space = small_space()
    archs = sample_by_macs(space, np.random.default_rng(0), space.size())
    assert len(set(archs)) == space.size()
    with pytest.raises(SpaceError, match="at most its size"):
        sample_by_macs(space, np.random.default_rng(0), space.size() + 1)


def small_space(granularity: str = "stage") -> Space:
    stage = {
        "widths": [8], "depths": [1, 2], "kernels": [3, 5], "expands": [2],
        "stride": 2, "se": False, "act": "relu",
    }  # fmt: skip
    content = {
        "name": "tiny", "source": "test", "granularity": granularity, "resolutions": [16],
        "stem": {"widths": [8], "kernel": 3, "stride": 2, "act": "relu"},
        "stages": [stage, stage],
        "head": {"widths": [16], "expand": 2, "act": "relu"},
    }  # fmt: skip
    return read_space(content, "tiny")


@settings(max_examples=20)
@given(st.sampled_from(ALL))
def test_the_hash_depends_on_the_shape_and_not_on_the_name(space: Space) -> None:
    assert msgspec.structs.replace(space, name="x", source="y").hash == space.hash
    assert msgspec.structs.replace(space, resolutions=(8,)).hash != space.hash


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("table1", "2936c5423cbc"), ("attentivenas", "4c5058c55845"), ("micro", "7c4df7cbce3f"),
        ("ofa_mbv3", "923770e0b9d0"), ("mobilenet_v3", "0458bd6d5102"),
    ],
)  # fmt: skip
def test_spaces_of_earlier_versions_keep_their_hash_and_how_they_are_written(
    name: str, known: str
) -> None:
    """Records and checkpoints of earlier versions name this hash, and hold the space itself."""
    space = load_space(name)
    assert space.hash == known
    assert not {"padding", "bn_eps"} & set(msgspec.to_builtins(space))


@given(all_spaces)
def test_every_word_of_a_space_survives_being_written_and_read(space: Space) -> None:
    assert msgspec.json.decode(msgspec.json.encode(space), type=Space) == space
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(space), type=Space) == space
    assert read_space(msgspec.to_builtins(space), "here") == space


@given(all_spaces)
def test_the_hash_depends_on_padding_eps_and_the_form_of_the_head(space: Space) -> None:
    padding = "same" if space.padding == "symmetric" else "symmetric"
    head = msgspec.structs.replace(space.head, expand=None if space.head.expand else 4)
    others = (
        msgspec.structs.replace(space, padding=padding),
        msgspec.structs.replace(space, bn_eps=2 * space.bn_eps),
        msgspec.structs.replace(space, head=head),
    )
    assert len({space.hash, *(other.hash for other in others)}) == 4


@pytest.mark.parametrize("written", ["1e-3", "0.001", "1.0e-3"])
def test_a_small_number_may_be_written_as_people_write_it(tmp_path: Path, written: str) -> None:
    text = (Path(load_space.__code__.co_filename).parent / "spaces/lite.yaml").read_text()
    path = tmp_path / "own.yaml"
    path.write_text(text.replace("bn_eps: 0.001", f"bn_eps: {written}"))
    assert load_space(path) == load_space("lite")


def test_a_zero_within_the_depth_is_refused() -> None:
    space = load_space("ofa_mbv3")
    row = space.encode(space.max())
    row[-1] = 0
    with pytest.raises(SpaceError, match="stage 6 expand of block 4 is 0, not one of"):
        space.decode(row)


def test_the_value_that_puts_an_arch_outside_its_space_is_named() -> None:
    space = load_space("table1")
    row = space.encode(space.min())
    row[12] = 9
    with pytest.raises(SpaceError, match=r"table1: stage 3 depth is 9, not one of \[3, 4, 5, 6\]"):
        space.decode(row)
    with pytest.raises(SpaceError, match="31 integers, got 3"):
        space.decode([1, 2, 3])
    foreign: Arch = load_space("micro").min()
    with pytest.raises(SpaceError, match="resolution is"):
        space.check(foreign)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (("resolutions",), [], "resolutions: must not be empty"),
        (("resolutions",), [0], "resolutions: 0 must be at least 1"),
        (("resolutions",), [32, 24], "must rise"),
        (("resolutions",), "32", "Expected `array`, got `str` - at `resolutions`"),
        (("colour",), 1, "unknown field `colour`"),
        (("stages", 2, "colour"), 1, r"unknown field `colour` - at `stages\[2\]`"),
        (("stages", 2, "depths"), [-1, 1], r"stages\[2\].depths: -1 must be at least 1"),
        (("stages", 2, "kernels"), [3, 4], r"stages\[2\].kernels: kernel 4 must be odd"),
        (("stages", 2, "act"), "tanh", r"stages\[2\].act: unknown activation 'tanh'"),
        (("stages", 2, "se"), [True, False], r"stages\[2\].se: \[True, False\] must rise"),
        (("stages", 2, "se"), [], r"stages\[2\].se: must not be empty"),
        (("stages", 2, "se"), 1, r"Expected `bool | array`, got `int`"),
        (("stages", 2, "widths"), [8.5], r"Expected `int`, got `float`"),
        (("stages", 0, "stride"), 3, r"stages\[0\].stride: stride 3 is not 1 or 2"),
        (("granularity",), "layer", "granularity: 'layer' is not"),
        (("stages", 0, "expand_unit"), "px", r"stages\[0\].expand_unit: 'px' is not 'ratio' or"),
        (("padding",), "SAME", "padding: 'SAME' is not 'symmetric' or 'same'"),
        (("padding",), None, "Expected `str`, got `null` - at `padding`"),
        (("bn_eps",), 0, "bn_eps: 0.0 must be above 0 and below 1"),
        (("bn_eps",), 1, "bn_eps: 1.0 must be above 0 and below 1"),
        (("bn_eps",), -0.001, "bn_eps: -0.001 must be above 0"),
        (("bn_eps",), float("nan"), "bn_eps: nan must be above 0"),
        (("bn_eps",), "small", "Expected `float`, got `str` - at `bn_eps`"),
        (("stem", "act"), "relu7", "stem.act: unknown activation 'relu7': known are .*relu6"),
        (("head",), {"expand": 6, "act": "relu6"}, "missing required field `widths` - at `head`"),
        (("head", "expand"), 0, "head.expand: 0 must be at least 1"),
        (("head", "expand"), False, "Expected `int | null`, got `bool`"),
        (("head",), None, "Expected `object`, got `null` - at `head`"),
    ],
)
def test_a_bad_space_file_is_refused_with_file_and_key(
    tmp_path: Path, key: tuple[object, ...], value: object, message: str
) -> None:
    path = Path(load_space.__code__.co_filename).parent / "spaces/micro.yaml"
    content = yaml.safe_load(path.read_text())
    place = content
    for part in key[:-1]:
        place = place[part]
    place[key[-1]] = value
    bad = tmp_path / "bad.yaml"
    bad.write_text(yaml.safe_dump(content))
    with pytest.raises(SpaceError, match=message) as raised:
        load_space(bad)
    assert str(bad) in str(raised.value)


def test_an_unknown_or_unreadable_space_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"unknown space 'nano': known are .*micro.*table1"):
        load_space("nano")
    with pytest.raises(SpaceError, match="cannot read space"):
        load_space(tmp_path / "absent.yaml")
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(SpaceError, match="cannot read space"):
        load_space(tmp_path / "broken.yaml")
