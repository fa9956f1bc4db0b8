"""A recording's hypothesis, put together from those of its parts, and what becomes of it: words with times."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

from eqssl_speech.decoding.alignment import FrameClock, TokenSpan, Word, spans_of, to_words
from eqssl_speech.tasks.transcribe.decoder import Search, WordCutter
from eqssl_speech.tasks.transcribe.emission import EmissionPart
from eqssl_speech.tasks.transcribe.inputs import InputFile
from eqssl_speech.text.tokenizer import WORD_BOUNDARY, CtcTokenizer

if TYPE_CHECKING:
    from eqssl_speech.tasks.recognizer import Recognizer


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


def make_clock(recognizer: Recognizer) -> FrameClock:
    """Return how a recogniser's frames lie in time."""
    receptive_field_s = recognizer.receptive_field_samples / recognizer.sample_rate

    return FrameClock(recognizer.frame_shift_s, receptive_field_s)


@final
class HypothesisJoiner:
    """Decodes the parts of a recording as they come, and joins the tokens; words are formed of all of them."""

    def __init__(self, search: Search, tokenizer: CtcTokenizer) -> None:
        """
        :param search: The search.
        :param tokenizer: The vocabulary.
        """
        self._search = search
        self._tokenizer = tokenizer
        self._cutter = WordCutter(tokenizer) if search.finds_words else None
        self._num_frames = 0

        self.spans: list[TokenSpan] = []
        """The tokens of all parts so far, in frames of the recording."""

    def add(self, part: EmissionPart) -> None:
        """Decode the next part.

        :param part: It begins where the last one ended.
        """
        self._num_frames = part.start + part.log_probs.size(0)

        ready = part if self._cutter is None else self._cutter.push(part)

        if ready is not None and ready.log_probs.size(0) > 0:
            self._append(
                [
                    replace(span, start=span.start + ready.start, end=span.end + ready.start)
                    for span in spans_of(self._search.decode(ready.log_probs))
                ]
            )

    def list_tokens(self) -> list[int]:
        """Return the tokens of all parts."""
        return [span.token for span in self.spans]

    def list_words(self, recognizer: Recognizer) -> list[Word]:
        """Return the words of all parts, with times.

        :param recognizer: The model that the parts come from.
        """
        clock = make_clock(recognizer)

        return to_words(self.spans, self._tokenizer.vocabulary, self._num_frames, clock=clock)

    def _append(self, spans: list[TokenSpan]) -> None:
        if self.spans and spans:
            last = self.spans[-1]

            if self._search.finds_words:
                self.spans += self._make_boundary(last.end)
            elif last.token == spans[0].token and last.end == spans[0].start:
                # A token that lies on both sides of the seam is one: there is no blank between.
                spans[0] = _merge(self.spans.pop(), spans[0])

        self.spans += spans

    def _make_boundary(self, frame: int) -> list[TokenSpan]:
        # Where words are told apart by a token between them, a search leaves it out at the end.
        vocabulary = self._tokenizer.vocabulary
        if WORD_BOUNDARY not in vocabulary:
            return []

        return [TokenSpan(vocabulary.index(WORD_BOUNDARY), frame, frame, 1.0)]


def _merge(left: TokenSpan, right: TokenSpan) -> TokenSpan:
    num_left, num_right = left.end - left.start, right.end - right.start

    confidence = (left.confidence * num_left + right.confidence * num_right) / (
        num_left + num_right
    )

    return TokenSpan(left.token, left.start, right.end, confidence)
