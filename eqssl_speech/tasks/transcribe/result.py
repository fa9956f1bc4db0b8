"""A recording's hypothesis, put together from those of its parts, and what becomes of it: words with times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias, final

from torch import Tensor

from eqssl_speech.decoding.alignment import FrameClock, TokenSpan, Word, spans_of, to_words
from eqssl_speech.decoding.hypothesis import Hypothesis
from eqssl_speech.tasks.transcribe.emission import EmissionPart
from eqssl_speech.tasks.transcribe.inputs import InputFile

if TYPE_CHECKING:
    from eqssl_speech.tasks.recognizer import Recognizer

Decoder: TypeAlias = Callable[[Tensor], Hypothesis]
"""Finds the best hypothesis for log-probabilities. *Shape:* ``(T, V)``."""


@final
@dataclass(frozen=True)
class Transcript:
    """What was recognised in a recording."""

    file: InputFile
    """The recording."""

    duration_s: float
    """Its length, in seconds."""

    words: tuple[Word, ...]
    """The words in their order; there may be none."""

    @property
    def text(self) -> str:
        """The words, joined by single spaces."""
        return " ".join(word.text for word in self.words)

    @property
    def confidence(self) -> float | None:
        """The mean of the words' confidences, in [0, 1]; ``None`` without words."""
        if not self.words:
            return None

        return sum(word.confidence for word in self.words) / len(self.words)


@final
class HypothesisJoiner:
    """Decodes the parts of a recording as they come, and joins the tokens; words are formed of all of them."""

    def __init__(self, decode: Decoder) -> None:
        """
        :param decode: The search.
        """
        self._decode = decode
        self.spans: list[TokenSpan] = []
        """The tokens of all parts so far, in frames of the recording."""

        self._num_frames = 0

    def add(self, part: EmissionPart) -> None:
        """Decode the next part.

        :param part: It begins where the last one ended.
        """
        hypothesis = self._decode(part.log_probs)

        spans = [
            replace(span, start=span.start + part.start, end=span.end + part.start)
            for span in spans_of(hypothesis)
        ]

        # A token that lies on both sides of the seam is one: there is no blank between.
        if self.spans and spans and _touch(self.spans[-1], spans[0]):
            spans[0] = _merge(self.spans.pop(), spans[0])

        self.spans += spans
        self._num_frames = part.start + part.log_probs.size(0)

    def list_tokens(self) -> list[int]:
        """Return the tokens of all parts."""
        return [span.token for span in self.spans]

    def list_words(self, recognizer: Recognizer) -> list[Word]:
        """Return the words of all parts, with times.

        :param recognizer: The model that the parts come from.
        """
        clock = FrameClock(
            recognizer.frame_shift_s, recognizer.receptive_field_samples / recognizer.sample_rate
        )

        return to_words(self.spans, recognizer.tokenizer.vocabulary, self._num_frames, clock=clock)


def _touch(left: TokenSpan, right: TokenSpan) -> bool:
    return left.token == right.token and left.end == right.start


def _merge(left: TokenSpan, right: TokenSpan) -> TokenSpan:
    num_left, num_right = left.end - left.start, right.end - right.start

    confidence = (left.confidence * num_left + right.confidence * num_right) / (
        num_left + num_right
    )

    return TokenSpan(left.token, left.start, right.end, confidence)
