"""Word and character error rates: counts per utterance, their sums, their intervals, and what is confused.

The minimal edits come from RapidFuzz, the library beneath jiwer, so that the counts are those that jiwer reports.

Words are what white space separates. Characters are Unicode code points, one space between words included, which is
how jiwer and the field count; a letter with a combining mark that NFC does not compose is hence two characters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, cast, final

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import Levenshtein

Unit: TypeAlias = Literal["word", "char"]
"""What an error rate counts."""

_NUM_DRAWS_AT_ONCE: Final = 1 << 22
"""How many drawn utterances are held at a time; 32 MiB of numbers."""


@final
@dataclass(frozen=True)
class ErrorCounts:
    """The edits that turn a reference into a hypothesis, and the labels that need none."""

    substitutions: int = 0
    """Labels of the reference that the hypothesis has another one for."""

    deletions: int = 0
    """Labels of the reference that the hypothesis lacks."""

    insertions: int = 0
    """Labels of the hypothesis that the reference lacks."""

    hits: int = 0
    """Labels that are right."""

    @property
    def num_reference(self) -> int:
        """The labels of the reference."""
        return self.hits + self.substitutions + self.deletions

    @property
    def num_hypothesis(self) -> int:
        """The labels of the hypothesis."""
        return self.hits + self.substitutions + self.insertions

    @property
    def num_errors(self) -> int:
        """The edits, all kinds together."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """The edits per label of the reference: 0 or more, and above 1 where much is inserted.

        Without a label in the reference, it is 0 if nothing was inserted and infinite otherwise.
        """
        return _to_rates(np.array(self.num_errors), np.array(self.num_reference)).item()

    def __add__(self, other: ErrorCounts) -> ErrorCounts:
        return ErrorCounts(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.hits + other.hits,
        )


@final
@dataclass(frozen=True)
class Confusion:
    """Something that is recognised as something else."""

    reference: str
    """What was said; empty for an insertion."""

    hypothesis: str
    """What was recognised; empty for a deletion."""

    count: int
    """How often."""


def split_units(text: str, unit: Unit) -> list[str]:
    """Split a text into what an error rate counts.

    :param text: The text; white space at its ends, and more than one character of it between words, does not count.
    :param unit: ``word`` or ``char``.
    :returns: The words, or the characters with one space between words.
    """
    words = text.split()

    return words if unit == "word" else list(" ".join(words))


def count_errors(reference: str, hypothesis: str, unit: Unit) -> ErrorCounts:
    """Count the edits of one utterance.

    Where several sets of edits are minimal, the kinds are those of the one that RapidFuzz finds.

    :param reference: What was said, normalised; if empty, all of the hypothesis is inserted.
    :param hypothesis: What was recognised; if empty, all of the reference is deleted.
    :param unit: ``word`` or ``char``.
    :returns: The counts.
    """
    edits = _find_edits(reference, hypothesis, unit)

    inserted = sum(1 for said, _ in edits if not said)
    deleted = sum(1 for _, recognised in edits if not recognised)
    replaced = len(edits) - inserted - deleted

    num_hits = len(split_units(reference, unit)) - replaced - deleted

    return ErrorCounts(replaced, deleted, inserted, num_hits)


def sum_counts(counts: Iterable[ErrorCounts]) -> ErrorCounts:
    """Add counts up, over utterances or sources; the rate of the sum is the micro average.

    :param counts: The counts; none of them gives zeros.
    :returns: Their sum.
    """
    return sum(counts, start=ErrorCounts())


def macro_rate(counts: Sequence[ErrorCounts]) -> float:
    """Average the rates of sources, each with the same weight.

    :param counts: The counts of each source, at least one.
    :returns: The mean of their rates; infinite if one of them is.
    :raises ValueError: If there is no source.
    """
    if not counts:
        raise ValueError("`counts` must hold the counts of at least one source, but is empty.")

    return float(np.mean([c.rate for c in counts]))


def confusions(
    references: Iterable[str],
    hypotheses: Iterable[str],
    unit: Unit,
    *,
    num_most: int | None = None,
) -> list[Confusion]:
    """Count what is recognised as what.

    :param references: What was said, an utterance each.
    :param hypotheses: What was recognised, in the same order.
    :param unit: ``word`` or ``char``.
    :param num_most: How many pairs to return at most; ``None`` for all.
    :returns: Substitutions, insertions and deletions, the most frequent first and equally frequent ones by their text.
    :raises ValueError: If there is not one hypothesis per reference.
    """
    counts = Counter(
        edit
        for reference, hypothesis in zip(references, hypotheses, strict=True)
        for edit in _find_edits(reference, hypothesis, unit)
    )

    # `Counter.most_common` would leave ties in the order of the utterances.
    pairs = sorted(counts.items(), key=lambda item: (-item[1], item[0]))

    return [Confusion(said, recognised, n) for (said, recognised), n in pairs[:num_most]]


def bootstrap_interval(
    counts: Sequence[ErrorCounts],
    *,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Estimate how much an error rate would vary with other utterances of the same kind.

    The utterances are drawn anew with replacement, and the rate of their sum is taken each time (Bisani and Ney 2004,
    "Bootstrap estimates for confidence intervals in ASR performance evaluation"). It takes utterances as independent;
    where one speaker reads them all, other speakers vary more than it says.

    :param counts: The counts of each utterance.
    :param num_resamples: How often to draw.
    :param level: The share of the draws that the interval holds, in (0, 1).
    :param seed: The seed of the draws: the same one gives the same interval.
    :returns: The ends of the percentile interval; (0, 0) without utterances.
    :raises ValueError: If an option is out of its range.
    """
    return bootstrap_macro_interval([counts], num_resamples=num_resamples, level=level, seed=seed)


def bootstrap_macro_interval(
    groups: Sequence[Sequence[ErrorCounts]],
    *,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Estimate how much the macro average over sources would vary with other utterances of the same sources.

    :param groups: The counts of each utterance, per source; the utterances of a source are drawn among themselves.
    :param num_resamples: How often to draw.
    :param level: The share of the draws that the interval holds, in (0, 1).
    :param seed: The seed of the draws: the same one gives the same interval.
    :returns: The ends of the percentile interval of the mean of the sources' rates.
    :raises ValueError: If there is no source, or an option is out of its range.
    """
    if not groups:
        raise ValueError("`groups` must hold the counts of at least one source, but is empty.")
    if num_resamples < 1:
        raise ValueError(f"`num_resamples` must be at least 1, but is {num_resamples} instead.")
    if not 0.0 < level < 1.0:
        raise ValueError(f"`level` must be between 0 and 1, but is {level} instead.")

    generator = np.random.default_rng(seed)

    rates = np.mean([_resample(group, num_resamples, generator) for group in groups], axis=0)

    # Ends that were drawn: between a finite and an infinite rate there is nothing to interpolate.
    low = np.quantile(rates, (1.0 - level) / 2.0, method="lower")
    high = np.quantile(rates, (1.0 + level) / 2.0, method="higher")

    return float(low), float(high)


def _resample(
    counts: Sequence[ErrorCounts], num_resamples: int, generator: np.random.Generator
) -> npt.NDArray[np.float64]:
    # Returns (R,), the rate of each draw of as many utterances as there are.
    num_utterances = len(counts)
    if num_utterances == 0:
        return np.zeros(num_resamples)

    # (U, 2)
    pairs = np.array([(c.num_errors, c.num_reference) for c in counts])

    sums = np.empty((num_resamples, 2), dtype=np.int64)

    num_at_once = max(1, _NUM_DRAWS_AT_ONCE // num_utterances)

    for begin in range(0, num_resamples, num_at_once):
        end = min(begin + num_at_once, num_resamples)
        drawn = generator.integers(num_utterances, size=(end - begin, num_utterances))
        # (R, U, 2) -> (R, 2)
        sums[begin:end] = pairs[drawn].sum(axis=1)

    return _to_rates(sums[:, 0], sums[:, 1])


def _to_rates(
    num_errors: npt.NDArray[np.int64], num_reference: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    without_reference = np.where(num_errors > 0, np.inf, 0.0)

    return np.where(num_reference > 0, num_errors / np.maximum(num_reference, 1), without_reference)


def _find_edits(reference: str, hypothesis: str, unit: Unit) -> list[tuple[str, str]]:
    # What was said and what was recognised, for each edit; empty where there is nothing.
    said, recognised = split_units(reference, unit), split_units(hypothesis, unit)

    # Its stubs say `Editop`, but what comes are tuples.
    edits = cast("list[tuple[str, int, int]]", Levenshtein.editops(said, recognised).as_list())

    return [
        ("" if kind == "insert" else said[i], "" if kind == "delete" else recognised[j])
        for kind, i, j in edits
    ]
