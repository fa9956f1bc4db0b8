"""What ``eqssl evaluate`` prints and writes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from rich.console import Console

from eqssl_speech.cli.references import print_left_out
from eqssl_speech.report.evaluation import EvaluationContext, to_json, write_evaluation
from eqssl_speech.report.evaluation_picture import draw_evaluation
from eqssl_speech.report.evaluation_table import (
    build_table,
    describe_comparison,
    list_confusions,
    measure_table,
)
from eqssl_speech.report.hypotheses import write_hypotheses
from eqssl_speech.tasks.evaluate.comparison import Comparison
from eqssl_speech.tasks.evaluate.scores import Evaluation
from eqssl_speech.tasks.transcribe.output import to_printable
from eqssl_speech.text.tables import render_table

_WIDTH_OF_A_FILE: Final = 140


def report(
    evaluation: Evaluation,
    context: EvaluationContext,
    comparison: Comparison | None,
    out: Path | None,
) -> None:
    """Print the table and what was left out, and write the files.

    :param evaluation: The errors.
    :param context: What was evaluated, and how.
    :param comparison: With another evaluation, where one was asked for.
    :param out: Where files are written; ``None`` for nowhere.
    :raises InputError: If they cannot be written.
    """
    print_left_out(evaluation.left_out, evaluation.left_out_sources, len(evaluation.utterances))

    _print_table(evaluation, context)

    if context.tuned is not None:
        title = "weights of the search, best first"
        print(render_table(context.tuned.tuning.list_rows(), title=title, left=("search",)))
        print(f"{context.tuned.sentence}\n")

    lines = list_confusions(evaluation)

    if evaluation.micro.empty_share == 1.0:
        lines.append(
            "Nothing was recognised: the model gives blanks only, as one does that was trained too briefly or with too "
            "high a learning rate. Fine-tune it for longer, and look at `blank_share` of its validations."
        )
    if comparison is not None:
        lines += describe_comparison(comparison)

    if out is not None:
        files = [
            write_evaluation(to_json(evaluation, context, comparison), out),
            draw_evaluation(evaluation, context, out),
            write_hypotheses(evaluation.utterances, out),
        ]
        lines.append(f"Written: {', '.join(map(str, files))}")

    for line in lines:
        print(to_printable(line))


def _print_table(evaluation: Evaluation, context: EvaluationContext) -> None:
    console = Console()
    table = build_table(evaluation, context)
    needed = measure_table(table, console).maximum

    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = max(_WIDTH_OF_A_FILE, needed)
    elif needed > console.width:
        table = build_table(evaluation, context, narrow=True)

        # What is narrower still breaks the lines, which is better than cutting numbers short.
        console.width = max(console.width, measure_table(table, console).minimum)

    console.print(table)
    console.print()
