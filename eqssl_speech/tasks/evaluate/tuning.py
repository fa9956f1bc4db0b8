"""Chooses the weights of a search with a language model on another split than the one that is evaluated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, final

import numpy as np
from torch import Tensor

from eqssl_speech.decoding.tuning import Tuning, tune
from eqssl_speech.error import InputError
from eqssl_speech.tasks.evaluate.references import EvaluationSet, Reference
from eqssl_speech.tasks.transcribe.decoder import SearchOptions, make_beam_search
from eqssl_speech.tasks.transcribe.emission import emit_recordings
from eqssl_speech.tasks.transcribe.planning import EmissionOptions

if TYPE_CHECKING:
    from eqssl_speech.tasks.recognizer import Recognizer

MAX_NUM_UTTERANCES: Final = 300
"""Of more utterances, as many as this are taken, evenly over the split: each is searched some thirty times."""


@final
@dataclass(frozen=True)
class TunedSearch:
    """The weights that were chosen."""

    split: str
    """The split that they were chosen on."""

    num_utterances: int
    """How many of its utterances were searched."""

    tuning: Tuning
    """All that was tried, and the best."""

    @property
    def sentence(self) -> str:
        """What was chosen, as options for other commands."""
        best = self.tuning.best

        return (
            f"Chosen on {self.num_utterances} utterances of {self.split}: "
            f"`--lm-weight {best.lm_weight:g} --word-score {best.word_score:g}`."
        )

    def apply(self, options: SearchOptions) -> SearchOptions:
        """Return the options with the weights that were chosen."""
        best = self.tuning.best

        return replace(options, lm_weight=best.lm_weight, word_score=best.word_score)


def require_tunable(options: SearchOptions, split: str, evaluated_split: str) -> None:
    """Refuse what cannot be tuned.

    :param options: What is asked of the search.
    :param split: The split to tune on.
    :param evaluated_split: The split to evaluate.
    :raises InputError: If there is no language model, a weight is given, or both splits are the same.
    """
    if options.lm is None:
        raise InputError("`--tune-on` needs a language model; give `--lm FILE`, or leave it out.")
    if options.lm_weight is not None or options.word_score is not None:
        raise InputError(
            "`--tune-on` chooses `--lm-weight` and `--word-score`; leave them out, or do not tune."
        )
    if split == evaluated_split:
        raise InputError(
            f"`--tune-on` must name another split than `--split`, but both are `{split}`: weights that were chosen on "
            "what is evaluated flatter the model."
        )


def tune_search(
    evaluation_set: EvaluationSet,
    recognizer: Recognizer,
    search_options: SearchOptions,
    options: EmissionOptions,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> TunedSearch:
    """Choose the weights of a search.

    :param evaluation_set: The split to choose them on.
    :param recognizer: The model.
    :param search_options: What is asked of the search; its weights do not matter.
    :param options: How much is given to the model at a time.
    :param on_progress: Called with the utterances searched so far and the most that it can be.
    :raises InputError: If the language model cannot be used, or no recording can be read.
    """
    search, _ = make_beam_search(recognizer.tokenizer, search_options)

    chosen = _choose(evaluation_set.references)

    emissions = _emit(chosen, recognizer, options)
    if not emissions:
        raise InputError(
            f"{evaluation_set.corpus}: no recording of the split `{evaluation_set.split}` can be read; run "
            "`eqssl check` on the corpus."
        )

    tuning = tune(
        search,
        list(emissions.values()),
        [chosen[index].text for index in emissions],
        on_progress=on_progress,
    )

    return TunedSearch(evaluation_set.split, len(emissions), tuning)


def _choose(references: Sequence[Reference]) -> list[Reference]:
    count = min(len(references), MAX_NUM_UTTERANCES)

    return [references[i] for i in np.linspace(0, len(references) - 1, count).round().astype(int)]


def _emit(
    references: Sequence[Reference], recognizer: Recognizer, options: EmissionOptions
) -> dict[int, Tensor]:
    # By the index of the utterance; those that cannot be read are missing.
    emissions = emit_recordings(recognizer, [r.item for r in references], options)

    return {index: result for index, result in emissions if isinstance(result, Tensor)}
