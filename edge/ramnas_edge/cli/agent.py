"""`ramnas-edge agent`: measure networks for a host until all is measured."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from ramnas_edge.cli import profile
from ramnas_models.errors import DataError

if TYPE_CHECKING:
    from ramnas_edge.fleet.link import Cure

log = logging.getLogger(__name__)


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this verb to the command line."""
    agent = verbs.add_parser("agent", help="measure networks for a host")
    agent.add_argument("--connect", required=True, metavar="tcp://HOST:PORT")
    agent.add_argument("--name", help="this board's name at the host (default: host name)")
    agent.add_argument(
        "--give-up-s", type=float, metavar="S", help="end after S seconds without a host"
    )
    agent.add_argument(
        "--spool", type=Path, metavar="FILE",
        help="where records wait for the host (default: in ~/.local/state/ramnas)",
    )  # fmt: skip
    agent.add_argument("--spool-patience-s", type=float, default=0.0, help=argparse.SUPPRESS)
    agent.add_argument(
        "--keys", type=Path, metavar="NAME.key_secret", help="of this board: ramnas-edge keys new"
    )
    agent.add_argument(
        "--server-key", type=Path, metavar="HOST.key", help="the host's public key, copied here"
    )
    profile.add_board_settings(agent)
    agent.set_defaults(call=_agent)


def _agent(args: argparse.Namespace) -> None:
    from ramnas_edge.board.clocks import board_settings
    from ramnas_edge.fleet import agent

    cure = _cure(args.connect, args.keys, args.server_key)
    with board_settings(lock_clocks=args.lock_clocks, power_mode=args.power_mode):
        agent.serve(
            args.connect, name=args.name, give_up_s=args.give_up_s, spool=args.spool,
            spool_patience_s=args.spool_patience_s, cure=cure,
        )  # fmt: skip


def _cure(endpoint: str, own: Optional[Path], server: Optional[Path]) -> Optional[Cure]:
    """The keys of this board and the host's; DataError if one of them is not given."""
    from ramnas_edge.fleet import keys
    from ramnas_edge.fleet.link import Cure

    if own and server:
        return Cure(keys.load_keys(own), keys.load_public(server))
    if own or server:
        raise DataError(
            "encryption needs both --keys (of this board: ramnas-edge keys new) and --server-key "
            "(the host's NAME.key, copied here)"
        )
    if keys.is_public(endpoint):
        log.warning("no --keys and --server-key: the connection to %s is not encrypted", endpoint)
    return None
