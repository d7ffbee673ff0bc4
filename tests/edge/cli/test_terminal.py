"""What the two command lines share: the overview of the verbs, their help, and their exit codes."""

from __future__ import annotations

import argparse
import errno
import subprocess
import sys
from pathlib import Path
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


class LikeZeroMq(Exception):
    """ZeroMQ's errors are no OSErrors, but have an errno."""

    errno = errno.EMFILE


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.EMFILE, "Too many open files", "/proc/stat"), "raise the limit with ulimit"),
        (LikeZeroMq(), "too many open files; raise the limit with ulimit -n"),
        (RuntimeError("can't start new thread"), "no more threads can be started; raise the limit"),
    ],
)
def test_a_limit_of_the_process_is_one_line_with_the_way_out(
    error: Exception, reason: str, capsys: Any
) -> None:
    def call() -> None:
        raise error

    assert guarded(call) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and reason in said and said.count("\n") == 1


@pytest.mark.parametrize("stderr", ["2>&-", "2>/dev/full"])
def test_work_goes_on_where_its_progress_cannot_be_shown(stderr: str) -> None:
    program = (
        "from ramnas_edge.cli.terminal import ProgressLine, guarded\n"
        "def call():\n"
        "    line = ProgressLine('work')\n"
        "    line.show(1, 2)\n"
        "    line.end()\n"
        "    print('done')\n"
        "raise SystemExit(guarded(call))\n"
    )
    command = ["sh", "-c", f'"$0" -c "$1" {stderr}', sys.executable, program]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    assert (done.stdout, done.returncode) == ("done\n", 0)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_does_not_become_a_file_of_ours(closed: str, tmp_path: Path) -> None:
    program = (
        "import os, sys\n"
        "from ramnas_edge.cli.terminal import guarded\n"
        "def call():\n"
        "    store = open(sys.argv[1], 'w')\n"
        "    for number in (1, 2):\n"
        "        os.write(number, b'a warning of a library')\n"
        "    print('of a verb', file=sys.stderr)\n"
        "    store.write('kept')\n"
        "raise SystemExit(guarded(call))\n"
    )
    store = tmp_path / "store"
    command = ["sh", "-c", f'"$0" -c "$1" "$2" {closed}', sys.executable, program, str(store)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, store.read_text()) == (0, "kept")
    assert "of a verb" not in done.stdout
