"""The tables of `eqssl labels` are narrow, and say what was measured of which source."""

from __future__ import annotations

from dataclasses import replace

from rich.cells import cell_len

from eqssl_speech.labels.quality import LabelMeasures, PhoneMeasures
from eqssl_speech.tasks.labels.report import LabelReport, LeftOutLine
from eqssl_speech.tasks.labels.table import render_report

PHONES = PhoneMeasures(
    num_phones=123, num_labels=12_345_678, phone_purity=0.5, cluster_purity=0.25, pnmi=0.375
)

LARGE = LabelMeasures(
    num_utterances=10_000_000,
    num_labels=4_444_444_444,
    hours=12_345.678,
    num_codes=2000,
    num_used=1999,
    entropy_bits=10.9,
    perplexity=1910.8,
    top_share=0.1234,
    mean_run_ms=987.0,
    distance=12345.6,
    phones=PHONES,
)


def make_report(*, phones: PhoneMeasures | None = PHONES) -> LabelReport:
    """Two sources, one of which bears the name of the sum and has no phones."""
    left_out = [LeftOutLine("festvox-ru", "train", n, "x.wav", "missing") for n in range(3)]
    left_out.append(LeftOutLine("all", "train", 2, "x.wav", "missing"))

    return LabelReport(
        "MFCCs",
        100.0,
        {"festvox-ru": replace(LARGE, phones=phones), "all": replace(LARGE, phones=None)},
        {},
        replace(LARGE, phones=phones),
        tuple(left_out),
    )


def test_lines_are_no_longer_than_100_columns() -> None:
    lines = render_report(make_report()).split("\n")

    assert max(map(cell_len, lines)) <= 100
    assert "festvox-ru" in lines[5]


def test_the_titles_stand_above_their_columns_between_two_rules() -> None:
    labels, phones = render_report(make_report()).split("\n\n")

    for table, title in (
        (labels, "labels of MFCCs, 100 a second"),
        (phones, "what they tell of phones"),
    ):
        lines = table.split("\n")

        assert lines[0] == title
        assert [n for n, line in enumerate(lines) if set(line) == {"─"}] == [1, 4, len(lines) - 1]

    upper, lower, row = (labels.split("\n")[n] for n in (2, 3, 5))
    # Numbers end where their titles do.
    for words, number in (
        (("left", "out"), " 3"),
        (("codes", "used"), "1999/2000"),
        (("entropy", "bits"), "10.90"),
        (("commonest", "label %"), "12.3"),
        (("run", "ms"), " 987"),
    ):
        end = row.index(number) + len(number)

        assert upper[:end].endswith(words[0])
        assert lower[:end].endswith(words[1])


def test_what_was_left_out_is_counted_for_each_source_and_for_all() -> None:
    rows = render_report(make_report()).split("\n\n")[0].split("\n")[5:-1]

    assert [row.split()[0] for row in rows] == ["festvox-ru", "all", "all"]
    assert [row.split()[3] for row in rows] == ["3", "1", "4"]


def test_phones_have_rows_where_they_are_known() -> None:
    phones = render_report(make_report()).split("\n\n")[1]
    rows = [line.split() for line in phones.split("\n")[5:-1]]

    numbers = ["123", "12345678", "50.0", "25.0", "0.375"]
    assert rows == [["festvox-ru", *numbers], ["all", *numbers]]

    assert "phones" not in render_report(make_report(phones=None))
