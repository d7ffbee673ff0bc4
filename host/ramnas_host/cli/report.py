"""`ramnas report`: a run -> one HTML page, and plots if asked for."""

from __future__ import annotations

import argparse
from pathlib import Path

from ramnas_edge.cli.terminal import Verbs, add_verb


def add(verbs: Verbs) -> None:
    """Add this verb to the command line."""
    report = add_verb(
        verbs, "report",
        help="show a run as one HTML page",
        purpose="Writes one HTML page about a run: the model that each latency budget picks, the "
        "front, the surrogates and the boards. The page needs no network.",
        example="ramnas report runs/demo -o report.html",
    )  # fmt: skip
    report.add_argument(
        "run", type=Path, metavar="RUN", help="the run's folder, or the file of a front"
    )
    report.add_argument(
        "--store", type=Path, metavar="records.sqlite",
        help="store of records (default: the one in the run's folder)",
    )  # fmt: skip
    report.add_argument(
        "--bundle", type=Path, metavar="DIR",
        help="bundle among whose models budgets pick (default: the one in the run's folder)",
    )  # fmt: skip
    report.add_argument(
        "--png", type=Path, metavar="DIR",
        help="also write front.png and surrogates.png to this folder",
    )  # fmt: skip
    report.add_argument(
        "-o", "--out", type=Path, default=Path("report.html"), metavar="FILE",
        help="the page to write (default: report.html)",
    )  # fmt: skip
    report.set_defaults(call=_report)


def _report(args: argparse.Namespace) -> None:
    from ramnas_host.report import contents, html, plots
    from ramnas_host.search import front
    from ramnas_models.files import write_file

    found = contents.read(args.run, args.store, args.bundle)
    write_file(args.out, html.page(found))
    print(f"report: {args.out}")
    if args.png:
        searched = front.load(contents.front_of(args.run))
        bundled = [model.arch_id for model in found.models if model.bundled]
        plots.plot_front(searched, bundled, args.png / "front.png")
        plots.plot_surrogates(searched, args.png / "surrogates.png")
        print(f"plots: {args.png / 'front.png'}, {args.png / 'surrogates.png'}")
