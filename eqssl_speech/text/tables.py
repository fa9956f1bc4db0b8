"""Tables of text that stay narrow where columns are many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.cells import cell_len

_GAP: Final = "  "


def render_table(rows: Sequence[Sequence[str]], *, title: str, left: Sequence[str]) -> str:
    """Lay rows out as a table whose lines are never broken, so that they can be searched and cut.

    :param rows: The titles of the columns, and the rows.
    :param title: Stands above the table.
    :param left: The titles of the columns that hold words; numbers are aligned to the right.
    :returns: Text of several lines.
    """
    widths = [max(map(cell_len, column)) for column in zip(*rows)]
    is_left = [name in left for name in rows[0]]

    def render(row: Sequence[str]) -> str:
        cells = [
            cell + _pad(cell, width) if words else _pad(cell, width) + cell
            for cell, width, words in zip(row, widths, is_left)
        ]
        return _GAP.join(cells).rstrip()

    rule = "─" * (sum(widths) + len(_GAP) * (len(widths) - 1))

    return "\n".join([title, rule, render(rows[0]), rule, *map(render, rows[1:]), rule])


def _pad(cell: str, width: int) -> str:
    # In terminal columns, which are two for some characters and none for others.
    return " " * (width - cell_len(cell))
