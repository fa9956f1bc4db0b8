"""Two models on the same utterances: how much their error rates differ, and whether by chance.

The utterances are drawn anew within each source, the same ones for both models, so that what is hard for both cancels
out: the interval of the difference is narrower than the intervals of the two suggest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias, final
from zlib import crc32

import numpy as np
import numpy.typing as npt

from eqssl_speech.data.corpus import DataSource
from eqssl_speech.error import InputError
from eqssl_speech.tasks.evaluate.scores import LEVEL, UNITS, Bootstrap, ScoredUtterance

Measure: TypeAlias = Literal["micro", "macro_sources", "macro_languages"]

_NUM_DRAWS_AT_ONCE: Final = 1 << 20


@final
@dataclass(frozen=True)
class Difference:
    """How an error rate of one model differs from that of another."""

    ours: float
    theirs: float

    difference: float
    """`ours` - `theirs`; below 0 ours is better."""

    low: float
    """The lower end of the bootstrap interval of the difference."""

    high: float
    """Its upper end."""

    better_share: float
    """The share of the resamples in which ours is better."""


@final
@dataclass(frozen=True)
class Comparison:
    """The differences between two models, on the utterances that both were evaluated on."""

    other: Path
    """The other evaluation."""

    num_utterances: int
    """The utterances that both have, with the same reference."""

    num_left_out: int
    """The utterances that only one has, or whose references differ."""

    wer: dict[Measure, Difference]
    cer: dict[Measure, Difference]


def compare(
    ours: Sequence[ScoredUtterance],
    theirs: Sequence[ScoredUtterance],
    sources: Sequence[DataSource],
    bootstrap: Bootstrap,
    other: Path,
) -> Comparison:
    """Compare two models.

    :param ours: The utterances of one.
    :param theirs: Those of the other.
    :param sources: The sources of ours.
    :param bootstrap: How often utterances are drawn, and the seed.
    :param other: Where the other is from.
    :raises InputError: If no utterance is common to both.
    """
    counterparts = {(u.source, u.id, u.reference): u for u in theirs}

    pairs = [
        (u, counterparts[key])
        for u in ours
        if (key := (u.source, u.id, u.reference)) in counterparts
    ]
    if not pairs:
        raise InputError(
            f"{other}: holds no utterance of this evaluation with the same reference; compare evaluations of the same "
            "split of the same corpus."
        )

    names = [s.name for s in sources if any(u.source == s.name for u, _ in pairs)]
    languages = {s.name: s.language for s in sources}

    # (S, R + 1, 2 units, 2 models, errors and labels)
    sums = np.stack([_draw([p for p in pairs if p[0].source == n], n, bootstrap) for n in names])

    groups = _group(names, languages)

    wer, cer = (
        {measure: _measure(sums[:, :, i], parts) for measure, parts in groups.items()}
        for i in range(len(UNITS))
    )

    num_left_out = len(ours) + len(theirs) - 2 * len(pairs)

    return Comparison(other, len(pairs), num_left_out, wer, cer)


def _group(names: Sequence[str], languages: dict[str, str]) -> dict[Measure, list[list[int]]]:
    by_language: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        by_language.setdefault(languages[name], []).append(index)

    return {
        "micro": [list(range(len(names)))],
        "macro_sources": [[index] for index in range(len(names))],
        "macro_languages": list(by_language.values()),
    }


def _draw(
    pairs: Sequence[tuple[ScoredUtterance, ScoredUtterance]], source: str, bootstrap: Bootstrap
) -> npt.NDArray[np.int64]:
    # (U, 2 units, 2 models, errors and labels)
    counts = np.array(
        [
            [[(u.count(unit).num_errors, u.count(unit).num_reference) for u in p] for unit in UNITS]
            for p in pairs
        ]
    )

    # A source's draws do not depend on which other sources there are.
    generator = np.random.default_rng([bootstrap.seed, crc32(source.encode())])

    num_at_once = max(1, _NUM_DRAWS_AT_ONCE // len(pairs))

    # The first is the utterances as they are.
    sums = [counts.sum(axis=0)[None]]

    for begin in range(0, bootstrap.num_resamples, num_at_once):
        size = min(num_at_once, bootstrap.num_resamples - begin)
        drawn = generator.integers(len(pairs), size=(size, len(pairs)))
        # How often each utterance was drawn: (R, U) x (U, 2, 2, 2) -> (R, 2, 2, 2)
        times = np.stack([np.bincount(row, minlength=len(pairs)) for row in drawn])
        sums.append(np.tensordot(times, counts, axes=1))

    return np.concatenate(sums)


def _measure(sums: npt.NDArray[np.int64], parts: Sequence[Sequence[int]]) -> Difference:
    # (S, R + 1, 2 models, errors and labels) -> (R + 1, 2 models)
    totals = [sums[list(part)].sum(axis=0) for part in parts]

    # References are never empty.
    rates = np.mean([t[..., 0] / t[..., 1] for t in totals], axis=0)

    differences = rates[:, 0] - rates[:, 1]
    drawn = differences[1:]

    low = np.quantile(drawn, (1.0 - LEVEL) / 2.0, method="lower")
    high = np.quantile(drawn, (1.0 + LEVEL) / 2.0, method="higher")

    return Difference(
        ours=float(rates[0, 0]),
        theirs=float(rates[0, 1]),
        difference=float(differences[0]),
        low=float(low),
        high=float(high),
        better_share=float(np.mean(drawn < 0)),
    )
