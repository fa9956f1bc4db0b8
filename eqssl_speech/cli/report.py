"""``eqssl report``: a page of pictures and tables."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any, Final

from eqssl_speech.cli.common import add_command

_REPORT: Final = """\
Draw what runs, evaluations, adaptations and studies came to, beside each other: losses per source, adaptation gain,
perplexity and use of codes, conflict between sources, learning rates, error rates per language with intervals, and
adaptation curves. Writes report.html, one file that opens without a network, and each picture as a PNG.

RUN is the output directory of `eqssl pretrain`, `finetune`, `evaluate --out`, `adapt --out` or `study`, of a run that
is still going on too, or a directory that holds some.

examples:
  eqssl report runs/mine --out report
  eqssl report runs/equilibrium runs/conventional --out report
  eqssl report runs/quickstart runs/quickstart/equilibrium-finetuned/valid --out report
  eqssl report studies/equilibrium --out report --title "Does it help?"
"""


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "report", _REPORT, "pictures and tables of runs, in one page")

    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="what is drawn")
    parser.add_argument(
        "--out", metavar="DIR", type=Path, required=True, help="where files are written"
    )
    parser.add_argument("--title", help="title of the page (default: the names of the runs)")
    parser.set_defaults(run=_run)


def _run(options: Namespace) -> int:
    from eqssl_speech.report.page.inputs import read_inputs
    from eqssl_speech.report.page.page import write_report

    inputs = read_inputs(options.runs)

    names = [x.name for x in inputs]
    title = options.title or ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")

    page, *pictures = write_report(inputs, options.out, title)

    print(f"Written: {page}, and {len(pictures)} pictures beside it")

    return 0
