"""A table, and how numbers are shown in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

from eqssl_speech.study.statistics import MIN_NUM_SEEDS

STUDENT: Final = (
    "in brackets the 95 % interval of its mean over seeds, by Student's t; * marks intervals without 0, of at least "
    f"{MIN_NUM_SEEDS} seeds."
)
"""How differences of losses are to be read."""


@final
@dataclass(frozen=True)
class Table:
    """A table."""

    title: str

    note: str
    """What the numbers are."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def count_seeds(numbers: Iterable[int]) -> str:
    """Show of how many seeds the cells of a row are."""
    counts = sorted(set(numbers))
    if not counts:
        return ""

    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]}-{counts[-1]}"


def show_interval(rate: Mapping[str, float] | None) -> str:
    """Show a rate and its interval, in percent."""
    if rate is None:
        return ""

    return f"{100 * rate['value']:.1f} ({100 * rate['low']:.1f} to {100 * rate['high']:.1f})"


def show_difference(rate: Mapping[str, Any] | None, digits: int = 1, scale: float = 100.0) -> str:
    """Show a difference and, if there is one, its interval; a rate's in points.

    :param rate: An :class:`~eqssl_speech.study.statistics.Estimate` as JSON.
    :param digits: How many follow the point.
    :param scale: What it is multiplied by.
    """
    if rate is None:
        return ""

    mark = "*" if rate["is_certain"] else ""

    if rate["num_seeds"] < 2 and rate["low"] == rate["high"]:
        return f"{scale * rate['value']:+.{digits}f}"

    value, low, high = (scale * rate[key] for key in ("value", "low", "high"))

    return f"{value:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f}){mark}"


def show_spread(spread: Mapping[str, Any] | None, digits: int, scale: float = 1.0) -> str:
    """Show a mean and standard deviation of seeds, or that there is none as runs have diverged.

    :param spread: What :func:`~eqssl_speech.study.statistics.summarize` returns.
    :param digits: How many follow the point.
    :param scale: What it is multiplied by.
    """
    if spread is None:
        return ""

    if spread["mean"] is None:
        return f"diverged in {spread['num_infinite']} of {spread['num']}"

    sd = "" if spread["sd"] is None else f" ± {scale * spread['sd']:.{digits}f}"

    return f"{scale * spread['mean']:.{digits}f}{sd}"
