"""Where in a recording its words stand.

**Frames to seconds.** Frame *i* of an encoder with the frame shift *h* and the receptive field *r* hears the samples
``[h i, h i + r)``, of which the middle is ``h i + r / 2``; what a frame says is held to be true of the *h* samples
around that middle. So the border before frame *i* lies at ``h i + (r - h) / 2`` samples: for wav2vec 2.0 (*h* = 320,
*r* = 400 at 16 kHz) that is ``0.02 i + 0.0025`` seconds. Taking ``h i`` instead would place everything 2.5 ms early.

**Words.** CTC emits a token in the middle of what it stands for, often in one frame, and blanks around it; the first
and the last token of a word therefore begin and end too tight. A word is widened on both sides into the blanks (and
into the token for the word boundary): by half of what lies between it and its neighbour, yet by no more than
``max_padding_s``, so that most of a pause belongs to no word.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
import torchaudio.functional
from torch import Tensor

from eqssl_speech.decoding.hypothesis import Hypothesis
from eqssl_speech.decoding.lexicon import show_piece
from eqssl_speech.error import InputError
from eqssl_speech.text.frames import min_frames
from eqssl_speech.text.tokenizer import WORD_BOUNDARY


@final
@dataclass(frozen=True)
class TokenSpan:
    """The frames of one token."""

    token: int
    """The index into the vocabulary."""

    start: int
    """Its first frame."""

    end: int
    """The frame after its last one; greater than :attr:`start`."""

    confidence: float
    """The mean of its posterior over its frames, in [0, 1]."""


@final
@dataclass(frozen=True)
class Word:
    """One word and when it is said."""

    text: str
    """The word."""

    start_s: float
    """Its begin, in seconds from the begin of the recording."""

    end_s: float
    """Its end, in seconds; not before :attr:`start_s`, nor after the begin of the next word."""

    confidence: float
    """The confidence of its least sure token, in [0, 1]: one wrong letter makes a wrong word."""


@final
@dataclass(frozen=True)
class FrameClock:
    """How frames lie in a recording; what it holds of an encoder that sees samples far off is its convolutions."""

    frame_shift_s: float = 0.02
    """The time from one frame to the next, in seconds."""

    receptive_field_s: float = 0.025
    """The length of what the convolutions hear for one frame, in seconds."""

    def border_s(self, frame: float) -> float:
        """Return the time of the border before a frame; see the head of this file.

        :param frame: The frame, which may lie between two.
        :returns: The time, in seconds.
        """
        return frame * self.frame_shift_s + (self.receptive_field_s - self.frame_shift_s) / 2.0


def align(log_probs: Tensor, tokens: Sequence[int], blank: int = 0) -> list[TokenSpan]:
    """Find the most probable path of given tokens (torchaudio's ``forced_align``).

    :param log_probs: The log-probabilities of the tokens, finite. *Shape:* :math:`(T,V)`.
    :param tokens: The tokens to place, without blanks; there may be none.
    :param blank: The index of the blank.
    :returns: One span per token, in order and apart.
    :raises InputError: If there are fewer frames than the tokens need.
    :raises ValueError: If a token is the blank or not in the vocabulary, or a log-probability is not finite.
    """
    _check(log_probs, tokens, blank)

    if not tokens:
        return []

    path, scores = _find_path(log_probs.detach().to("cpu", torch.float32), tokens, blank)

    # Given posteriors and not their logarithms, it averages posteriors.
    spans = torchaudio.functional.merge_tokens(path, scores.exp(), blank)

    return [TokenSpan(s.token, s.start, s.end, min(max(s.score, 0.0), 1.0)) for s in spans]


def spans_of(hypothesis: Hypothesis) -> list[TokenSpan]:
    """Take the spans of a hypothesis as its search found them.

    :param hypothesis: What a search returned.
    :returns: One span per token.
    """
    return [
        TokenSpan(token, start, end, confidence)
        for token, (start, end), confidence in zip(
            hypothesis.tokens, hypothesis.frames, hypothesis.confidences, strict=True
        )
    ]


def to_words(
    spans: Sequence[TokenSpan],
    vocabulary: Sequence[str],
    num_frames: int,
    *,
    clock: FrameClock | None = None,
    max_padding_s: float = 0.06,
) -> list[Word]:
    """Join tokens to words and say when they begin and end; see the head of this file.

    :param spans: The spans of the tokens, in order.
    :param vocabulary: The piece of each token. ``▁`` begins a word (unigram, BPE) or stands between words (char).
    :param num_frames: The number of frames of the utterance, beyond which no word goes.
    :param clock: How frames lie in the recording; ``None`` for wav2vec 2.0's.
    :param max_padding_s: By how much a word is widened at most on each side, in seconds.
    :returns: The words; joined by spaces, they are the text of the tokens.
    """
    clock = clock or FrameClock()

    words = _group(spans, vocabulary)

    max_padding = max_padding_s / clock.frame_shift_s

    timed = []

    for index, (text, parts) in enumerate(words):
        before = words[index - 1][1][-1].end if index else 0
        after = words[index + 1][1][0].start if index + 1 < len(words) else num_frames

        # At the ends of the recording there is no neighbour to share with.
        room_before = (parts[0].start - before) / (2.0 if index else 1.0)
        room_after = (after - parts[-1].end) / (2.0 if index + 1 < len(words) else 1.0)

        start = parts[0].start - min(room_before, max_padding)
        end = parts[-1].end + min(room_after, max_padding)

        confidence = min(part.confidence for part in parts)

        timed.append(Word(text, clock.border_s(start), clock.border_s(end), confidence))

    return timed


def _find_path(log_probs: Tensor, tokens: Sequence[int], blank: int) -> tuple[Tensor, Tensor]:
    # Returns (T), the token of each frame, and (T), its log-probability.
    labels = torch.tensor([list(tokens)], dtype=torch.int32)

    with warnings.catch_warnings():
        # Release 2.9 says that it goes; it stays (https://github.com/pytorch/audio/pull/4147).
        warnings.filterwarnings("ignore", message=".*forced_align has been deprecated")

        paths, scores = torchaudio.functional.forced_align(
            log_probs.unsqueeze(0).contiguous(), labels, blank=blank
        )

    return paths[0], scores[0]


def _group(
    spans: Sequence[TokenSpan], vocabulary: Sequence[str]
) -> list[tuple[str, list[TokenSpan]]]:
    # A lone `▁` ends a word and belongs to none.
    words: list[tuple[str, list[TokenSpan]]] = []
    text, parts = "", list[TokenSpan]()

    for span in spans:
        piece = vocabulary[span.token]

        if piece.startswith(WORD_BOUNDARY):
            if parts:
                words.append((text, parts))
            text, parts = "", []

        if shown := show_piece(piece):
            text, parts = text + shown, [*parts, span]

    return [*words, (text, parts)] if parts else words


def _check(log_probs: Tensor, tokens: Sequence[int], blank: int) -> None:
    if log_probs.dim() != 2:
        raise ValueError(
            f"`log_probs` must have the shape (T, V), but has {tuple(log_probs.shape)} instead."
        )

    num_frames, vocab_size = log_probs.shape

    for token in tokens:
        if token == blank or not 0 <= token < vocab_size:
            raise ValueError(
                f"`tokens` must be in [0, {vocab_size}) and not the blank ({blank}), but hold {token} instead."
            )

    if not torch.isfinite(log_probs).all():
        raise ValueError("`log_probs` must be finite, but hold infinity or not-a-number.")

    needed = min_frames(tokens)
    if num_frames < needed:
        num_repeats = needed - len(tokens)
        raise InputError(
            f"an utterance of {num_frames} frames cannot hold {len(tokens)} labels of which {num_repeats} repeat "
            f"the one before them: CTC needs {needed} frames; correct the text, or leave the utterance out."
        )
