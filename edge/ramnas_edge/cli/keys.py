"""`keys new|authorize|list`: who may connect to a host; a board has `keys new` alone."""

from __future__ import annotations

import argparse
import socket
from pathlib import Path


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser], *, host: bool = True) -> None:
    """Add `keys`; with `host` False its part for a board."""
    keys = verbs.add_parser("keys", help="CURVE keys of hosts and boards").add_subparsers(
        dest="what", required=True, metavar="WHAT"
    )
    new = keys.add_parser("new", help="make a key pair: NAME.key to hand out, NAME.key_secret")
    new.add_argument(
        "--name", default="host" if host else socket.gethostname(), help="default: %(default)s"
    )
    new.add_argument("--folder", type=Path, help="where to (default: ~/.config/ramnas)")
    new.set_defaults(call=_new if host else _new_board)
    if not host:
        return
    authorize = keys.add_parser("authorize", help="let the owner of a public key connect")
    authorize.add_argument("key", type=Path, metavar="NAME.key", help="the board's public key")
    authorize.add_argument("--name", help="of the board (default: that of the file)")
    authorize.set_defaults(call=_authorize)
    shown = keys.add_parser("list", help="the keys of this host and those that may connect")
    shown.set_defaults(call=_list)
    for verb in (authorize, shown):
        verb.add_argument(
            "--authorized", type=Path, metavar="DIR",
            help="the folder of those who may connect (default: ~/.config/ramnas/authorized_keys)",
        )  # fmt: skip


def _new(args: argparse.Namespace) -> None:
    secret = _made(args)
    print(f"hand out: {secret.with_suffix('.key')} (boards: ramnas-edge agent --server-key)")
    print("let a board in: ramnas keys authorize NAME.key, with its public key")


def _new_board(args: argparse.Namespace) -> None:
    secret = _made(args)
    print(f"hand out: {secret.with_suffix('.key')} (on the host: ramnas keys authorize)")


def _made(args: argparse.Namespace) -> Path:
    from ramnas_edge.fleet import keys

    secret = keys.new(args.folder or keys.home(), args.name)
    print(f"keep: {secret}")
    return secret


def _authorize(args: argparse.Namespace) -> None:
    from ramnas_edge.fleet import keys

    authorized = args.authorized or keys.home() / "authorized_keys"
    path = keys.authorize(args.key, authorized, args.name)
    print(f"{path.stem} may connect to hosts that go by {authorized}, running ones too")


def _list(args: argparse.Namespace) -> None:
    from ramnas_edge.fleet import keys
    from ramnas_models.errors import FileError

    for path in sorted(keys.home().glob(f"*{keys.SECRET}")):
        print(f"own         {keys.load_public(path).decode()}  {path}")
    authorized = args.authorized or keys.home() / "authorized_keys"
    known, wrong = keys.load_authorized(authorized)
    for public, name in known.items():
        print(f"authorized  {public.decode()}  {name}")
    if not known:
        print(f"nobody is authorized in {authorized}: ramnas keys authorize NAME.key")
    if wrong:
        raise FileError("; ".join(wrong))
