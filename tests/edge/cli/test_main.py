"""The help of `ramnas-edge`: every verb has a purpose, an example that is right, and options that
are explained."""

from __future__ import annotations

import argparse
import shlex
from typing import Dict, Iterator, Tuple

import pytest

from ramnas_edge.cli.main import command_line

VERBS = ("doctor", "run", "calibrate", "build", "agent", "profile", "keys")


def parsers(parser: argparse.ArgumentParser) -> Iterator[Tuple[str, argparse.ArgumentParser]]:
    """(prog, parser) of every verb, and of every verb below a verb."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            choices: Dict[str, argparse.ArgumentParser] = action.choices
            for verb in choices.values():
                yield verb.prog, verb
                yield from parsers(verb)


ALL = dict(parsers(command_line()))


def test_the_overview_lists_every_verb_in_the_order_of_use() -> None:
    overview = command_line().format_help()
    places = [overview.index(f"\n  {verb} ") for verb in VERBS]
    assert places == sorted(places)
    for heading in ("look at this board:", "run a bundle:", "measure for a host, or alone:"):
        assert overview.count(f"\n{heading}\n") == 1
    assert [prog.split()[1] for prog in ALL if len(prog.split()) == 2] == list(VERBS)


@pytest.mark.parametrize("prog", ALL)
def test_a_verb_says_what_it_is_for_and_gives_an_example_that_it_accepts(prog: str) -> None:
    verb = ALL[prog]
    assert verb.description and verb.description.endswith(".")
    assert verb.epilog and verb.epilog.startswith(f"example:\n  {prog}")
    _, *argv = shlex.split(verb.epilog.partition("\n")[2])
    assert command_line().parse_args(argv).call


@pytest.mark.parametrize("prog", ALL)
def test_every_option_is_explained(prog: str) -> None:
    for action in ALL[prog]._actions:
        assert action.help or isinstance(action, argparse._SubParsersAction), action
