"""Which search finds the words, and where a long recording may be divided for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

import torch
from torch import Tensor

from eqssl_speech.decoding.alignment import spans_of
from eqssl_speech.decoding.greedy import decode_greedy
from eqssl_speech.decoding.hypothesis import Hypothesis
from eqssl_speech.error import InputError
from eqssl_speech.tasks.transcribe.emission import EmissionPart
from eqssl_speech.text.tokenizer import WORD_BOUNDARY, CtcTokenizer

if TYPE_CHECKING:
    from eqssl_speech.decoding.beam import BeamSearch

_MAX_NUM_FRAMES: Final = 3000
"""A search over words is given no more frames than this; at 20 ms a frame: a minute."""

_PAUSE_NUM_FRAMES: Final = 25
"""Blanks for so long are between words; at 20 ms a frame: half a second."""


@final
@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """What is asked of the search; without a language model and a beam it is greedy."""

    lm: Path | None = None
    """A word n-gram."""

    lm_weight: float | None = None
    """The factor of its log-probability; ``None`` for the default."""

    word_score: float | None = None
    """What is added for each word; ``None`` for the default."""

    beam_size: int | None = None
    """How many hypotheses are kept; ``None`` for the default."""


@final
@dataclass(frozen=True)
class Search:
    """Finds the best hypothesis for log-probabilities."""

    decode: Callable[[Tensor], Hypothesis]
    """The search. *Shape:* ``(T, V)``."""

    description: str = "greedy"
    """What it is, in words."""

    finds_words: bool = False
    """Whether it finds whole words, so that what it is given must end between two."""


def make_search(tokenizer: CtcTokenizer, options: SearchOptions) -> Search:
    """Make a search.

    :param tokenizer: The model's vocabulary.
    :param options: What is asked of it.
    :raises InputError: If the options do not go together, or the language model cannot be used.
    """
    _validate(options)

    if options.lm is None and options.beam_size is None:
        return Search(decode_greedy)

    beam, settings = make_beam_search(tokenizer, options)

    name = "beam search" if options.lm is None else f"beam search with {options.lm}"
    shown = ", ".join(f"{key} {value:g}" for key, value in settings.items())

    return Search(
        lambda log_probs: beam(log_probs)[0],
        f"{name} ({shown})",
        finds_words=options.lm is not None,
    )


def make_beam_search(
    tokenizer: CtcTokenizer, options: SearchOptions
) -> tuple[BeamSearch, dict[str, float]]:
    """Make a beam search.

    :param tokenizer: The model's vocabulary.
    :param options: What is asked of it.
    :returns: The search, and its settings.
    :raises InputError: If the language model cannot be used, or an option is out of its range.
    """
    # Greedy search needs none of it.
    from eqssl_speech.decoding.beam import BeamSearch

    names = ["beam_size"] if options.lm is None else ["beam_size", "lm_weight", "word_score"]
    defaults = signature(BeamSearch).parameters

    settings: dict[str, Any] = {
        name: defaults[name].default if (value := getattr(options, name)) is None else value
        for name in names
    }

    try:
        beam = BeamSearch(
            tokenizer.vocabulary,
            lm=options.lm,
            speller=tokenizer.encode,
            blank=tokenizer.blank_index,
            **settings,
        )
    except ValueError as ex:
        raise InputError(str(ex)) from None

    return beam, settings


def _validate(options: SearchOptions) -> None:
    if options.lm is not None:
        return

    for name in ("lm_weight", "word_score"):
        if getattr(options, name) is not None:
            raise InputError(
                f"`--{name.replace('_', '-')}` needs a language model; give `--lm FILE`, or leave it out."
            )


@final
class WordCutter:
    """Cuts the parts of a recording anew, so that each ends between two words of the best path."""

    def __init__(self, tokenizer: CtcTokenizer) -> None:
        """
        :param tokenizer: The vocabulary.
        """
        self._tokenizer = tokenizer
        self._rest: Tensor | None = None
        self._start = 0

    def push(self, part: EmissionPart) -> EmissionPart | None:
        """Take the next part.

        :param part: It begins where the last one ended.
        :returns: What was not returned yet up to the longest pause between words, or to the end of the last part;
            ``None`` if there is no pause as yet.
        """
        frames = part.log_probs
        if self._rest is not None:
            frames = torch.cat([self._rest, frames])

        cut = len(frames) if part.is_last else self._find_cut(frames)
        if cut is None:
            self._rest = frames

            return None

        whole = EmissionPart(part.item, self._start, frames[:cut], part.is_last)

        self._rest = frames[cut:].clone()
        self._start += cut

        return whole

    def _find_cut(self, frames: Tensor) -> int | None:
        pauses = list(self._list_pauses(frames))

        # Not near the begin, where what is left would be as long as it was.
        late = [pause for pause in pauses if sum(pause) > len(frames)]
        if late or pauses:
            start, stop = max(late or pauses, key=lambda pause: pause[1] - pause[0])

            return (start + stop) // 2

        return len(frames) if len(frames) > _MAX_NUM_FRAMES else None

    def _list_pauses(self, frames: Tensor) -> Iterator[tuple[int, int]]:
        end = None

        for span in spans_of(decode_greedy(frames, self._tokenizer.blank_index)):
            piece = self._tokenizer.vocabulary[span.token]

            if piece == WORD_BOUNDARY:
                yield span.start if end is None else end, span.end
                end = span.end
                continue

            if piece.startswith(WORD_BOUNDARY) and end is not None and end < span.start:
                yield end, span.start

            end = span.end

        if end is None or len(frames) - end >= _PAUSE_NUM_FRAMES:
            yield end or 0, len(frames)
