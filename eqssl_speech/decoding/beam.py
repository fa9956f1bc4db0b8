"""Beam search: the most probable labelling, alone or with a word n-gram, through flashlight-text.

What is maximised over the words w is

    ln p(w | x)  +  ``lm_weight`` * ln p_LM(w, end of sentence)  +  ``word_score`` * number of words

where the first term sums over all paths of CTC that spell the words. Without an n-gram it is the first term alone,
over labellings. The beam prunes, so that what is found need not be the best there is; with a beam that is wide enough
it is (tests/numerics/test_ctc_decoding.py tries everything).

**Why flashlight-text.** Its wheels for Python 3.10 to 3.12 hold KenLM and need no compiler; it sums over paths and
searches in C++. Its last release is 0.0.7 (2024), its repository is alive. It is used as it is and not through
``torchaudio.models.decoder``, which only passes arguments on and is deprecated. ``pyctcdecode`` 0.5.0 (2023) pins
numpy below 2 and needs a compiler for its ``kenlm``; ``ctc-beam-decoder`` 0.2.0 does the same without either, but is
young and needs glibc 2.35.

**Words.** The lexicon holds the words of the n-gram that the tokens can spell. So that a word that the n-gram lacks is
not lost, the words of the best path (``greedy.py``) are candidates too, scored as ``<unk>``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Final, final

import torch
from torch import Tensor

from eqssl_speech.decoding.engines import (
    BeamOptions,
    CharacterEngine,
    Engine,
    FreeEngine,
    PieceEngine,
)
from eqssl_speech.decoding.greedy import decode_greedy
from eqssl_speech.decoding.hypothesis import Hypothesis
from eqssl_speech.decoding.lexicon import Speller, find_spelling, list_clear_words, to_text
from eqssl_speech.decoding.ngram import NGram
from eqssl_speech.decoding.word_model import IMPOSSIBLE

_MAX_NUM_UNKNOWN_WORDS: Final = 512
"""How many words of one best path are considered although the n-gram lacks them."""


@final
@dataclass(frozen=True)
class BeamHypothesis(Hypothesis):
    """A hypothesis of beam search.

    The frames are those of one path among the many that are summed over; the score is what the search maximises (see
    the head of this file), and minus infinity if it found no sentence of words and gives the best path instead.
    """

    text: str
    """The words, joined by single spaces."""


@final
class BeamSearch:
    """Finds the most probable text of an utterance.

    It may be used from one thread at a time.
    """

    def __init__(
        self,
        vocabulary: Sequence[str],
        *,
        lm: Path | None = None,
        speller: Speller | None = None,
        lm_weight: float = 0.5,
        word_score: float = 0.0,
        beam_size: int = 50,
        beam_threshold: float = 25.0,
        num_tokens_per_frame: int = 20,
        blank: int = 0,
    ) -> None:
        """
        :param vocabulary: The piece of each token.
        :param lm: A word n-gram in the ARPA format, of words normalised as the tokenizer's; ``None`` for none.
        :param speller: Turns a word into tokens, such as a tokenizer's ``encode``. Needed for pieces with an n-gram.
        :param lm_weight: The factor of the natural logarithm of the n-gram's probability, at least 0.
        :param word_score: What is added for each word: above 0 for more words, below for fewer.
        :param beam_size: How many hypotheses are kept after each frame.
        :param beam_threshold: How much worse than the best a hypothesis may be to be kept, in nats.
        :param num_tokens_per_frame: How many tokens, the most probable ones, are considered at each frame.
        :param blank: The index of the blank.
        :raises InputError: If flashlight-text is not installed, the n-gram cannot be used, or the vocabulary does not
            say where words begin.
        :raises ValueError: If an option is out of its range.
        """
        self._options = BeamOptions(
            beam_size, beam_threshold, num_tokens_per_frame, lm_weight, word_score
        )
        _check(self._options)

        self._vocabulary = tuple(vocabulary)
        self._blank = blank

        self._engine: Engine
        if lm is None:
            self._engine = FreeEngine(len(self._vocabulary), blank)
        else:
            spelling = find_spelling(self._vocabulary, speller)
            ngram = NGram(lm, num_spare=_MAX_NUM_UNKNOWN_WORDS)
            make = CharacterEngine if spelling.boundary == "between" else PieceEngine
            self._engine = make(ngram, spelling, blank)

    def with_weights(self, *, lm_weight: float, word_score: float) -> BeamSearch:
        """Return a search with other weights that shares the n-gram with this one.

        :param lm_weight: As of :class:`BeamSearch`.
        :param word_score: As of :class:`BeamSearch`.
        :returns: The other search.
        :raises ValueError: If a weight is out of its range.
        """
        other = copy(self)
        other._options = replace(self._options, lm_weight=lm_weight, word_score=word_score)
        _check(other._options)

        return other

    def __call__(self, log_probs: Tensor, num_best: int = 1) -> list[BeamHypothesis]:
        """Search one utterance.

        :param log_probs: The log-probabilities of the tokens, finite. *Shape:* :math:`(T,V)`, on any device.
        :param num_best: How many hypotheses to return at most.
        :returns: The hypotheses, best first; at least one.
        :raises ValueError: If ``log_probs`` does not have the shape of the vocabulary, or is not finite.
        """
        frames = self._to_frames(log_probs)

        best_path = decode_greedy(frames, self._blank)
        candidates = list_clear_words(self._vocabulary[token] for token in best_path.tokens)

        found = [
            self._to_hypothesis(path, score, frames)
            for path, score in self._engine(frames, self._options, candidates)[:num_best]
            if score > IMPOSSIBLE / 2.0
        ]
        return found or [self._show_best_path(best_path)]

    def find_best_path(self, log_probs: Tensor) -> BeamHypothesis:
        """Decode greedily, as ``greedy.py`` does; neither the beam nor the n-gram matters.

        :param log_probs: As of :meth:`__call__`.
        :returns: The best path, with its text and minus infinity for a score.
        """
        return self._show_best_path(decode_greedy(self._to_frames(log_probs), self._blank))

    def _to_frames(self, log_probs: Tensor) -> Tensor:
        if log_probs.dim() != 2 or log_probs.size(1) != len(self._vocabulary):
            raise ValueError(
                f"`log_probs` must have the shape (T, {len(self._vocabulary)}), "
                f"but has {tuple(log_probs.shape)} instead."
            )
        if not torch.isfinite(log_probs).all():
            raise ValueError("`log_probs` must be finite, but hold infinity or not-a-number.")

        return log_probs.detach().to("cpu", torch.float32).contiguous()

    def _show_best_path(self, best_path: Hypothesis) -> BeamHypothesis:
        return BeamHypothesis(
            best_path.tokens,
            best_path.frames,
            -math.inf,
            best_path.confidences,
            self._to_text(best_path.tokens),
        )

    def _to_hypothesis(self, path: list[int], score: float, frames: Tensor) -> BeamHypothesis:
        # (T, V) -> (T)
        posteriors = frames.gather(1, torch.tensor(path, dtype=torch.int64)[:, None]).exp()[:, 0]

        tokens, spans = [], []
        start = 0
        for token, run in groupby(path):
            end = start + len(list(run))
            if token != self._blank:
                tokens.append(token)
                spans.append((start, end))
            start = end

        confidences = [min(posteriors[s:e].mean().item(), 1.0) for s, e in spans]

        return BeamHypothesis(
            tuple(tokens), tuple(spans), score, tuple(confidences), self._to_text(tokens)
        )

    def _to_text(self, tokens: Sequence[int]) -> str:
        return to_text(self._vocabulary[token] for token in tokens)


def _check(options: BeamOptions) -> None:
    for name in ("beam_size", "num_tokens_per_frame"):
        value = getattr(options, name)
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, but is {value} instead.")
    if not options.beam_threshold > 0.0:
        raise ValueError(
            f"`beam_threshold` must be greater than 0, but is {options.beam_threshold} instead."
        )
    if not 0.0 <= options.lm_weight < math.inf:
        raise ValueError(
            f"`lm_weight` must be finite and at least 0, but is {options.lm_weight} instead."
        )
    if not math.isfinite(options.word_score):
        raise ValueError(f"`word_score` must be finite, but is {options.word_score} instead.")
