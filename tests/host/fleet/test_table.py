"""What people see of a calibration: the table on a terminal, lines elsewhere, and JSON."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys

import msgspec
import pytest
from rich.console import Console

from ramnas_host.fleet.boards import BoardStatus, Status
from ramnas_host.fleet.dispatch import ClassStatus
from ramnas_host.fleet.table import line, screen, shown

ORIN = "orin-nano_6c_8gib_l4t-r36_15w_tensorrt-10.3"
XAVIER = "xavier-nx_6c_8gib_l4t-r35_20w_tensorrt-8.5"
BOARDS = [
    BoardStatus(
        "jetson-1", ORIN, "measuring", 17, inside=3.2, rate_per_min=4.21,
        temperature_c=51.6, power_mode="15W",
    ),
    BoardStatus("jetson-2", ORIN, "paused", 5, last_error="disk full [red]: waits"),
    BoardStatus("nx", XAVIER, "gone", 0),
]  # fmt: skip
STATUS = Status(
    "calibration", 22, 600, 41.2, 4000.0, {"not a message": 12, "it does not speak ZeroMQ": 900},
    [
        ClassStatus(ORIN, 20, 300, 2, 12, quarantined=["abc123"]),
        ClassStatus(XAVIER, 2, 300, 0, ended=True),
    ],
    BOARDS,
)  # fmt: skip


def on_terminal(width: int = 120, height: int = 40) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=height)


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_table_has_every_fact_of_every_board() -> None:
    console = Console(file=io.StringIO(), width=140, height=40)
    console.print(screen(STATUS, 20))
    rows = [row.strip() for row in text(console).splitlines() if row.strip()]
    cells = [re.split(r"  +", row) for row in rows[3:6]]
    # boards in trouble come first, and what a board says is not taken for markup
    assert cells == [
        ["jetson-2", "orin nano 6c 15w, tensorrt", "paused", "5", "disk full [red]: waits"],
        ["jetson-1", "orin nano 6c 15w, tensorrt", "measuring", "17+3", "4.21", "52", "15W"],
        ["nx", "xavier nx 6c 20w, tensorrt", "gone", "0"],
    ]


def test_a_thousand_boards_fit_on_the_screen() -> None:
    boards = [
        BoardStatus(f"b{i:03}", "c", "silent" if i == 999 else "measuring", i) for i in range(1000)
    ]
    many = msgspec.structs.replace(STATUS, boards=boards)
    console = on_terminal(80, 24)
    with shown(console=console) as show:
        show(many)
    drawn = text(console)
    assert "b999" in drawn  # the one in trouble
    assert "more measuring" in drawn
    assert "refused: 900 x it does not speak ZeroMQ, 12 x not a message" in drawn  # the last line
    assert drawn.count("\n") < 2 * 24  # it was drawn twice, the second time at the end


def test_what_a_board_says_cannot_move_the_terminal() -> None:
    hostile = BoardStatus("a\x1b[2J", "c", "gone", 0, power_mode="\x1b]0;x\x07", last_error="b\r\n")
    console = Console(file=io.StringIO(), width=100)
    console.print(screen(msgspec.structs.replace(STATUS, boards=[hostile]), 20))
    assert not {"\x1b", "\x07", "\r"} & set(text(console))
    assert "a?[2J" in text(console)


def test_the_live_table_shows_progress_and_problems() -> None:
    console = on_terminal()
    with shown(console=console) as show:
        show(STATUS)
    drawn = text(console)
    assert "calibration: 22 of 600" in drawn
    assert "1:06:40 left" in drawn
    assert (
        "orin nano 6c 15w, tensorrt: 20 of 300, 12 with 2 board(s); not measured again because "
        "boards died on them: abc123"
    ) in drawn
    assert "xavier nx 6c 20w, tensorrt: 2 of 300, 0 with 0 board(s); known well enough" in drawn
    assert f"orin nano 6c 15w, tensorrt = {ORIN}" in drawn
    assert f"xavier nx 6c 20w, tensorrt = {XAVIER}" in drawn


def test_log_messages_appear_above_the_table() -> None:
    console = on_terminal()
    handler = logging.StreamHandler(console.file)
    logging.getLogger().addHandler(handler)
    try:
        with shown(console=console) as show:
            show(STATUS)
            logging.getLogger("x").warning("a board is lost")
            assert handler.stream is not console.file
        assert handler.stream is console.file
    finally:
        logging.getLogger().removeHandler(handler)
    assert text(console).index("a board is lost") < text(console).rindex("jetson-1")


def test_without_a_terminal_there_is_a_line_every_30_s_and_at_the_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = [0.0]
    console = Console(file=io.StringIO())
    with shown(console=console, clock=lambda: now[0]) as show:
        for done in range(65):  # two per second
            now[0] = done / 2
            show(msgspec.structs.replace(STATUS, done=done))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(";")[0] for line in lines] == [
        f"calibration: {done} of 600" for done in (0, 60, 64)
    ]
    assert lines[0].endswith(
        "boards: 1 paused, 1 measuring, 1 gone; 41.2 a minute; 1:06:40 left; 912 refused"
    )


def test_before_any_board_comes_the_line_makes_nothing_up() -> None:
    assert line(Status("run", 0, 0)) == "run: 0 of 0; boards: none yet"


def test_json_lines_are_whole_states_with_whole_device_classes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with shown(json_lines=True) as show:
        for done in range(3):
            show(msgspec.structs.replace(STATUS, done=done))
    shown_lines = capsys.readouterr().out.splitlines()
    assert [json.loads(text)["done"] for text in shown_lines] == [0, 1, 2]
    assert [c["name"] for c in json.loads(shown_lines[0])["classes"]] == [ORIN, XAVIER]
    last = msgspec.json.decode(shown_lines[-1], type=Status)
    assert last == msgspec.structs.replace(STATUS, done=2)


def test_a_reader_that_leaves_does_not_end_the_calibration() -> None:
    code = (
        "import sys\n"
        "from ramnas_host.fleet.table import shown\n"
        "from ramnas_host.fleet.boards import Status\n"
        "with shown(json_lines=True) as show:\n"
        "    show(Status('run', 0, 3))\n"
        "    sys.stdin.readline()\n"
        "    show(Status('run', 1, 3)); show(Status('run', 2, 3))\n"
        "print('measured on', flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as host:  # fmt: skip
        assert host.stdin and host.stdout and host.stderr
        assert json.loads(host.stdout.readline())["done"] == 0
        host.stdout.close()
        host.stdin.write("it has gone\n")
        host.stdin.close()
        said = host.stderr.read()
    assert host.returncode == 0
    assert "nobody reads the JSON lines any more" in said
    assert "Traceback" not in said
