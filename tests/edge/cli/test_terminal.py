"""What the two command lines share: the overview of the verbs, their help, and their exit codes."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from ramnas_edge.cli.terminal import add_verb, group_verbs, guarded
from ramnas_models.errors import DataError

Parser = argparse.ArgumentParser


def sandwich_parser() -> Parser:
    parser = Parser(prog="kitchen", description="Makes sandwiches.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for name, help in (("eat", "enjoy it"), ("slice", "cut 100 %% of the bread " + "evenly " * 15)):
        verb = add_verb(
            verbs, name, help=help, purpose=f"Use this to {name}.", example=f"kitchen {name} --now"
        )
        verb.add_argument("--now", action="store_true", help="do not wait")
    group_verbs(parser, verbs, {"prepare": ["slice"], "finish": ["eat"]})
    return parser


def test_the_overview_lists_each_verb_once_under_its_heading_in_the_given_order() -> None:
    overview = sandwich_parser().format_help()
    assert overview.startswith("usage: kitchen [-h] VERB ...\n\nMakes sandwiches.\n\nprepare:\n")
    assert overview.index("  slice ") < overview.index("finish:\n  eat             enjoy it\n")
    assert overview.count("enjoy it") == 1
    assert "cut 100 % of the bread" in overview
    assert max(map(len, overview.splitlines())) < 80


def test_the_help_of_a_verb_begins_with_its_purpose_and_ends_with_its_example(capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        sandwich_parser().parse_args(["eat", "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: kitchen eat [-h] [--now]\n\nUse this to eat.\n")
    assert text.endswith("\nexample:\n  kitchen eat --now\n")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["bake"], "argument VERB: invalid choice: 'bake' (choose from "),
        ([], "the following arguments are required: VERB"),
    ],
)
def test_a_wrong_or_missing_verb_is_an_error_of_argparse(
    argv: Any, message: str, capsys: Any
) -> None:
    with pytest.raises(SystemExit) as ended:
        sandwich_parser().parse_args(argv)
    assert ended.value.code == 2
    text = capsys.readouterr().err
    assert text.startswith("usage: kitchen [-h] VERB ...\nkitchen: error: ")
    assert message in text


def test_a_verb_that_is_in_no_group_is_found_when_the_command_starts() -> None:
    parser = Parser(prog="kitchen")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    add_verb(verbs, "eat", help="enjoy it", purpose="Eats.", example="kitchen eat")
    with pytest.raises(ValueError, match="in no group: eat"):
        group_verbs(parser, verbs, {"prepare": []})


def test_an_error_of_ours_is_one_line_and_exit_code_2(capsys: Any) -> None:
    def fails() -> None:
        raise DataError("the bread is stale")

    assert guarded(fails) == 2
    assert capsys.readouterr().err == "error: the bread is stale\n"
    assert guarded(lambda: None) == 0


def test_ctrl_c_ends_with_130(capsys: Any) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    assert guarded(interrupted) == 130
