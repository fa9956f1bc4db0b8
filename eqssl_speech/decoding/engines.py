"""The searches of flashlight-text: without an n-gram, with one over characters, with one over pieces."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, final

import torch
from torch import Tensor
from typing_extensions import override

from eqssl_speech.decoding.lexicon import Spelling
from eqssl_speech.decoding.ngram import LOG_10, NGram, import_flashlight
from eqssl_speech.decoding.word_model import IMPOSSIBLE, WordModel, WordNode, adapt
from eqssl_speech.decoding.word_trie import WordTrie
from eqssl_speech.text.tokenizer import WORD_BOUNDARY


@final
@dataclass(frozen=True)
class BeamOptions:
    """What a search weighs and what it prunes; see ``beam.py``."""

    beam_size: int
    """How many hypotheses are kept after each frame."""

    beam_threshold: float
    """How much worse than the best a hypothesis may be to be kept, in nats."""

    num_tokens_per_frame: int
    """How many tokens, the most probable ones, may begin at each frame."""

    lm_weight: float
    """The factor of the natural logarithm of the n-gram's probability."""

    word_score: float
    """What is added for each word."""


Path: TypeAlias = tuple[list[int], float]
"""A token per frame, and the score of what they spell; below half of ``IMPOSSIBLE`` if that is not made of words."""


class Engine(Protocol):
    """A search."""

    def __call__(
        self, frames: Tensor, options: BeamOptions, candidates: Sequence[str]
    ) -> list[Path]:
        """Search one utterance.

        :param frames: Log-probabilities, contiguous, float32 and on the CPU. *Shape:* :math:`(T,V)`.
        :param options: What to weigh and to prune.
        :param candidates: Words to consider even if the n-gram does not have them.
        :returns: The hypotheses, best first.
        """


@final
class FreeEngine(Engine):
    """Searches all labellings, without an n-gram."""

    def __init__(self, vocab_size: int, blank: int) -> None:
        self._flashlight = import_flashlight()
        self._vocab_size = vocab_size
        self._blank = blank
        self._model = self._flashlight.ZeroLM()

    @override
    def __call__(
        self, frames: Tensor, options: BeamOptions, candidates: Sequence[str]
    ) -> list[Path]:
        return search_freely(frames, options, self._model, 0.0, self._vocab_size, self._blank)


@final
class CharacterEngine(Engine):
    """Searches words that a token of its own stands between.

    The search wants that token after every word, and at the end of an utterance there is none. So a frame is appended
    at which it is certain; where it has just been emitted this repeats it, so that it is summed over whether the
    utterance ends in it. That it may also stand at the begin, or twice, the search allows by itself.
    """

    def __init__(self, ngram: NGram, spelling: Spelling, blank: int) -> None:
        assert spelling.boundary_index is not None

        self._flashlight = import_flashlight()
        self._words = _SpelledWords(ngram, spelling)
        self._boundary = spelling.boundary_index
        self._blank = blank

        self._trie = WordTrie(len(spelling.vocabulary), self._boundary)
        self._trie.insert(self._words.known())

    @override
    def __call__(
        self, frames: Tensor, options: BeamOptions, candidates: Sequence[str]
    ) -> list[Path]:
        last = frames.new_full((1, frames.size(1)), IMPOSSIBLE)
        last[0, self._boundary] = 0.0

        # (T, V) -> (T + 1, V)
        frames = torch.cat([frames, last])

        with self._trie.extended(self._words.unknown(candidates)):
            return [(path[:-1], score) for path, score in _decode(self._make(options), frames)]

    def _make(self, options: BeamOptions) -> Any:
        return self._flashlight.LexiconDecoder(
            self._flashlight.LexiconDecoderOptions(
                beam_size=options.beam_size,
                beam_size_token=options.num_tokens_per_frame,
                beam_threshold=options.beam_threshold,
                lm_weight=options.lm_weight * LOG_10,
                word_score=options.word_score,
                unk_score=-math.inf,
                sil_score=0.0,
                log_add=True,
                criterion_type=self._flashlight.CriterionType.CTC,
            ),
            self._trie.trie,
            self._words.ngram.model,
            self._boundary,
            self._blank,
            len(self._words.ngram.words),
            [],
            False,
        )


@final
class PieceEngine(Engine):
    """Searches words that a mark on their first piece begins."""

    def __init__(self, ngram: NGram, spelling: Spelling, blank: int) -> None:
        self._words = _SpelledWords(ngram, spelling)
        self._blank = blank
        self._begins_word = [piece.startswith(WORD_BOUNDARY) for piece in spelling.vocabulary]

        self._root = WordNode()
        for entry in self._words.known():
            self._root.insert(*entry)

    @override
    def __call__(
        self, frames: Tensor, options: BeamOptions, candidates: Sequence[str]
    ) -> list[Path]:
        root = self._root
        for entry in self._words.unknown(candidates):
            root = root.extend(*entry)

        model = WordModel(
            self._words.ngram,
            root,
            self._begins_word,
            lm_weight=options.lm_weight,
            word_score=options.word_score,
        )
        num_tokens = len(self._begins_word)

        # The weight is in the scores already.
        return search_freely(frames, options, adapt(model), 1.0, num_tokens, self._blank)


def search_freely(
    frames: Tensor, options: BeamOptions, model: Any, weight: float, num_tokens: int, blank: int
) -> list[Path]:
    """Search labellings that a model scores token by token.

    :param frames: As of :class:`Engine`.
    :param options: What to prune.
    :param model: A ``flashlight.lib.text.decoder.LM``.
    :param weight: The factor of its scores.
    :param num_tokens: The size of the vocabulary.
    :param blank: The index of the blank.
    :returns: The hypotheses, best first.
    """
    flashlight = import_flashlight()

    decoder = flashlight.LexiconFreeDecoder(
        flashlight.LexiconFreeDecoderOptions(
            beam_size=options.beam_size,
            beam_size_token=options.num_tokens_per_frame,
            beam_threshold=options.beam_threshold,
            lm_weight=weight,
            sil_score=0.0,
            log_add=True,
            criterion_type=flashlight.CriterionType.CTC,
        ),
        model,
        # The token that it believes to stand before the first frame: one that there is not.
        num_tokens,
        blank,
        [],
    )
    return list(_decode(decoder, frames))


def _decode(decoder: Any, frames: Tensor) -> Iterator[Path]:
    num_frames, num_tokens = frames.shape

    for result in decoder.decode(frames.data_ptr(), num_frames, num_tokens):
        # There is one token before the first frame, and one after the last.
        yield result.tokens[1 : num_frames + 1], result.score


@final
class _SpelledWords:
    # The words of an n-gram that the tokens can spell, and those that it lacks.

    def __init__(self, ngram: NGram, spelling: Spelling) -> None:
        self.ngram = ngram
        self._spelling = spelling
        self._start = ngram.model.start(False)

    def known(self) -> Iterator[tuple[tuple[int, ...], int, float]]:
        for index, word in enumerate(self.ngram.words):
            if tokens := self._spelling.spell(word):
                yield tokens, index, self._score(index)

    def unknown(self, words: Iterable[str]) -> list[tuple[tuple[int, ...], int, float]]:
        new = [w for w in dict.fromkeys(words) if self.ngram.find(w) is None]
        spelled = [tokens for word in new if (tokens := self._spelling.spell(word))]

        return [(t, index, self._score(index)) for t, index in zip(spelled, self.ngram.spare)]

    def _score(self, index: int) -> float:
        return float(self.ngram.model.score(self._start, index)[1])
