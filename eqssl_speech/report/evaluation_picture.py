"""``summary.png`` of an evaluation: error rates per language, with their intervals and the averages."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from eqssl_speech.decoding.error_rates import Unit
from eqssl_speech.report.evaluation import EvaluationContext
from eqssl_speech.report.output import write_atomically
from eqssl_speech.report.picture import PICTURE_FILE_NAME
from eqssl_speech.tasks.evaluate.scores import LEVEL, Evaluation, Rate, Scores

_TITLES: Final[tuple[tuple[Unit, str], ...]] = (
    ("char", "character error rate (%)"),
    ("word", "word error rate (%)"),
)


def draw_evaluation(evaluation: Evaluation, context: EvaluationContext, directory: Path) -> Path:
    """Draw ``summary.png`` into a directory, in one move.

    :param evaluation: The errors.
    :param context: What was evaluated, and how.
    :param directory: The directory.
    :returns: The file.
    :raises InputError: If the directory cannot be written to.
    """
    # The best first, in the same order in both panels.
    languages = sorted(evaluation.by_language.items(), key=lambda item: item[1].cer.value)

    width = 3.0 + max(3.0, 0.45 * len(languages))
    figure = Figure(figsize=(width, 6.4), layout="constrained")

    for row, (unit, title) in enumerate(_TITLES):
        axes = figure.add_subplot(2, 1, row + 1)
        axes.set_ylabel(title)

        _draw_bars(axes, languages, unit, context)
        _draw_averages(axes, evaluation, unit)

    figure.suptitle(f"{context.split} of {context.corpus.name}, {LEVEL:.0%} bootstrap intervals")

    FigureCanvasAgg(figure)

    content = BytesIO()

    figure.savefig(content, format="png", dpi=120)

    return write_atomically(directory / PICTURE_FILE_NAME, content.getvalue())


def _draw_bars(
    axes: Axes, languages: Sequence[tuple[str, Scores]], unit: Unit, context: EvaluationContext
) -> None:
    rates = [_choose(scores.wer, scores.cer, unit) for _, scores in languages]
    values = [100 * rate.value for rate in rates]

    lows = [v - 100 * (v / 100 if r.low is None else r.low) for v, r in zip(values, rates)]
    highs = [100 * (v / 100 if r.high is None else r.high) - v for v, r in zip(values, rates)]

    bars = axes.bar(
        range(len(languages)),
        values,
        0.7,
        # Rounding must not make them negative.
        yerr=[[max(0.0, x) for x in lows], [max(0.0, x) for x in highs]],
        capsize=3,
        facecolor="0.85",
        edgecolor="black",
    )

    for bar, (name, _) in zip(bars, languages):
        if name not in context.trained_on:
            bar.set_hatch("////")
            bar.set_label("not fine-tuned on")

    axes.set_xticks(range(len(languages)), [name for name, _ in languages], rotation=30, ha="right")
    axes.set_xlim(-0.6, len(languages) - 0.4)
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)


def _draw_averages(axes: Axes, evaluation: Evaluation, unit: Unit) -> None:
    macro = _choose(evaluation.macro_languages.wer, evaluation.macro_languages.cer, unit)
    micro = _choose(evaluation.micro.wer, evaluation.micro.cer, unit)

    for rate, title, dash in ((macro, "macro", "--"), (micro, "micro", ":")):
        axes.axhline(
            100 * rate.value,
            color="black",
            linestyle=dash,
            label=f"{title}: {100 * rate.value:.1f}",
        )

    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles))
    axes.legend(list(unique.values()), list(unique), loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _choose(wer: Rate, cer: Rate, unit: Unit) -> Rate:
    return wer if unit == "word" else cer
