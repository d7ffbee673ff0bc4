"""`ramnas-edge agent`: measure networks for a host until it has all the records it wants."""

from __future__ import annotations

import argparse
import logging
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from ramnas_edge.cli import profile
from ramnas_edge.cli.terminal import Verbs, add_verb
from ramnas_models.errors import DataError

if TYPE_CHECKING:
    from ramnas_edge.fleet.link import ClientKeys

log = logging.getLogger(__name__)


def add(verbs: Verbs) -> None:
    """Add this verb to the command line."""
    agent = add_verb(
        verbs, "agent",
        help="measure networks for a host",
        purpose="Measures networks for a host that runs `ramnas calibrate`, and ends when the host "
        "has all its records. No record is lost if either side is stopped: start it again.",
        example="ramnas-edge agent --connect tcp://192.168.1.7:5555 "
        "--keys ~/.config/ramnas/jetson-1.key_secret --server-key host.key",
    )  # fmt: skip
    agent.add_argument(
        "--connect", required=True, metavar="tcp://HOST:PORT",
        help="address and port of the host that runs `ramnas calibrate`",
    )  # fmt: skip
    agent.add_argument(
        "--name",
        help="this board's name at the host, where each board needs its own (default: the host "
        "name and four digits)",
    )
    agent.add_argument(
        "--give-up-s", type=float, metavar="S",
        help="end if no host has answered for S seconds (default: wait for ever)",
    )  # fmt: skip
    agent.add_argument(
        "--spool", type=Path, metavar="FILE",
        help="where records wait until the host has committed them (default: a file for this "
        "--name in ~/.local/state/ramnas)",
    )  # fmt: skip
    agent.add_argument("--spool-patience-s", type=float, default=0.0, help=argparse.SUPPRESS)
    agent.add_argument("--end-with-parent", action="store_true", help=argparse.SUPPRESS)
    agent.add_argument(
        "--keys", type=Path, metavar="NAME.key_secret",
        help="this board's secret key, made by `ramnas-edge keys new`: encrypts the connection",
    )  # fmt: skip
    agent.add_argument(
        "--server-key", type=Path, metavar="HOST.key",
        help="a copy of the host's public key; needed with --keys",
    )  # fmt: skip
    profile.add_board_settings(agent)
    agent.set_defaults(call=_agent)


def _agent(args: argparse.Namespace) -> None:
    from ramnas_edge.board.clocks import board_settings
    from ramnas_edge.fleet import agent, link
    from ramnas_models.signals import end_with_parent

    if args.end_with_parent:
        end_with_parent(signal.SIGTERM)
    link.checked(args.connect)
    client_keys = _client_keys(args.connect, args.keys, args.server_key)
    with board_settings(lock_clocks=args.lock_clocks, power_mode=args.power_mode):
        agent.serve(
            args.connect, name=args.name, give_up_s=args.give_up_s, spool=args.spool,
            spool_patience_s=args.spool_patience_s, client_keys=client_keys,
        )  # fmt: skip


def _client_keys(
    endpoint: str, own: Optional[Path], server: Optional[Path]
) -> Optional[ClientKeys]:
    """The keys for an encrypted connection, or None; DataError if only one of them is given."""
    from ramnas_edge.fleet import keys
    from ramnas_edge.fleet.link import ClientKeys

    if own and server:
        return ClientKeys(keys.load_keys(own), keys.load_public(server))
    if own or server:
        raise DataError(
            "encryption needs both --keys (this board's secret key: `ramnas-edge keys new` makes "
            "one) and --server-key (a copy of the host's public key, NAME.key)"
        )
    if keys.is_public(endpoint):
        log.warning(
            "the connection to %s is not encrypted, because --keys and --server-key are missing",
            endpoint,
        )
    return None
