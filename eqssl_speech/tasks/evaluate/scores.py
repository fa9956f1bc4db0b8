"""Error rates of utterances, of groups of them, and on average over groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, final

from eqssl_speech.data.corpus import DataSource
from eqssl_speech.decoding.error_rates import (
    Confusion,
    ErrorCounts,
    Unit,
    bootstrap_interval,
    bootstrap_macro_interval,
    confusions,
    count_errors,
    macro_rate,
    sum_counts,
)
from eqssl_speech.tasks.evaluate.references import LeftOut

LEVEL: Final = 0.95
"""The share of the resamples that an interval holds."""

UNITS: Final[tuple[Unit, ...]] = ("word", "char")
"""What errors are counted in: WER and CER."""


@final
@dataclass(frozen=True)
class ScoredUtterance:
    """One utterance: what was said, what was recognised, and how they differ."""

    id: str
    """Unique in its source."""

    source: str
    """The name of its source."""

    duration_s: float
    """Its length, in seconds."""

    reference: str
    """What was said, normalised."""

    hypothesis: str
    """What was recognised."""

    words: ErrorCounts
    """The errors in words."""

    chars: ErrorCounts
    """The errors in characters."""

    def count(self, unit: Unit) -> ErrorCounts:
        """Return the errors in words or in characters."""
        return self.words if unit == "word" else self.chars

    @staticmethod
    def score(
        id: str, source: str, duration_s: float, reference: str, hypothesis: str
    ) -> ScoredUtterance:
        """Count the errors of an utterance."""
        return ScoredUtterance(
            id,
            source,
            duration_s,
            reference,
            hypothesis,
            words=count_errors(reference, hypothesis, "word"),
            chars=count_errors(reference, hypothesis, "char"),
        )


@final
@dataclass(frozen=True)
class Rate:
    """An error rate and how much it would vary with other utterances of the same kind."""

    value: float
    """Errors per label of the reference: 0 or more, and above 1 where much is inserted."""

    low: float | None
    """The lower end of the bootstrap interval; ``None`` where there are too few utterances to draw from."""

    high: float | None
    """Its upper end."""


@final
@dataclass(frozen=True)
class Scores:
    """The errors of a group of utterances."""

    num_utterances: int

    audio_s: float
    """The length of the utterances together, in seconds."""

    num_empty: int
    """The utterances in which nothing was recognised."""

    words: ErrorCounts
    """The errors in words, summed."""

    chars: ErrorCounts
    """The errors in characters, summed."""

    wer: Rate
    """The word error rate."""

    cer: Rate
    """The character error rate."""

    @property
    def empty_share(self) -> float:
        """The share of utterances in which nothing was recognised."""
        return self.num_empty / self.num_utterances


@final
@dataclass(frozen=True)
class Average:
    """Error rates averaged over groups, each with the same weight."""

    num_groups: int
    wer: Rate
    cer: Rate


@final
@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """How intervals are estimated."""

    num_resamples: int = 1000
    """How often utterances are drawn anew; 1 or greater."""

    seed: int = 1
    """The same one gives the same intervals."""


@final
@dataclass(frozen=True)
class Evaluation:
    """The errors of a model on a corpus."""

    sources: tuple[DataSource, ...]
    """The sources that were evaluated."""

    utterances: tuple[ScoredUtterance, ...]
    """All utterances, source by source."""

    left_out: tuple[LeftOut, ...]
    """The utterances that could not be evaluated."""

    left_out_sources: dict[str, str]
    """The sources that could not be evaluated, and why."""

    by_source: dict[str, Scores]
    by_language: dict[str, Scores]
    by_domain: dict[str, Scores]

    micro: Scores
    """All utterances as one group."""

    macro_sources: Average
    """The mean over sources."""

    macro_languages: Average
    """The mean over languages."""

    bootstrap: Bootstrap

    def list_confusions(self, unit: Unit, language: str | None = None) -> list[Confusion]:
        """Count what was recognised as what, the most frequent first.

        :param unit: ``word`` or ``char``.
        :param language: Of one language only.
        """
        names = {s.name for s in self.sources if language in (None, s.language)}
        chosen = [u for u in self.utterances if u.source in names]

        return confusions([u.reference for u in chosen], [u.hypothesis for u in chosen], unit)


def evaluate(
    sources: Sequence[DataSource],
    utterances: Sequence[ScoredUtterance],
    left_out: Sequence[LeftOut],
    left_out_sources: dict[str, str],
    bootstrap: Bootstrap,
) -> Evaluation:
    """Sum errors up per source, language and domain, and average them.

    :param sources: The sources, each of which has an utterance.
    :param utterances: The utterances, at least one.
    :param left_out: The utterances that could not be evaluated.
    :param left_out_sources: The sources that could not be evaluated, and why.
    :param bootstrap: How intervals are estimated.
    """
    described = {source.name: source for source in sources}

    def group(key: Callable[[DataSource], str]) -> dict[str, list[ScoredUtterance]]:
        groups: dict[str, list[ScoredUtterance]] = {key(source): [] for source in sources}
        for utterance in utterances:
            groups[key(described[utterance.source])].append(utterance)

        return groups

    by_source = group(lambda source: source.name)
    by_language = group(lambda source: source.language)
    by_domain = group(lambda source: source.domain)

    return Evaluation(
        sources=tuple(sources),
        utterances=tuple(utterances),
        left_out=tuple(left_out),
        left_out_sources=dict(left_out_sources),
        by_source={k: _sum(v, bootstrap) for k, v in by_source.items()},
        by_language={k: _sum(v, bootstrap) for k, v in by_language.items()},
        by_domain={k: _sum(v, bootstrap) for k, v in by_domain.items()},
        micro=_sum(utterances, bootstrap),
        macro_sources=_average(list(by_source.values()), bootstrap),
        macro_languages=_average(list(by_language.values()), bootstrap),
        bootstrap=bootstrap,
    )


def _sum(utterances: Sequence[ScoredUtterance], bootstrap: Bootstrap) -> Scores:
    words, chars = (sum_counts(u.count(unit) for u in utterances) for unit in UNITS)

    def rate(unit: Unit, total: ErrorCounts) -> Rate:
        if len(utterances) < 2:
            return Rate(total.rate, None, None)

        low, high = bootstrap_interval(
            [u.count(unit) for u in utterances],
            num_resamples=bootstrap.num_resamples,
            level=LEVEL,
            seed=bootstrap.seed,
        )

        return Rate(total.rate, low, high)

    return Scores(
        num_utterances=len(utterances),
        audio_s=sum(u.duration_s for u in utterances),
        num_empty=sum(not u.hypothesis for u in utterances),
        words=words,
        chars=chars,
        wer=rate("word", words),
        cer=rate("char", chars),
    )


def _average(groups: Sequence[Sequence[ScoredUtterance]], bootstrap: Bootstrap) -> Average:
    def rate(unit: Unit) -> Rate:
        counts = [[u.count(unit) for u in group] for group in groups]

        value = macro_rate([sum_counts(group) for group in counts])
        if all(len(group) < 2 for group in counts):
            return Rate(value, None, None)

        low, high = bootstrap_macro_interval(
            counts, num_resamples=bootstrap.num_resamples, level=LEVEL, seed=bootstrap.seed
        )

        return Rate(value, low, high)

    return Average(len(groups), wer=rate("word"), cer=rate("char"))
