"""What happens again and again is logged now and then."""

from __future__ import annotations

from typing import Final

MAX_NUM_NAMED: Final = 20
"""The first so many are logged one by one."""


def is_worth_a_line(count: int) -> bool:
    """Say whether something is logged that happened for the ``count``-th time: the first 20 times, then the 50th,
    100th, 200th, 500th, 1000th, and so on.

    :param count: From 1.
    """
    return count <= MAX_NUM_NAMED or str(count).rstrip("0") in ("1", "2", "5")
