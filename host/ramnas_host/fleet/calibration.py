"""A request -> its records, measured by the boards that connect, or by an agent started here."""

from __future__ import annotations

import logging
import re
import socket
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from ramnas_edge.fleet.spool import default_path
from ramnas_edge.measuring.request import Request
from ramnas_edge.measuring.store import Store
from ramnas_host.fleet.authentication import Door
from ramnas_host.fleet.boards import Status
from ramnas_host.fleet.host import Host
from ramnas_host.fleet.until_tau import UntilTau
from ramnas_models.errors import FleetError
from ramnas_models.files import writing

log = logging.getLogger(__name__)
_END_S = 10.0  # an agent that was asked to end has ended by then, unless it hangs
LOOPBACK = Door("tcp://127.0.0.1:*")


def calibrate_boards(
    request: Request, store: Store, *, door: Door = LOOPBACK, local_agent_log: Path | None = None,
    until_tau: UntilTau | None = None, on_status: Callable[[Status], None] = lambda status: None,
) -> list[str]:  # fmt: skip
    """Have all archs of `request` measured; return the device classes that came.

    With `local_agent_log` one agent is started on this machine, as a process that logs to that
    file; FleetError if it dies. With `until_tau` a class ends when its surrogate is good enough.
    Archs that `store` has a record of are not measured again. `on_status` is called once a second.
    """
    with closing(Host(request, store, door, on_status, until_tau=until_tau)) as host:
        if local_agent_log is None:
            endpoint = _named(host.endpoint, socket.gethostname())
            log.info("waiting for boards: ramnas-edge agent --connect %s", endpoint)
            return host.serve()
        endpoint = _named(host.endpoint, "127.0.0.1")
        with _local_agent(endpoint, local_agent_log, request.run, store) as alive:
            return host.serve(alive)


def _named(endpoint: str, name: str) -> str:
    """`endpoint` with a name that can be connected, if it stands for all addresses of a machine."""
    return re.sub(r"//(\[::\]|0\.0\.0\.0):", f"//{name}:", endpoint)


@contextmanager
def _local_agent(
    endpoint: str, log_file: Path, run: str, store: Store
) -> Iterator[Callable[[], None]]:
    """Run an agent on this machine meanwhile; gives a call that raises if it has died."""
    # not beside the store: if that disk is full, the records wait on another
    spool = default_path(f"local-{zlib.crc32(str(store.path.resolve()).encode()):08x}")
    with writing(log_file), log_file.open("ab") as output:
        agent = subprocess.Popen(
            # the agent of a host that was killed keeps the spool until it gives up
            [sys.executable, "-m", "ramnas_edge", "agent", "--connect", endpoint, "--name", "local",
             "--give-up-s", "15", "--spool", str(spool), "--spool-patience-s", "30",
             "--end-with-parent"],
            stdout=output, stderr=output, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def alive() -> None:
        code = agent.poll()
        if code is not None:
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            recorded = len(store.keys(run))
            raise FleetError(
                f"the local agent (process {agent.pid}) {how}: see {log_file}; {recorded} records "
                f"of run '{run}' are safe in {store.path}: the same command continues from there"
            )

    try:
        yield alive
    finally:
        try:
            agent.wait(timeout=5 if sys.exc_info()[0] is None else 0)  # after the host's goodbye
        except subprocess.TimeoutExpired:
            agent.terminate()
            try:
                agent.wait(timeout=_END_S)
            except subprocess.TimeoutExpired:
                agent.kill()
                agent.wait()
