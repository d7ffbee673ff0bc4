"""The door as people meet it: both command lines, real processes, right and wrong keys."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ramnas_edge import __main__ as edge
from ramnas_edge.fleet import keys
from ramnas_edge.measuring.store import Store
from ramnas_host.cli import main

SOON_S = 5.0  # a failure is named in this time, from when both processes are up


class Process:
    """One command, its stderr in a file."""

    def __init__(self, folder: Path, name: str, *command: str) -> None:
        self.log = folder / f"{name}.log"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command], stdout=subprocess.PIPE, stderr=output
            )

    def says(self, part: str, seconds: float) -> float:
        """Wait for these words; when they came."""
        end_s = time.monotonic() + seconds
        while part not in self.log.read_text():
            assert time.monotonic() < end_s, f"'{part}' is not in:\n{self.log.read_text()}"
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.02)
        return time.monotonic()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)
        assert self.process.stdout
        self.process.stdout.close()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With keys: of the host, of a board that may come in, of a stranger, of another host."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("host", "other"):
        assert main.main(["keys", "new", "--name", name, "--folder", str(tmp_path)]) == 0
    for name in ("board", "stranger"):
        assert edge.main(["keys", "new", "--name", name, "--folder", str(tmp_path)]) == 0
    authorized = str(tmp_path / "authorized_keys")
    board = str(tmp_path / "board.key")
    assert main.main(["keys", "authorize", board, "--authorized", authorized]) == 0
    return tmp_path


@pytest.fixture
def running(folder: Path) -> Iterator[list[Process]]:
    made: list[Process] = []
    yield made
    for process in made:
        process.close()


def host(running: list[Process], folder: Path, *options: str) -> tuple[Process, str]:
    """`ramnas calibrate` on a free port; with the host's keys unless it has other options."""
    process = Process(
        folder, "host", "ramnas_host", "calibrate", "--bind", "tcp://127.0.0.1:*", "--space",
        "micro", "--classes", "10", "--samples", "3", "--store", str(folder / "s.sqlite"),
        *(options or ("--keys", str(folder / "host.key_secret"))),
    )  # fmt: skip
    running.append(process)
    process.says("--connect tcp://", 30)
    return process, process.log.read_text().split("--connect ")[1].split()[0]


def agent(running: list[Process], folder: Path, endpoint: str, *names: str) -> Process:
    """`ramnas-edge agent`, with the keys of that board and of that host, or without."""
    options = ()
    if names:
        own, server = names
        options = ("--keys", str(folder / f"{own}.key_secret"),
                   "--server-key", str(folder / f"{server}.key"))  # fmt: skip
    process = Process(
        folder, "agent", "ramnas_edge", "agent", "--connect", endpoint, "--name", "board",
        "--spool", str(folder / "spool.sqlite"), *options,
    )  # fmt: skip
    running.append(process)
    return process


def test_with_the_right_keys_a_board_measures_all_there_is_and_machines_can_follow(
    folder: Path, running: list[Process]
) -> None:
    own = str(folder / "host.key_secret")
    calibrate, endpoint = host(running, folder, "--keys", own, "--json-lines")
    board = agent(running, folder, endpoint, "board", "host")
    assert calibrate.process.stdout
    lines = [json.loads(line) for line in calibrate.process.stdout]
    assert calibrate.process.wait(60) == 0, calibrate.log.read_text()
    assert board.process.wait(30) == 0, board.log.read_text()
    store = Store(folder / "s.sqlite")
    (run,) = store.runs()
    assert len(store.records(run)) == 3
    store.close()
    assert lines[0]["done"] == 0  # the board may have come before the first line
    assert lines[-1]["done"] == lines[-1]["total"] == 3
    assert [board["name"] for board in lines[-1]["boards"]] == ["board"]
    assert lines[-1]["refused"] == {}


@pytest.mark.alone
@pytest.mark.parametrize(
    ("names", "board_says", "host_says"),
    [
        (("board", "other"), "most likely a wrong server key", "it has a wrong server key"),
        (("stranger", "host"), "ramnas keys authorize", "its key is not authorised"),
        ((), "give --keys and --server-key", "refused a connection: 127.0.0.1"),
    ],
    ids=["wrong server key", "unknown client", "plain client"],
)
def test_whoever_does_not_get_in_is_told_why_as_is_the_host(
    folder: Path, running: list[Process], names: tuple[str, ...], board_says: str, host_says: str
) -> None:
    calibrate, endpoint = host(running, folder)
    board = agent(running, folder, endpoint, *names)
    # the host hears of it first: from then on the board has 5 s, whatever its start took
    met_s = calibrate.says(host_says, 60)
    assert board.says(board_says, 30) - met_s < SOON_S
    assert board.process.poll() is None  # it goes on trying: keys can be mended meanwhile


@pytest.mark.alone
def test_a_board_with_keys_at_a_host_without_is_told_so(
    folder: Path, running: list[Process]
) -> None:
    _, endpoint = host(running, folder, "--seed", "0")
    board = agent(running, folder, endpoint, "board", "host")
    board.says("without keys", 60)


def test_a_public_address_without_keys_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["calibrate", "--bind", "tcp://0.0.0.0:*", "--store", str(folder / "s.sqlite")]
    assert main.main(command) == 2
    (error,) = (line for line in capsys.readouterr().err.splitlines() if "error: " in line)
    assert "can be reached from other machines: make keys with `ramnas keys new`" in error
    assert "--insecure" in error


def test_a_secret_key_that_others_can_read_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("host", "board"):
        os.chmod(folder / f"{name}.key_secret", 0o644)
    command = ["calibrate", "--keys", str(folder / "host.key_secret")]
    assert main.main([*command, "--store", str(folder / "s.sqlite")]) == 2
    assert f"chmod 600 {folder}/host.key_secret" in capsys.readouterr().err
    command = ["agent", "--connect", "tcp://127.0.0.1:1", "--server-key", str(folder / "host.key")]
    command += ["--keys", str(folder / "board.key_secret")]
    assert edge.main(command) == 2
    assert f"chmod 600 {folder}/board.key_secret" in capsys.readouterr().err


def test_the_verbs_make_authorise_and_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert main.main(["keys", "new"]) == 0
    assert edge.main(["keys", "new", "--name", "jetson", "--folder", str(tmp_path / "board")]) == 0
    assert f"keep: {tmp_path}/ramnas/host.key_secret" in capsys.readouterr().out
    assert main.main(["keys", "list"]) == 0
    assert "nobody is authorized" in capsys.readouterr().out
    assert main.main(["keys", "authorize", str(tmp_path / "board/jetson.key_secret")]) == 0
    let_in = tmp_path / "ramnas/authorized_keys/jetson.key"
    own = keys.load_keys(tmp_path / "board/jetson.key_secret")
    assert own.secret.decode() not in let_in.read_text()  # the public half alone is copied
    assert f"authorized  {own.public.decode()}  jetson" in _listed(capsys)
    (let_in.parent / "broken.key").write_text("?")
    assert main.main(["keys", "list"]) == 2
    shown = capsys.readouterr()
    assert own.public.decode() in shown.out  # the others are still shown
    assert "error: " in shown.err and "broken.key is no key file" in shown.err
    assert main.main(["keys", "authorize", str(tmp_path / "none.key")]) == 2


def _listed(capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main.main(["keys", "list"]) == 0
    return capsys.readouterr().out
