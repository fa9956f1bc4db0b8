"""What the ``eqssl`` command shows: progress bars and tables."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from eqssl_speech.data.corpora.report import PrepareReport
from eqssl_speech.report.sources import SourceRow, render_sources
from eqssl_speech.tasks.check import CorpusCheck

_WIDTH_OF_A_FILE = 140


@contextmanager
def show_progress() -> Iterator[Progress]:
    """Show progress bars with the time left, on the error stream so that tables can be piped."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )

    with progress:
        yield progress


def track_phases(progress: Progress) -> Callable[[str, int, int], None]:
    """Give each phase of the work a bar of its own.

    :param progress: Where the bars are shown.
    :returns: A function of the phase, how much of it is done, and how much there is in all.
    """
    bars: dict[str, TaskID] = {}

    def update(phase: str, done: int, total: int) -> None:
        if phase not in bars:
            bars[phase] = progress.add_task(phase, total=total)

        progress.update(bars[phase], completed=done, total=total)

    return update


def print_prepared(report: PrepareReport) -> None:
    """Print what the preparation of a corpus made, and what it left out and why."""
    _print_table(report.table(), num_left=4)

    for source in report.sources:
        for bad in source.bad:
            print(f"left out ({bad.reason}): {bad.message}")

    for name, reason in report.left_out_sources.items():
        print(f"left out: {name}: {reason}")

    print(f"Written: {report.directory}")


def print_checked(check: CorpusCheck, sources: Sequence[SourceRow]) -> None:
    """Print what was found in a corpus: its sources, their splits, every bad file, and why a source is unusable.

    :param check: What was found.
    :param sources: The rows of the table that a run begins with.
    """
    print(render_sources(sources))

    rows = [["source", "split", "minutes", "good", "bad", "why"]]

    for report in check.reports:
        reasons = ", ".join(f"{n} {reason}" for reason, n in report.num_bad_by_reason.items())
        counts = [f"{report.duration_s / 60:.1f}", str(report.num_good), str(report.num_bad)]

        rows.append([report.source, report.split, *counts, reasons])

    _print_table(rows, num_left=2)

    for report in check.reports:
        for bad in report.bad:
            print(f"{report.manifest_file}:{bad.line}: {bad.reason}: {bad.message}")

    for sentence in check.unusable:
        print(f"eqssl: {sentence}", file=sys.stderr)


def _print_table(rows: list[list[str]], *, num_left: int) -> None:
    table = Table()

    for index, title in enumerate(rows[0]):
        is_text = index < num_left or title in ("why", "left out")
        table.add_column(title, justify="left" if is_text else "right", no_wrap=index == 0)

    for row in rows[1:]:
        table.add_row(*row)

    Console(width=None if sys.stdout.isatty() else _WIDTH_OF_A_FILE, markup=False).print(table)
