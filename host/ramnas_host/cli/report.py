"""The verb `ramnas report`: a run as one page to look at, and as pictures."""

from __future__ import annotations

import argparse
from pathlib import Path


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this verb to the command line."""
    report = verbs.add_parser(
        "report", help="one HTML page of a run: its front, surrogates, boards, and budgets"
    )
    report.add_argument(
        "run", type=Path, metavar="RUN", help="a folder such as runs/demo, or a front.json"
    )
    report.add_argument(
        "--store", type=Path, metavar="records.sqlite", help="(default: that of the folder)"
    )
    report.add_argument("--bundle", type=Path, metavar="DIR", help="(default: that of the folder)")
    report.add_argument(
        "--png", type=Path, metavar="DIR", help="front.png and surrogates.png there, too"
    )
    report.add_argument("-o", "--out", type=Path, default=Path("report.html"))
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
        print(f"pictures: {args.png / 'front.png'}, {args.png / 'surrogates.png'}")
