"""The help of both commands: every verb says what it is for and gives an example that works."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator

import pytest

from ramnas_edge.cli import main as edge
from ramnas_host.cli import main as host
from ramnas_host.cli.options import ARCH_HELP
from ramnas_models.named import EFFICIENTNET_LITE

Parser = argparse.ArgumentParser


def edge_parser() -> Parser:
    """The parser that `ramnas-edge` builds."""
    built: list[Parser] = []

    def parse_args(parser: Parser, argv: object) -> None:
        built.append(parser)
        raise StopIteration

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Parser, "parse_args", parse_args)
        with pytest.raises(StopIteration):
            edge.main([])
    return built[0]


COMMANDS = {"ramnas": host.parser(), "ramnas-edge": edge_parser()}


def below(parser: Parser) -> Iterator[Parser]:
    """The parsers of the verbs of `parser`, and of the verbs below these."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                yield verb
                yield from below(verb)


VERBS = [verb for parser in COMMANDS.values() for verb in below(parser)]


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.prog)
def test_a_verb_says_what_it_is_for_and_its_own_parser_takes_its_example(verb: Parser) -> None:
    assert re.fullmatch(r"[A-Z].{20,300}\.", verb.description or "", re.DOTALL)
    example = (verb.epilog or "").removeprefix("example:\n  ")
    assert verb.format_help().endswith(f"\nexample:\n  {example}\n")
    command, *argv = shlex.split(example)
    assert f"{example} ".startswith(f"{verb.prog} ")
    args = COMMANDS[command].parse_args(argv)  # exits, and so fails, if the example is wrong
    assert callable(args.call)


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.prog)
def test_every_option_of_a_verb_is_explained(verb: Parser) -> None:
    for action in verb._actions:
        if not isinstance(action, argparse._SubParsersAction):
            assert action.help, f"{verb.prog}: {action.option_strings or action.dest}"
    assert verb.format_help()  # every % in the texts is escaped


def test_the_overview_groups_the_verbs_by_the_steps_of_the_main_line() -> None:
    overview = host.parser().format_help()
    assert overview.split("\n\n")[1].replace("\n", " ") == host.PURPOSE
    places = [overview.index(f"\n{step}:\n") for step in host.STEPS]
    assert places == sorted(places)
    for name in (name for names in host.STEPS.values() for name in names):
        assert f"\n  {name} " in overview


def test_the_help_of_arch_names_every_kind_of_name_that_it_takes() -> None:
    for name in ("min", "max", "A0", "A5_1", "mobilenet_v3_large", *sorted(EFFICIENTNET_LITE)):
        assert name in ARCH_HELP or name == "lite1"  # which lies between lite0 and lite2
