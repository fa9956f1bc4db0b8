"""``python -m eqssl_speech.report OUT``: summary, picture and table of the runs in a directory."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from eqssl_speech.error import InputError
from eqssl_speech.report.output import write_summary
from eqssl_speech.report.picture import draw_picture
from eqssl_speech.report.runs import find_runs, read_run
from eqssl_speech.report.summary import summarize
from eqssl_speech.report.table import build_tables, describe_troubles, verdict

_EXAMPLES = """\
examples:
  python -m eqssl_speech.report runs/quickstart
  python -m eqssl_speech.report runs/quickstart --run equilibrium --run conventional
"""

# A narrow terminal breaks the lines of a table, which is better than cutting its numbers short.
_MIN_WIDTH = 140


def main(args: Sequence[str] | None = None) -> int:
    """Write ``OUT/summary.json`` and ``OUT/summary.png``, and print the table.

    :param args: The command line without the program's name; by default that of the process.

    :returns: The exit status: 2 if the directory cannot be reported.
    """
    options = _make_parser().parse_args(args)

    try:
        _report(options)
    except InputError as ex:
        print(f"error: {ex}", file=sys.stderr)

        return 2

    return 0


def _make_parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m eqssl_speech.report",
        description="Summarise pre-training runs per data source: write OUT/summary.json and "
        "OUT/summary.png, and print a table.",
        epilog=_EXAMPLES,
        formatter_class=RawDescriptionHelpFormatter,
    )

    parser.add_argument("out", metavar="OUT", type=Path, help="directory that holds the runs")

    parser.add_argument(
        "--run",
        metavar="NAME",
        nargs="+",
        action="extend",
        help="runs to report, names of directories in OUT (default: all)",
    )

    return parser


def _report(options: Namespace) -> None:
    runs = [read_run(name, directory) for name, directory in find_runs(options.out, options.run)]

    summary = summarize(runs)

    files = write_summary(summary, options.out), draw_picture(runs, summary, options.out)

    console = Console()
    console.width = max(console.width, _MIN_WIDTH)

    for table in build_tables(summary):
        console.print(table)
        console.print()

    for sentence in (*describe_troubles(summary), verdict(summary)):
        if sentence is not None:
            console.print(sentence, markup=False, highlight=False, soft_wrap=True)

    console.print(
        f"Written: {files[0]} and {files[1]}", markup=False, highlight=False, soft_wrap=True
    )


if __name__ == "__main__":
    sys.exit(main())
