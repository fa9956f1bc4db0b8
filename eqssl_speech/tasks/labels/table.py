"""The tables that `eqssl labels` prints: the labels of each source and, where they are known, its phones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from eqssl_speech.labels.quality import LabelMeasures, PhoneMeasures
from eqssl_speech.tasks.labels.report import LabelReport
from eqssl_speech.text.tables import render_table

_SOURCE: Final = "source"

_COLUMNS: Final = (
    _SOURCE,
    "utterances",
    "hours",
    "left\nout",
    "codes\nused",
    "entropy\nbits",
    "perplexity",
    "commonest\nlabel %",
    "run\nms",
    "distance",
)

_PHONE_COLUMNS: Final = (
    _SOURCE,
    "phones",
    "labels\nin phones",
    "phone\npurity %",
    "cluster\npurity %",
    "PNMI",
)


def render_report(report: LabelReport) -> str:
    """Lay out how good labels are.

    :param report: The measures.
    :returns: A table of the labels and, if phones are known of any source, one of those; lines are no longer than 100
        columns where the names of sources are no longer than 10.
    """
    left_out = Counter(x.source for x in report.left_out)

    measured = [(name, measures, left_out[name]) for name, measures in report.sources.items()]
    if len(measured) > 1:
        measured.append(("all", report.all, left_out.total()))

    rows = [[name, *_format(measures, count)] for name, measures, count in measured]
    title = f"labels of {report.features}, {report.frame_rate:g} a second"
    tables = [_render(_COLUMNS, rows, title)]

    phones = [
        [name, *_format_phones(measures.phones)]
        for name, measures, _ in measured
        if measures.phones is not None
    ]
    if phones:
        tables.append(_render(_PHONE_COLUMNS, phones, "what they tell of phones"))

    return "\n\n".join(tables)


def _render(titles: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> str:
    heads = [name.partition("\n") for name in titles]
    upper, lower = [head[0] for head in heads], [head[2] for head in heads]

    lines = render_table([upper, lower, *rows], title=title, left=(_SOURCE,)).split("\n")

    # The rule goes below both lines of titles.
    lines[3], lines[4] = lines[4], lines[3]

    return "\n".join(lines)


def _format(measures: LabelMeasures, num_left_out: int) -> list[str]:
    return [
        f"{measures.num_utterances}",
        f"{measures.hours:.2f}",
        f"{num_left_out}",
        f"{measures.num_used}/{measures.num_codes}",
        f"{measures.entropy_bits:.2f}",
        f"{measures.perplexity:.1f}",
        f"{100 * measures.top_share:.1f}",
        f"{measures.mean_run_ms:.0f}",
        f"{measures.distance:.4g}",
    ]


def _format_phones(phones: PhoneMeasures) -> list[str]:
    return [
        f"{phones.num_phones}",
        f"{phones.num_labels}",
        f"{100 * phones.phone_purity:.1f}",
        f"{100 * phones.cluster_purity:.1f}",
        f"{phones.pnmi:.3f}",
    ]
