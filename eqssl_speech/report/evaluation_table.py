"""The table of an evaluation: error rates per source, language and domain, and on average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from rich import box
from rich.table import Table
from rich.text import Text

from eqssl_speech.decoding.error_rates import Confusion, ErrorCounts
from eqssl_speech.report.evaluation import EvaluationContext, find_worst, split_confusions
from eqssl_speech.tasks.evaluate.comparison import Comparison, Difference
from eqssl_speech.tasks.evaluate.scores import LEVEL, UNITS, Average, Evaluation, Rate, Scores

_NUM_CONFUSIONS: Final = 10

_SPACE: Final = "␣"


def build_table(evaluation: Evaluation, context: EvaluationContext) -> Table:
    """Return the table: sources, then languages and domains, then averages, in per cent.

    :param evaluation: The errors.
    :param context: What was evaluated, and how.
    """
    caption = f"In per cent, with {LEVEL:.0%} bootstrap intervals; sub, del and ins are of the reference's characters."
    if any(name not in context.trained_on for name in evaluation.by_language):
        caption += " * no fine-tuning in this language."

    table = Table(
        title=Text(f"{context.model} on {context.corpus}, {context.split}; {context.decoding}"),
        title_justify="left",
        caption=Text(caption),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )

    # Only the domain is broken where the terminal is narrow.
    for column in ("", "language", "domain"):
        table.add_column(column, overflow="fold", no_wrap=column != "domain")
    for column in (
        "utter-\nances",
        "minutes",
        "words",
        "WER",
        "",
        "CER",
        "",
        "sub",
        "del",
        "ins",
        "empty",
    ):
        table.add_column(column, justify="right", no_wrap=True)

    _add_groups(table, evaluation, context)
    _add_averages(table, evaluation)

    return table


def list_confusions(evaluation: Evaluation) -> list[str]:
    """Return the most confused characters and words, and what was lost and put in, a line each."""
    lines = []

    for unit, name in zip(UNITS, ("words", "characters")):
        kinds = split_confusions(evaluation.list_confusions(unit))

        for kind, title in (
            ("substitutions", f"Most confused {name} (said→recognised)"),
            ("deletions", f"Most often left out {name}"),
            ("insertions", f"Most often put in {name}"),
        ):
            shown = ", ".join(_show_confusion(c) for c in kinds[kind][:_NUM_CONFUSIONS])
            if shown:
                lines.append(f"{title}: {shown}")

    return lines


def describe_comparison(comparison: Comparison) -> list[str]:
    """Return what differs from another evaluation, a sentence per error rate."""
    lines = [
        f"Against {comparison.other}, on {comparison.num_utterances} common utterances "
        f"({comparison.num_left_out} left out):"
    ]

    for name, differences in (("CER", comparison.cer), ("WER", comparison.wer)):
        for measure, difference in differences.items():
            title = f"{name}, {measure.replace('_', ' over ')}"
            lines.append(f"  {title}: {_show_difference(difference)}")

    return lines


def _show_difference(d: Difference) -> str:
    return (
        f"{100 * d.ours:.2f} against {100 * d.theirs:.2f}, {100 * d.difference:+.2f} "
        f"[{100 * d.low:+.2f}, {100 * d.high:+.2f}]; better in {d.better_share:.1%} of the resamples"
    )


def _add_groups(table: Table, evaluation: Evaluation, context: EvaluationContext) -> None:
    for nr, source in enumerate(evaluation.sources, start=1):
        cells = [source.name, _mark(source.language, context), source.domain]
        _add_row(table, cells, evaluation.by_source[source.name], nr == len(evaluation.sources))

    languages = evaluation.by_language
    domains = evaluation.by_domain

    # Groups of one source would say the same again.
    if len(languages) < len(evaluation.sources):
        names: Mapping[str, str] = {name: _mark(name, context) for name in languages}
        _add_section(table, languages, [["", shown, ""] for shown in names.values()])

    if 1 < len(domains) < len(evaluation.sources):
        _add_section(table, domains, [["", "", name] for name in domains])


def _add_section(
    table: Table, groups: Mapping[str, Scores], cells: Sequence[Sequence[str]]
) -> None:
    for nr, (scores, titles) in enumerate(zip(groups.values(), cells), start=1):
        _add_row(table, titles, scores, nr == len(groups))


def _add_averages(table: Table, evaluation: Evaluation) -> None:
    _add_row(table, ["micro average", "", ""], evaluation.micro, False)

    for title, average in (
        (f"macro, {evaluation.macro_languages.num_groups} languages", evaluation.macro_languages),
        (f"macro, {evaluation.macro_sources.num_groups} sources", evaluation.macro_sources),
    ):
        _add_average(table, title, average)

    for kind, groups in (("language", evaluation.by_language), ("source", evaluation.by_source)):
        name, _ = find_worst(groups, "char")
        _add_row(table, [f"worst {kind}: {name}", "", ""], groups[name], False)


def _add_row(table: Table, titles: Sequence[str], scores: Scores, end_section: bool) -> None:
    cells = [
        *titles,
        f"{scores.num_utterances:,}",
        f"{scores.audio_s / 60:.1f}",
        f"{scores.words.num_reference:,}",
        *_show_rate(scores.wer),
        *_show_rate(scores.cer),
        *_show_kinds(scores.chars),
        f"{100 * scores.empty_share:.1f}",
    ]

    table.add_row(*map(Text, cells), end_section=end_section)


def _add_average(table: Table, title: str, average: Average) -> None:
    cells = [title, "", "", "", "", "", *_show_rate(average.wer), *_show_rate(average.cer)]

    table.add_row(*map(Text, cells))


def _show_rate(rate: Rate) -> tuple[str, str]:
    if rate.low is None or rate.high is None:
        return f"{100 * rate.value:.1f}", ""

    return f"{100 * rate.value:.1f}", f"{100 * rate.low:.1f}-{100 * rate.high:.1f}"


def _show_kinds(counts: ErrorCounts) -> list[str]:
    kinds = (counts.substitutions, counts.deletions, counts.insertions)

    return [f"{100 * kind / counts.num_reference:.1f}" for kind in kinds]


def _show_confusion(confusion: Confusion) -> str:
    parts = [confusion.reference, confusion.hypothesis]

    return f"{'→'.join(filter(None, parts)).replace(' ', _SPACE)} {confusion.count}"


def _mark(language: str, context: EvaluationContext) -> str:
    return language if language in context.trained_on else f"{language}*"
