"""Turns a summary into tables, one row per data source, and a comparison into a sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from eqssl_speech.report.runs import CONVENTIONAL_RUN, EQUILIBRIUM_RUN
from eqssl_speech.report.summary import Measures, RunSummary, Summary

_ACCURACY = "accuracy\n%"

_MAJORITY = "commonest\nlabel %"

_COLUMNS = (
    "plain\nloss",
    "below\nchance",
    "adapted\nloss",
    "adaptation\ngain",
    _ACCURACY,
    "codes\nused %",
    "hours\nseen",
    "utterances\nseen",
)


def build_tables(summary: Summary) -> list[Table]:
    """Return one table per run: each source, the macro average and the worst source, in bits."""
    return [_build_table(name, run) for name, run in summary.runs.items()]


def _build_table(name: str, run: RunSummary) -> Table:
    chance = _format(run.macro.chance, ".3f")

    table = Table(
        title=Text(f"{name}, step {run.step}: validation losses in bits, chance is {chance}"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
    )

    labelled = any(run.labels.values())
    predicts_labels = run.macro.majority_share is not None

    table.add_column("source", overflow="fold")
    if labelled:
        table.add_column("language,\ndomain", overflow="fold")
    for column in _COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)

        if column == _ACCURACY and predicts_labels:
            table.add_column(_MAJORITY, justify="right", no_wrap=True)

    rows = [(source, run.labels.get(source, ""), m) for source, m in run.sources.items()]
    rows.append(("macro average", "", run.macro))
    rows.append((f"worst: {run.worst_source}", "", run.sources[run.worst_source]))

    for nr, (title, label, measures) in enumerate(rows, start=1):
        cells = [title, *([label] if labelled else []), *_format_row(measures, predicts_labels)]

        table.add_row(*map(Text, cells), end_section=nr == len(run.sources))

    return table


def _format_row(measures: Measures, predicts_labels: bool) -> Sequence[str]:
    majority = [_format(measures.majority_share, ".1f", scale=100)] if predicts_labels else []

    return (
        _format(measures.plain_loss, ".3f"),
        _format(measures.below_chance, ".3f"),
        _format(measures.adapted_loss, ".3f"),
        _format(measures.adaptation_gain, "+.3f"),
        _format(measures.accuracy, ".1f", scale=100),
        *majority,
        _format(measures.code_share, ".1f", scale=100),
        _format(measures.hours, ".2f"),
        _format(measures.utterances, ",d"),
    )


def _format(value: float | None, spec: str, *, scale: int = 1) -> str:
    return "-" if value is None else format(value * scale, spec)


_TROUBLES = {
    "non_finite": "{} with a number that is not finite",
    "exploded": "{} whose inner steps exploded",
    "dead": "{} of which nothing could be read",
}


def describe_troubles(summary: Summary) -> list[str]:
    """Return a sentence for each source of each run in whose training something went wrong."""
    sentences = []

    for name, run in summary.runs.items():
        found = {source: _list_troubles(measures) for source, measures in run.sources.items()}

        if not any(found.values()):
            # A run that mixes the sources does not know of which one it was.
            found = {"all sources": _list_troubles(run.macro)}

        sentences += [f"{name}, {s}: {'; '.join(parts)}." for s, parts in found.items() if parts]

    return sentences


def _list_troubles(measures: Measures) -> list[str]:
    lost = [
        text.format(getattr(measures, key))
        for key, text in _TROUBLES.items()
        if getattr(measures, key) > 0
    ]
    parts = [f"episodes that contributed nothing: {', '.join(lost)}"] if lost else []

    if measures.bad_recordings > 0:
        parts.append(f"recordings that could not be read: {measures.bad_recordings}")

    return parts


def verdict(summary: Summary) -> str | None:
    """Return one sentence that compares the equilibrium run with the conventional one.

    It names what both cost, since a comparison at unequal cost says little of the method.

    :returns: The sentence, or ``None`` without both runs.
    """
    comparison = summary.comparison
    if comparison is None:
        return None

    ours, theirs = summary.runs[EQUILIBRIUM_RUN], summary.runs[CONVENTIONAL_RUN]

    difference = comparison.macro_plain_loss_difference
    if not math.isfinite(difference):
        return "The two runs cannot be compared, as a loss at theta is not a number."

    direction = "above" if difference > 0 else "below"
    better = sum(d < 0 for d in comparison.sources.values())

    return (
        f"Equilibrium's loss at theta, averaged over {len(comparison.sources)} sources, is "
        f"{abs(difference):.3f} bits {direction} conventional's and lower for {better} of them, "
        f"after {ours.step} and {theirs.step} updates and {_describe_cost(comparison.hours_ratio)}."
    )


def _describe_cost(hours_ratio: float | None) -> str:
    if hours_ratio is None:
        return "an amount of audio that was not recorded for both"

    return f"{hours_ratio:.2f} times the hours of audio"
