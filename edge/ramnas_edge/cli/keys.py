"""`keys`: make CURVE keys, and on a host let boards in (`keys new`, `authorize` and `list`).

The host's command line has all three, a board's has only `new`.
"""

from __future__ import annotations

import argparse
import socket
from pathlib import Path

from ramnas_edge.cli.terminal import Verbs, add_verb


def add(verbs: Verbs, *, host: bool = True) -> None:
    """Add `keys` to the command line of a host, or if `host` is False to that of a board."""
    if not host:
        keys = add_verb(
            verbs, "keys",
            help="make the key with which this board joins a host's fleet",
            purpose="Makes the CURVE keys with which this board identifies itself to a host and "
            "encrypts the connection.",
            example="ramnas-edge keys new --name jetson-1",
        )  # fmt: skip
    else:
        keys = add_verb(
            verbs, "keys",
            help="make the host's keys, and let boards in",
            purpose="Makes the CURVE keys that encrypt the connections of the fleet, and decides "
            "which boards may connect to this host.",
            example="ramnas keys authorize jetson-1.key",
        )  # fmt: skip
    what = keys.add_subparsers(required=True, metavar="WHAT", title="what to do")
    new = add_verb(
        what, "new",
        help="make a pair of keys",
        purpose="Makes a pair of keys: NAME.key is public and is copied to the other side, "
        "NAME.key_secret stays here.",
        example="ramnas keys new" if host else "ramnas-edge keys new --name jetson-1",
    )  # fmt: skip
    new.add_argument(
        "--name", default="host" if host else socket.gethostname(),
        help="the name of the two files (default: %(default)s)",
    )  # fmt: skip
    new.add_argument(
        "--folder", type=Path, help="where the files are written (default: ~/.config/ramnas)"
    )
    new.set_defaults(call=_new if host else _new_on_board)
    if host:
        _add_authorize(what)
        _add_list(what)


def _add_authorize(what: Verbs) -> None:
    authorize = add_verb(
        what, "authorize",
        help="let the owner of a public key connect",
        purpose="Lets the board that owns a public key connect to this host, even while the host "
        "is running.",
        example="ramnas keys authorize jetson-1.key",
    )  # fmt: skip
    authorize.add_argument("key", type=Path, metavar="NAME.key", help="the board's public key")
    authorize.add_argument("--name", help="a name for the board (default: the file's name)")
    _add_authorized(authorize)
    authorize.set_defaults(call=_authorize)


def _add_list(what: Verbs) -> None:
    shown = add_verb(
        what, "list",
        help="list this host's keys and those that may connect",
        purpose="Lists the keys of this host and the keys of the boards that may connect to it.",
        example="ramnas keys list",
    )  # fmt: skip
    _add_authorized(shown)
    shown.set_defaults(call=_list)


def _add_authorized(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--authorized", type=Path, metavar="DIR",
        help="the folder with the keys of those who may connect "
        "(default: ~/.config/ramnas/authorized_keys)",
    )  # fmt: skip


def _new(args: argparse.Namespace) -> None:
    secret = _make(args)
    print(f"copy to each board: {secret.with_suffix('.key')} (ramnas-edge agent --server-key)")
    print("to let a board in: ramnas keys authorize NAME.key, with the board's public key")


def _new_on_board(args: argparse.Namespace) -> None:
    secret = _make(args)
    print(f"copy to the host: {secret.with_suffix('.key')} (ramnas keys authorize)")


def _make(args: argparse.Namespace) -> Path:
    from ramnas_edge.board.folders import config_folder
    from ramnas_edge.fleet import keys

    secret = keys.new(args.folder or config_folder(), args.name)
    print(f"keep here and secret: {secret}")
    return secret


def _authorize(args: argparse.Namespace) -> None:
    from ramnas_edge.board.folders import config_folder
    from ramnas_edge.fleet import keys

    authorized = args.authorized or config_folder() / "authorized_keys"
    path = keys.authorize(args.key, authorized, args.name)
    print(f"{path.stem} may now connect to hosts that use {authorized}, running ones too")


def _list(args: argparse.Namespace) -> None:
    from ramnas_edge.board.folders import config_folder
    from ramnas_edge.fleet import keys
    from ramnas_models.errors import FileError

    for path in sorted(config_folder().glob(f"*{keys.SECRET}")):
        print(f"own         {keys.load_public(path).decode()}  {path}")
    authorized = args.authorized or config_folder() / "authorized_keys"
    known, unusable = keys.load_authorized(authorized)
    for public, name in known.items():
        print(f"authorized  {public.decode()}  {name}")
    if not known:
        print(f"{authorized} lets nobody in yet: ramnas keys authorize NAME.key adds a board")
    if unusable:
        raise FileError("; ".join(unusable))
