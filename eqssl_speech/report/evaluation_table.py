"""The table of an evaluation: error rates per source, language and domain, and on average."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, final

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from eqssl_speech.decoding.error_rates import Confusion, ErrorCounts
from eqssl_speech.report.evaluation import EvaluationContext, find_worst, split_confusions
from eqssl_speech.tasks.evaluate.comparison import Comparison, Difference
from eqssl_speech.tasks.evaluate.scores import LEVEL, UNITS, Average, Evaluation, Rate, Scores

_NUM_CONFUSIONS: Final = 10

_SPACE: Final = "␣"

_NUMBERS: Final = (
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
)

_WIDE_ONLY: Final = ("minutes", "words", "empty")

_LEFT_OUT: Final = "A wider terminal, or a file, has columns of languages, domains, minutes, words and `empty` too."

# Of a terminal in which any table fits.
_AMPLE_WIDTH: Final = 1000


@final
@dataclass(frozen=True)
class _Row:
    titles: tuple[str, str, str]
    """Of a source: its name, language and domain. Of a group: its language or its domain. Of an average: its name."""

    numbers: tuple[str, ...]
    """A cell for each of :data:`_NUMBERS`."""

    ends_section: bool = False


def build_table(
    evaluation: Evaluation, context: EvaluationContext, *, narrow: bool = False
) -> Table:
    """Return the table: sources, then languages and domains, then averages, in per cent.

    :param evaluation: The errors.
    :param context: What was evaluated, and how.
    :param narrow: Whether columns are left out, so that it fits 80 columns unless names are long.
    """
    caption = f"In per cent, with {LEVEL:.0%} bootstrap intervals; sub, del and ins are of the reference's characters."
    if any(name not in context.trained_on for name in evaluation.by_language):
        caption += " * no fine-tuning in this language."
    if narrow:
        caption += f" {_LEFT_OUT}"

    table = Table(
        title=Text(f"{context.model} on {context.corpus}, {context.split}; {context.decoding}"),
        title_justify="left",
        caption=Text(caption),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )

    for column in ("",) if narrow else ("", "language", "domain"):
        table.add_column(column, overflow="fold", no_wrap=not narrow)
    for column in _NUMBERS:
        if not narrow or column not in _WIDE_ONLY:
            table.add_column(column, justify="right", no_wrap=True)

    for row in [*_list_groups(evaluation, context), *_list_averages(evaluation)]:
        cells = _narrow(row) if narrow else [*row.titles, *row.numbers]
        table.add_row(*map(Text, cells), end_section=row.ends_section)

    return table


def measure_table(table: Table, console: Console) -> Measurement:
    """Return the columns of a terminal that a table needs.

    :param table: What :func:`build_table` returned.
    :param console: Where it is printed.
    :returns: At the least, with its titles broken between words; and with every row on one line.
    """
    return console.measure(table, options=console.options.update(width=_AMPLE_WIDTH))


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


def _list_groups(evaluation: Evaluation, context: EvaluationContext) -> list[_Row]:
    rows = []

    for source in evaluation.sources:
        titles = (source.name, _mark(source.language, context), source.domain)
        rows.append(_make_row(titles, evaluation.by_source[source.name]))

    sections = [rows]
    languages, domains = evaluation.by_language, evaluation.by_domain

    # Groups of one source would say the same again.
    if len(languages) < len(evaluation.sources):
        sections.append([_make_row(("", _mark(n, context), ""), s) for n, s in languages.items()])

    if 1 < len(domains) < len(evaluation.sources):
        sections.append([_make_row(("", "", name), scores) for name, scores in domains.items()])

    return [
        replace(row, ends_section=row is section[-1]) for section in sections for row in section
    ]


def _list_averages(evaluation: Evaluation) -> list[_Row]:
    rows = [_make_row(("micro average", "", ""), evaluation.micro)]

    # That of one is its own row.
    for kind, average in (
        ("languages", evaluation.macro_languages),
        ("sources", evaluation.macro_sources),
    ):
        if average.num_groups > 1:
            rows.append(_make_average(f"macro, {average.num_groups} {kind}", average))

    for kind, groups in (("language", evaluation.by_language), ("source", evaluation.by_source)):
        name, _ = find_worst(groups, "char")
        rows.append(_make_row((f"worst {kind}: {name}", "", ""), groups[name]))

    return rows


def _make_row(titles: tuple[str, str, str], scores: Scores) -> _Row:
    return _Row(
        titles,
        (
            f"{scores.num_utterances:,}",
            f"{scores.audio_s / 60:.1f}",
            f"{scores.words.num_reference:,}",
            *_show_rate(scores.wer),
            *_show_rate(scores.cer),
            *_show_kinds(scores.chars),
            f"{100 * scores.empty_share:.1f}",
        ),
    )


def _make_average(title: str, average: Average) -> _Row:
    rates = (*_show_rate(average.wer), *_show_rate(average.cer))

    return _Row((title, "", ""), ("", "", "", *rates, "", "", "", ""))


def _narrow(row: _Row) -> list[str]:
    source, language, domain = row.titles

    if source:
        title = source + ("*" if language.endswith("*") else "")
    else:
        title = f"language: {language}" if language else f"domain: {domain}"

    return [title, *(x for x, name in zip(row.numbers, _NUMBERS) if name not in _WIDE_ONLY)]


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
