"""Keys in both command lines, with real processes: right keys, wrong keys and none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ramnas_edge import __main__ as edge
from ramnas_edge.fleet import keys
from ramnas_edge.measuring.store import Store
from ramnas_host.cli import main
from tests.host.fleet.hostile import PATIENCE_S, until


class Process:
    """A command whose stdout and stderr go to files."""

    def __init__(self, folder: Path, name: str, *command: str) -> None:
        self.out, self.log = folder / f"{name}.out", folder / f"{name}.log"
        with self.out.open("wb") as out, self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command], stdout=out, stderr=log
            )

    def says(self, part: str) -> None:
        """Wait until it has logged these words."""
        until(lambda: part in self.log.read_text() or self.process.poll() is not None)
        assert part in self.log.read_text()

    def ends(self) -> None:
        """Wait until it has ended without an error."""
        assert self.process.wait(PATIENCE_S) == 0, self.log.read_text()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the keys of a host, an authorised board, a stranger and another host."""
    made = tmp_path_factory.mktemp("keys")
    for name in ("host", "other"):
        assert main.main(["keys", "new", "--name", name, "--folder", str(made)]) == 0
    for name in ("board", "stranger"):
        assert edge.main(["keys", "new", "--name", name, "--folder", str(made)]) == 0
    authorize = ["keys", "authorize", str(made / "board.key")]
    assert main.main([*authorize, "--authorized", str(made / "authorized_keys")]) == 0
    return made


def calibrate(folder: Path, name: str, *options: str) -> Process:
    """`ramnas calibrate` of 3 archs, on a free port."""
    process = Process(
        folder, name, "ramnas_host", "calibrate", "--bind", "tcp://127.0.0.1:*", "--space",
        "micro", "--classes", "10", "--samples", "3", "--store", str(folder / f"{name}.sqlite"),
        *options,
    )  # fmt: skip
    process.says("--connect tcp://")
    return process


@pytest.fixture(scope="module")
def host(folder: Path) -> Iterator[Process]:
    """A host with keys. It goes on until a board has measured everything."""
    own = str(folder / "host.key_secret")
    with closing(calibrate(folder, "host", "--keys", own, "--json-lines")) as process:
        yield process


def agent(folder: Path, host: Process, name: str, *own_and_server: str) -> Process:
    """`ramnas-edge agent` for that host, with its own key and a server key, or without keys."""
    endpoint = host.log.read_text().split("--connect ")[1].split()[0]
    keys = zip(("--keys", "--server-key"), own_and_server)
    options = [part for option, file in keys for part in (option, str(folder / file))]
    return Process(
        folder, name, "ramnas_edge", "agent", "--connect", endpoint, "--name", name,
        "--spool", str(folder / f"{name}.spool"), *options,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("files", "board_says", "host_says"),
    [
        (
            ("board.key_secret", "other.key"),
            "most likely a wrong server key",
            "it has a wrong server key",
        ),
        (("stranger.key_secret", "host.key"), "ramnas keys authorize", "its key is not authorised"),
        ((), "give --keys and --server-key", "one side"),  # in both reasons
    ],
    ids=["wrong server key", "unknown client", "plain client"],
)
def test_both_sides_say_why_a_board_is_not_let_in(
    folder: Path, host: Process, files: tuple[str, ...], board_says: str, host_says: str
) -> None:
    with closing(agent(folder, host, "refused", *files)) as board:
        board.says(board_says)
        until(lambda: host_says in host.out.read_text())  # among the refusals in the JSON
        assert (
            board.process.poll() is None
        )  # it goes on trying, because keys can be repaired meanwhile


def test_with_the_right_keys_a_board_measures_everything_and_json_shows_it(
    folder: Path, host: Process
) -> None:
    with closing(agent(folder, host, "board", "board.key_secret", "host.key")) as board:
        host.ends()
        board.ends()
    with closing(Store(folder / "host.sqlite")) as store:
        (run,) = store.runs()
        assert len(store.records(run)) == 3
    lines = [json.loads(line) for line in host.out.read_text().splitlines()]
    assert lines[0]["done"] == 0
    assert lines[-1]["done"] == lines[-1]["total"] == 3
    assert [board["name"] for board in lines[-1]["boards"]] == ["board"]


def test_a_board_with_keys_says_that_its_host_has_none(folder: Path) -> None:
    with (
        closing(calibrate(folder, "plain")) as host,
        closing(agent(folder, host, "keyed", "board.key_secret", "host.key")) as board,
    ):
        board.says("without keys")


def test_a_public_address_without_keys_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))  # a folder without keys
    command = ["calibrate", "--bind", "tcp://0.0.0.0:*", "--store", str(tmp_path / "s.sqlite")]
    assert main.main(command) == 2
    (error,) = (line for line in capsys.readouterr().err.splitlines() if "error: " in line)
    assert "can be reached from other machines: make keys with `ramnas keys new`" in error
    assert "--insecure" in error


def test_a_secret_key_that_others_can_read_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = keys.new(tmp_path, "open")
    os.chmod(secret, 0o644)
    host = ["calibrate", "--store", str(tmp_path / "s.sqlite")]
    board = ["agent", "--connect", "tcp://127.0.0.1:1", "--server-key", str(tmp_path / "open.key")]
    for command, call in ((host, main.main), (board, edge.main)):
        assert call([*command, "--keys", str(secret)]) == 2
        assert f"chmod 600 {secret}" in capsys.readouterr().err


def test_the_keys_verbs_make_authorise_and_list_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert main.main(["keys", "new"]) == 0
    assert edge.main(["keys", "new", "--name", "jetson", "--folder", str(tmp_path / "board")]) == 0
    assert f"keep here and secret: {tmp_path}/ramnas/host.key_secret" in capsys.readouterr().out
    assert main.main(["keys", "list"]) == 0
    assert "lets nobody in yet" in capsys.readouterr().out
    assert main.main(["keys", "authorize", str(tmp_path / "board/jetson.key_secret")]) == 0
    let_in = tmp_path / "ramnas/authorized_keys/jetson.key"
    own = keys.load_keys(tmp_path / "board/jetson.key_secret")
    assert own.secret.decode() not in let_in.read_text()  # only the public half is copied
    assert f"authorized  {own.public.decode()}  jetson" in _listed(capsys)
    (let_in.parent / "broken.key").write_text("?")
    assert main.main(["keys", "list"]) == 2
    shown = capsys.readouterr()
    assert own.public.decode() in shown.out  # the others are still shown
    assert "error: " in shown.err and "broken.key is not a key file" in shown.err
    assert main.main(["keys", "authorize", str(tmp_path / "none.key")]) == 2


def _listed(capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main.main(["keys", "list"]) == 0
    return capsys.readouterr().out
