"""The weights of beam search, chosen on speech that nothing was trained on: the validation split.

The weights of a coarse grid are tried first, and then those half a step around the best, with half the step again each
time. Every trial searches all utterances anew: scoring lists of hypotheses again would be faster, but blind to what
these lists lack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from time import perf_counter
from typing import Final, final

from torch import Tensor

from eqssl_speech.decoding.beam import BeamHypothesis, BeamSearch
from eqssl_speech.decoding.error_rates import ErrorCounts, count_errors, sum_counts

LM_WEIGHTS: Final = (0.0, 0.5, 1.0, 1.5, 2.0)
"""The grid of ``lm_weight``: all steps are the same."""

WORD_SCORES: Final = (-1.0, 0.0, 1.0, 2.0)
"""The grid of ``word_score``: all steps are the same."""

_NUM_NEIGHBOURS: Final = 8


@final
@dataclass(frozen=True)
class Trial:
    """What a search made of all utterances."""

    lm_weight: float
    """The weight of the n-gram."""

    word_score: float
    """What was added for each word."""

    words: ErrorCounts
    """The errors in words, over all utterances."""

    chars: ErrorCounts
    """The errors in characters, over all utterances."""

    duration_s: float
    """The time that the search took, in seconds."""


@final
@dataclass(frozen=True)
class Tuning:
    """The outcome of :func:`tune`."""

    best: Trial
    """The trial with the fewest errors in words; among equals, the one with the smallest weights."""

    trials: tuple[Trial, ...]
    """All trials, in their order."""

    best_path: Trial
    """What the best path gives, which has no weights."""

    def list_rows(self) -> list[list[str]]:
        """Return a table of all trials, the best one first; the first row has the titles."""
        rows = [["search", "lm_weight", "word_score", "WER", "CER", "seconds"]]
        rows.append(["greedy", "", "", *_show(self.best_path)])

        for trial in sorted(self.trials, key=_rank):
            weights = [f"{trial.lm_weight:g}", f"{trial.word_score:g}"]
            rows.append(["beam", *weights, *_show(trial)])

        return rows


def tune(
    search: BeamSearch,
    log_probs: Sequence[Tensor],
    references: Sequence[str],
    *,
    lm_weights: Sequence[float] = LM_WEIGHTS,
    word_scores: Sequence[float] = WORD_SCORES,
    num_refinements: int = 2,
    on_progress: Callable[[int, int], None] | None = None,
) -> Tuning:
    """Choose the weights of a search by its word error rate.

    :param search: The search, with an n-gram; its own weights do not matter.
    :param log_probs: The log-probabilities of each utterance. *Shape:* :math:`(T,V)` each.
    :param references: The text of each utterance, normalised.
    :param lm_weights: The weights of the n-gram to try, ascending and evenly spaced.
    :param word_scores: The word scores to try with each of them, ascending and evenly spaced.
    :param num_refinements: How often to look around the best; every time tries 8 more at most.
    :param on_progress: Called with the utterances searched so far and the most that it can be.
    :returns: The best weights, and all that was tried.
    :raises ValueError: If there is no utterance, not one reference for each, or nothing to try.
    """
    if not references or len(log_probs) != len(references):
        raise ValueError(
            f"`log_probs` and `references` must hold the same utterances, at least one, but hold {len(log_probs)} "
            f"and {len(references)}."
        )
    if not lm_weights or not word_scores:
        raise ValueError("`lm_weights` and `word_scores` must not be empty.")

    max_num_trials = len(lm_weights) * len(word_scores) + num_refinements * _NUM_NEIGHBOURS

    bench = _Bench(search, log_probs, references, max_num_trials, on_progress)

    for weights in product(lm_weights, word_scores):
        bench.measure(*weights)

    steps = _find_step(lm_weights), _find_step(word_scores)

    for _ in range(num_refinements):
        steps = steps[0] / 2.0, steps[1] / 2.0
        best = min(bench.trials.values(), key=_rank)

        for weights in _list_neighbours(best, *steps):
            bench.measure(*weights)

    return Tuning(
        min(bench.trials.values(), key=_rank),
        tuple(bench.trials.values()),
        bench.measure_best_path(),
    )


class _Bench:
    # Tries weights, none of them twice.

    def __init__(
        self,
        search: BeamSearch,
        log_probs: Sequence[Tensor],
        references: Sequence[str],
        max_num_trials: int,
        on_progress: Callable[[int, int], None] | None,
    ) -> None:
        self.trials: dict[tuple[float, float], Trial] = {}
        self._search = search
        self._log_probs = log_probs
        self._references = references
        self._max_num_utterances = max_num_trials * len(references)
        self._on_progress = on_progress

    def measure(self, lm_weight: float, word_score: float) -> None:
        if (lm_weight, word_score) in self.trials:
            return

        weighed = self._search.with_weights(lm_weight=lm_weight, word_score=word_score)

        self.trials[lm_weight, word_score] = self._measure(
            lambda frames: weighed(frames)[0], lm_weight, word_score
        )

    def measure_best_path(self) -> Trial:
        self._on_progress = None

        return self._measure(self._search.find_best_path, 0.0, 0.0)

    def _measure(
        self, decode: Callable[[Tensor], BeamHypothesis], lm_weight: float, word_score: float
    ) -> Trial:
        begin = perf_counter()
        texts = list(self._decode(decode))
        duration_s = perf_counter() - begin

        pairs = list(zip(self._references, texts, strict=True))

        return Trial(
            lm_weight,
            word_score,
            sum_counts(count_errors(said, found, "word") for said, found in pairs),
            sum_counts(count_errors(said, found, "char") for said, found in pairs),
            duration_s,
        )

    def _decode(self, decode: Callable[[Tensor], BeamHypothesis]) -> Iterator[str]:
        num_before = len(self.trials) * len(self._references)

        for number, frames in enumerate(self._log_probs, start=1):
            yield decode(frames).text

            if self._on_progress is not None:
                self._on_progress(num_before + number, self._max_num_utterances)


def _rank(trial: Trial) -> tuple[int, float, float, float]:
    # Every trial has the same reference, so that the fewest errors are the lowest rate.
    return (
        trial.words.num_errors,
        trial.lm_weight,
        abs(trial.word_score),
        trial.word_score,
    )


def _list_neighbours(
    trial: Trial, lm_weight_step: float, word_score_step: float
) -> Iterator[tuple[float, float]]:
    for x, y in product((-1, 0, 1), repeat=2):
        lm_weight = trial.lm_weight + x * lm_weight_step

        # The trial itself is among them, and known.
        if lm_weight >= 0.0:
            yield lm_weight, trial.word_score + y * word_score_step


def _find_step(values: Sequence[float]) -> float:
    return values[1] - values[0] if len(values) > 1 else 0.0


def _show(trial: Trial) -> list[str]:
    return [f"{trial.words.rate:.2%}", f"{trial.chars.rate:.2%}", f"{trial.duration_s:.2f}"]
