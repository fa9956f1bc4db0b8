"""The table of data sources that a run, and ``eqssl check``, begin with."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from eqssl_speech.report.output import write_atomically


@dataclass(frozen=True)
class SourceRow:
    """One source of a run."""

    name: str
    language: str
    domain: str
    licence: str

    hours: float
    """Hours of usable training audio."""

    utterances: int
    """The number of usable training utterances."""

    num_bad: int
    """The number of recordings, of all splits, that were left out."""

    share: float
    """The share of episodes that the source gets. *Range:* [0, 1]."""

    expected_passes: float | None
    """How often the run will go through the source's audio; ``None`` where no run is planned."""


def render_sources(rows: Sequence[SourceRow]) -> str:
    """Lay the sources out as a table.

    :returns: Text of several lines, without colour.
    """
    table = Table()

    for column in ("source", "language", "domain"):
        table.add_column(column, no_wrap=True)

    for column in ("hours", "utterances", "left out", "share", "passes"):
        table.add_column(column, justify="right")

    for row in rows:
        passes = "" if row.expected_passes is None else f"{row.expected_passes:.1f}"

        table.add_row(
            row.name,
            row.language,
            row.domain,
            f"{row.hours:.2f}",
            str(row.utterances),
            str(row.num_bad),
            f"{row.share:.1%}",
            passes,
        )

    stream = io.StringIO()

    Console(file=stream, width=110).print(table)

    return stream.getvalue().rstrip()


def write_source_rows(directory: Path, rows: Sequence[SourceRow]) -> None:
    """Write ``sources.json`` into a run directory, for the report."""
    text = json.dumps([asdict(row) for row in rows], indent=2) + "\n"

    write_atomically(directory / "sources.json", text.encode())
