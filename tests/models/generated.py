"""Small spaces of every kind that a YAML file can describe, for property tests (hypothesis)."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from ramnas_models.space import ACTIVATIONS, PADDINGS, Space, read_space

acts = st.sampled_from(ACTIVATIONS)


def some(*values: int) -> st.SearchStrategy[list[int]]:
    """One to three of `values`, rising."""
    return st.sets(st.sampled_from(values), min_size=1, max_size=3).map(sorted)


@st.composite
def stages(draw: st.DrawFn, stride: int | None = None) -> dict[str, Any]:
    unit = draw(st.sampled_from(["ratio", "channels"]))
    return {
        "widths": draw(some(8, 12, 16, 24)),
        "depths": draw(some(1, 2, 3)),
        "kernels": draw(some(1, 3, 5)),
        "expands": draw(some(1, 2, 4) if unit == "ratio" else some(4, 8, 16, 40)),
        "expand_unit": unit,
        "stride": stride or draw(st.sampled_from([1, 2])),
        "se": draw(st.sampled_from([False, True, [False, True]])),
        "act": draw(acts),
    }


@st.composite
def spaces(draw: st.DrawFn, strides: tuple[int, ...] = ()) -> Space:
    """A space with up to three stages, at most 24 pixels wide, down to maps of one pixel.

    With `strides`, those of the stem and of every stage, it has just these stages.
    """
    own = [stages(stride) for stride in strides[1:]]
    content = {
        "name": "generated",
        "source": "test",
        "granularity": draw(st.sampled_from(["stage", "block"])),
        "shortcut": draw(st.sampled_from(["projected", "identity"])),
        "width_multiplier": draw(st.sampled_from([0.5, 1.0, 1.2])),
        "padding": draw(st.sampled_from(PADDINGS)),
        "bn_eps": draw(st.sampled_from([1e-5, 1e-3])),
        "resolutions": draw(some(9, 16, 24)),
        "stem": {
            "widths": draw(some(8, 16)),
            "kernel": draw(st.sampled_from([1, 3])),
            "stride": strides[0] if strides else draw(st.sampled_from([1, 2])),
            "act": draw(acts),
        },
        "stages": draw(st.tuples(*own) if own else st.lists(stages(), min_size=1, max_size=3)),
        "head": {
            "widths": draw(some(8, 16, 32)),
            "expand": draw(st.none() | st.integers(1, 4)),
            "act": draw(acts),
        },
    }
    return read_space(content, "generated")


deep_spaces = spaces((2, 1, 2, 2, 2, 2))  # with the strides that the heads of all tasks read
