"""`ramnas-edge`: the commands on a board. One verb, one call, one print."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, List, Optional

from ramnas_edge import building, verb_calibrate, verb_keys, verb_profile, verb_run
from ramnas_edge.cli import guarded
from ramnas_models.errors import DataError

if TYPE_CHECKING:
    from ramnas_edge.link import Cure

log = logging.getLogger(__name__)


def main(argv: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(prog="ramnas-edge", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

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
    verb_profile.add_board_settings(agent)
    agent.set_defaults(call=_agent)

    verb_keys.add(verbs, host=False)
    verb_profile.add(verbs)

    verb_run.add(verbs)
    verb_calibrate.add(verbs)
    building.add(verbs)

    doctor = verbs.add_parser("doctor", help="what this machine is, what works, what to mend")
    doctor.add_argument("--json", action="store_true", help="the report as JSON")
    doctor.set_defaults(call=_doctor)

    args = parser.parse_args(argv)
    return guarded(lambda: args.call(args))


def _agent(args: argparse.Namespace) -> None:
    from ramnas_edge import agent
    from ramnas_edge.clocks import board_settings

    cure = _cure(args.connect, args.keys, args.server_key)
    with board_settings(lock_clocks=args.lock_clocks, power_mode=args.power_mode):
        agent.serve(
            args.connect, name=args.name, give_up_s=args.give_up_s, spool=args.spool,
            spool_patience_s=args.spool_patience_s, cure=cure,
        )  # fmt: skip


def _cure(endpoint: str, own: Optional[Path], server: Optional[Path]) -> Optional[Cure]:
    """The keys of this board and the host's; DataError if one of them is not given."""
    from ramnas_edge import keys
    from ramnas_edge.link import Cure

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


def _doctor(args: argparse.Namespace) -> None:
    import msgspec

    from ramnas_edge import doctor
    from ramnas_models.errors import BackendError

    report = doctor.examine(on_step=lambda step: print(step, file=sys.stderr))
    print(msgspec.json.encode(report).decode() if args.json else doctor.text(report))
    if not any(engine.works for engine in report.engines):
        raise BackendError("no engine works on this machine; the report says what to do")


if __name__ == "__main__":
    sys.exit(main())
