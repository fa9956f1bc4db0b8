"""Tables of text, for the terminal."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text


def render_table(
    rows: Sequence[Sequence[str]], *, title: str, left: Sequence[str], width: int = 140
) -> str:
    """Lay rows out as a table.

    :param rows: The titles of the columns, and the rows.
    :param title: Stands above the table.
    :param left: The titles of the columns that hold words; numbers are aligned to the right.
    :param width: The most that a line may have, in characters.
    :returns: Text of several lines, without colour.
    """
    table = Table(title=Text(title), title_justify="left")

    for index, name in enumerate(rows[0]):
        # A name that is broken in two cannot be found, whereas a list of characters may go on.
        table.add_column(
            Text(name), justify="left" if name in left else "right", no_wrap=index == 0
        )

    for row in rows[1:]:
        table.add_row(*map(Text, row))

    stream = io.StringIO()

    Console(file=stream, width=width).print(table)

    return "\n".join(line.rstrip() for line in stream.getvalue().rstrip().split("\n"))
