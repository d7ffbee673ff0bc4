"""What the verbs that have boards measure share: their options, the measuring and its output."""

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
    """Add the options of a verb that keeps records in a store and shows how measuring goes."""
    verb.add_argument(
        "--store", type=Path, required=True, metavar="records.sqlite",
        help="the file with the records; it is made if it is missing",
    )  # fmt: skip
    verb.add_argument(
        "--run", default=verb.prog.split()[-1],
        help="a name for these records in the store (default: %(default)s)",
    )  # fmt: skip
    board_options(verb)
    verb.add_argument(
        "--json-lines", action="store_true",
        help="print the status as one line of JSON per second on stdout, instead of the table",
    )  # fmt: skip


def board_options(verb: argparse.ArgumentParser) -> None:
    """Add the options that say how boards measure, where they connect, and which may."""
    verb.add_argument(
        "--rounds", type=int, default=8, metavar="N",
        help="how often each arch is visited, 8 times or more; if the visits scatter there are up "
        "to 24 (default: %(default)s)",
    )  # fmt: skip
    verb.add_argument(
        "--bind", default=_BIND, metavar="tcp://HOST:PORT",
        help="the address where boards connect: * stands for all of this machine, and IPv6 is in "
        "brackets; port * takes any free one (default: %(default)s)",
    )  # fmt: skip
    verb.add_argument(
        "--local-agent", action="store_true",
        help="measure on this machine too: start an agent here, and end it afterwards",
    )  # fmt: skip
    verb.add_argument(
        "--keys", type=Path, metavar="HOST.key_secret",
        help="the key of this host: encrypt, and let in only authorised boards (default: "
        "~/.config/ramnas/host.key_secret if the address is public and the file exists)",
    )  # fmt: skip
    verb.add_argument(
        "--authorized", type=Path, metavar="DIR",
        help="folder with the public keys of the boards that may connect (default: "
        "authorized_keys beside --keys)",
    )  # fmt: skip
    verb.add_argument(
        "--insecure", action="store_true",
        help="allow a public address without keys: any board may connect, unencrypted",
    )  # fmt: skip


def measure(
    args: argparse.Namespace,
    request: Request,
    *,
    until_tau: UntilTau | None = None,
    json_lines: bool = False,
) -> None:
    """Have a request measured, and print what came of it: for people, or as JSON lines."""
    from ramnas_edge.board.short_names import legend, short_names
    from ramnas_edge.measuring.store import Store
    from ramnas_host.fleet import table

    with table.shown(json_lines=json_lines) as show:
        classes = served(args, request, show, until_tau)
    if json_lines:
        return
    store = Store(args.store)
    names = short_names(classes)
    for device_class, name in names.items():
        counts = store.count(request.run, device_class)
        print(f"{name}: {', '.join(f'{n} {validity}' for validity, n in counts.items())}")
        done, total = sum(counts.values()), len(request.archs_of(device_class))
        if until_tau and done < total:
            print(f"{name}: {until_tau.saved(done, total)}")
    store.close()
    for explanation in legend(names):
        print(explanation)
    print(f"records: run '{request.run}' in {args.store}")


def served(
    args: argparse.Namespace,
    request: Request,
    on_status: Callable[[Status], None],
    until_tau: UntilTau | None = None,
) -> list[str]:
    """Have a request measured without printing; returns the device classes that took part."""
    from ramnas_edge.measuring.store import Store
    from ramnas_host.fleet.calibration import calibrate_boards

    check_rounds(args)
    door, store = _door(args), Store(args.store)
    log = args.store.with_name("agent.log") if args.local_agent else None
    try:
        return calibrate_boards(
            request, store, door=door, local_agent_log=log, until_tau=until_tau,
            on_status=on_status,
        )  # fmt: skip
    finally:
        store.close()


def check_rounds(args: argparse.Namespace) -> None:
    """DataError if --rounds is below the visits that a record needs."""
    from ramnas_edge.measuring.record import MIN_VISITS

    if args.rounds < MIN_VISITS:
        raise DataError(
            f"--rounds is {args.rounds}, but a record needs at least {MIN_VISITS} visits"
        )


def _door(args: argparse.Namespace) -> Door:
    from ramnas_edge.board.folders import config_folder
    from ramnas_edge.fleet import keys
    from ramnas_host.fleet.authentication import Door

    endpoint = "tcp://127.0.0.1:*" if args.local_agent and args.bind == _BIND else args.bind
    own: Path | None = args.keys
    if own is None and not args.insecure and keys.is_public(endpoint):
        usual = config_folder() / "host.key_secret"
        own = usual if usual.exists() else None
    return Door(endpoint, own, args.authorized, args.insecure)
