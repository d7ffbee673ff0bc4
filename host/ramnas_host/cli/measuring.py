"""What all verbs that have boards measure share: where boards connect, who may, what is shown."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ramnas_models.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ramnas_edge.measuring.request import Request
    from ramnas_host.fleet.authentication import Door
    from ramnas_host.fleet.boards import Status
    from ramnas_host.fleet.until_tau import UntilTau


_BIND = "tcp://127.0.0.1:5555"


def fleet_options(verb: argparse.ArgumentParser) -> None:
    """Where records go, who measures, and how that is shown."""
    verb.add_argument("--store", type=Path, required=True, metavar="records.sqlite")
    verb.add_argument("--run", default=verb.prog.split()[-1], help="name of the run in the store")
    board_options(verb)
    verb.add_argument(
        "--json-lines", action="store_true", help="the state as one line of JSON a second on stdout"
    )


def board_options(verb: argparse.ArgumentParser) -> None:
    """How boards measure for a verb, where they connect, and who may."""
    verb.add_argument(
        "--rounds", type=int, default=8,
        help="least visits of each arch, 8 or more; where they scatter there are up to 24",
    )  # fmt: skip
    verb.add_argument("--bind", default=_BIND, metavar="tcp://HOST:PORT")
    verb.add_argument(
        "--local-agent", action="store_true", help="start one agent on this machine and end it"
    )
    verb.add_argument(
        "--keys", type=Path, metavar="HOST.key_secret",
        help="encrypt, and let in who is authorised (default: ~/.config/ramnas/host.key_secret, "
        "where the address is public)",
    )  # fmt: skip
    verb.add_argument(
        "--authorized", type=Path, metavar="DIR",
        help="the public keys of those who may connect (default: authorized_keys beside --keys)",
    )  # fmt: skip
    verb.add_argument(
        "--insecure", action="store_true", help="a public address without keys: anybody may come"
    )


def measure(
    args: argparse.Namespace,
    request: Request,
    *,
    until_tau: UntilTau | None = None,
    json_lines: bool = False,
) -> None:
    """Have the request measured by the boards that come, or by one agent started here."""
    from ramnas_edge.measuring.store import Store
    from ramnas_host.fleet import table

    with table.shown(json_lines=json_lines) as show:
        classes = served(args, request, show, until_tau)
    if json_lines:
        return
    store = Store(args.store)
    for device_class in classes:
        counts = store.count(request.run, device_class)
        print(f"{device_class}: {counts}")
        done, total = sum(counts.values()), len(request.archs_of(device_class))
        if until_tau and done < total:
            print(f"{device_class}: {until_tau.saved(done, total)}")
    store.close()
    print(f"records: run '{request.run}' in {args.store}")


def served(
    args: argparse.Namespace,
    request: Request,
    on_status: Callable[[Status], None],
    until_tau: UntilTau | None = None,
) -> list[str]:
    """The same without a word; the device classes that came."""
    from ramnas_edge.measuring.store import Store
    from ramnas_host.fleet.calibration import calibrate_boards

    check_rounds(args)
    store = Store(args.store)
    log = args.store.with_name("agent.log") if args.local_agent else None
    try:
        return calibrate_boards(
            request, store, door=_door(args), local_agent_log=log, until_tau=until_tau,
            on_status=on_status,
        )  # fmt: skip
    finally:
        store.close()


def check_rounds(args: argparse.Namespace) -> None:
    """DataError for fewer visits than a record needs."""
    from ramnas_edge.measuring.record import MIN_VISITS

    if args.rounds < MIN_VISITS:
        raise DataError(f"--rounds {args.rounds}: a record needs {MIN_VISITS} visits or more")


def _door(args: argparse.Namespace) -> Door:
    from ramnas_edge.fleet import keys
    from ramnas_host.fleet.authentication import Door

    endpoint = "tcp://127.0.0.1:*" if args.local_agent and args.bind == _BIND else args.bind
    usual = keys.home() / "host.key_secret"
    own: Path | None = args.keys
    if own is None and not args.insecure and keys.is_public(endpoint) and usual.exists():
        own = usual
    return Door(endpoint, own, args.authorized, args.insecure)
