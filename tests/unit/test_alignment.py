"""Tokens become words with times that are not biased, for vocabularies of characters and of pieces."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from eqssl_speech.decoding.alignment import (
    FrameClock,
    TokenSpan,
    Word,
    align,
    spans_of,
    to_words,
)
from eqssl_speech.decoding.greedy import decode_greedy, decode_greedy_batch
from eqssl_speech.error import InputError

CHARS = ("<pad>", "<unk>", "▁", "a", "b", "c")
PIECES = ("<pad>", "<unk>", "▁", "▁a", "b", "▁ab", "c")


def spans_at(*spans: tuple[int, int, int]) -> list[TokenSpan]:
    return [TokenSpan(token, s, e, 0.5 + token / 20) for token, s, e in spans]


def texts(words: list[Word]) -> list[str]:
    return [word.text for word in words]


def frames(words: list[Word]) -> list[tuple[float, float]]:
    """Return begins and ends as borders of frames."""
    return [
        ((w.start_s - 0.0025) / 0.02, (w.end_s - 0.0025) / 0.02)  # The offset is checked below.
        for w in words
    ]


def test_pieces_between_words_and_at_their_begin_give_the_same_words() -> None:
    chars = to_words(spans_at((3, 0, 1), (4, 2, 3), (2, 4, 5), (5, 6, 7)), CHARS, 8)
    pieces = to_words(spans_at((5, 0, 1), (4, 2, 3), (2, 4, 5), (6, 6, 7)), PIECES, 8)

    assert texts(chars) == ["ab", "c"]
    assert texts(pieces) == ["abb", "c"]
    assert texts(to_words(spans_at((3, 0, 1), (5, 2, 3), (3, 4, 5)), PIECES, 8)) == ["a", "ab", "a"]


def test_boundaries_at_the_ends_and_twice_make_no_empty_words() -> None:
    spans = spans_at((2, 0, 1), (3, 1, 2), (2, 2, 3), (2, 4, 5), (4, 5, 6), (2, 6, 7))

    assert texts(to_words(spans, CHARS, 8)) == ["a", "b"]
    assert to_words(spans_at((2, 0, 1)), CHARS, 8) == []
    assert to_words([], CHARS, 8) == []


def test_what_is_never_taught_says_nothing() -> None:
    spans = spans_at((1, 0, 1), (2, 1, 2), (3, 2, 3), (1, 3, 6), (4, 6, 7), (1, 7, 8))

    (word,) = to_words(spans, CHARS, 8)

    assert (word.text, word.confidence) == ("ab", spans[2].confidence)
    assert to_words(spans_at((1, 0, 1)), CHARS, 8) == []


def test_word_is_as_sure_as_its_least_sure_token() -> None:
    spans = [TokenSpan(3, 0, 1, 0.9), TokenSpan(4, 1, 2, 0.2), TokenSpan(2, 2, 3, 0.1)]

    assert to_words(spans, CHARS, 8)[0].confidence == 0.2


def test_frame_is_placed_at_the_middle_of_what_it_hears() -> None:
    clock = FrameClock()

    # Frame 7 hears the samples [2240, 2640), with the middle at 2440: 0.1525 s.
    assert (clock.border_s(7) + clock.border_s(8)) / 2 == pytest.approx(2440 / 16_000)
    assert FrameClock(0.01, 0.01).border_s(5) == pytest.approx(0.05)

    word = to_words(spans_at((3, 7, 8)), CHARS, 100, max_padding_s=0.0)[0]
    assert (word.start_s, word.end_s) == pytest.approx((0.1425, 0.1625))


def test_neighbours_meet_halfway_and_leave_pauses_out() -> None:
    # A gap of 4 frames, with the boundary in it, is shared; one of 20 is not: 0.06 s are 3 frames.
    spans = spans_at((3, 5, 6), (2, 8, 9), (4, 10, 12), (2, 15, 16), (5, 32, 33))

    assert frames(to_words(spans, CHARS, 40)) == [
        pytest.approx((2, 8)),
        pytest.approx((8, 15)),
        pytest.approx((29, 36)),
    ]


def test_words_stay_within_the_recording() -> None:
    assert frames(to_words(spans_at((3, 1, 5)), CHARS, 6)) == [pytest.approx((0, 6))]
    assert frames(to_words(spans_at((3, 0, 1)), CHARS, 1)) == [pytest.approx((0, 1))]


def peaked(path: list[int], vocab_size: int) -> Tensor:
    """Return log-probabilities *(T, V)* that follow a path, with noise."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(len(path), vocab_size, generator=generator)
    logits[torch.arange(len(path)), torch.tensor(path)] += 8.0

    return logits.log_softmax(dim=-1)


def test_words_of_a_clear_recording_are_the_same_by_search_and_by_alignment() -> None:
    path = [0, 3, 3, 0, 4, 0, 2, 2, 0, 0, 5, 5, 0, 5, 0]
    log_probs = peaked(path, len(CHARS))

    searched = to_words(spans_of(decode_greedy(log_probs)), CHARS, len(path))
    aligned = to_words(align(log_probs, [3, 4, 2, 5, 5]), CHARS, len(path))

    assert texts(aligned) == ["ab", "cc"]
    assert texts(searched) == texts(aligned)
    assert frames(searched) == frames(aligned)
    assert [w.confidence for w in searched] == pytest.approx([w.confidence for w in aligned])


def test_alignment_does_not_depend_on_how_the_memory_is_laid_out() -> None:
    log_probs = peaked([0, 3, 0, 4, 4, 0], len(CHARS))
    turned = log_probs.t().contiguous().t()

    assert not turned.is_contiguous()
    assert align(turned, [3, 4]) == align(log_probs, [3, 4])


def test_alignment_of_nothing_is_empty() -> None:
    assert align(peaked([0, 0, 3], len(CHARS)), []) == []
    assert align(torch.zeros(0, 4), []) == []


def test_labels_that_do_not_fit_the_frames_are_refused_with_the_count() -> None:
    # a a b: three labels and one repeat.
    with pytest.raises(
        InputError, match=r"3 frames cannot hold 3 labels of which 1 repeat.* 4 frames"
    ):
        align(peaked([3, 3, 4], len(CHARS)), [3, 3, 4])

    with pytest.raises(InputError, match="0 frames"):
        align(torch.zeros(0, 4), [3])


@pytest.mark.parametrize("tokens", [[0], [3, 6], [-1]])
def test_tokens_that_cannot_be_labels_are_refused(tokens: list[int]) -> None:
    with pytest.raises(ValueError, match=r"`tokens` must be in \[0, 6\)"):
        align(peaked([3, 3, 4], len(CHARS)), tokens)


def test_log_probabilities_must_be_finite() -> None:
    log_probs = peaked([3, 3, 4], len(CHARS))
    log_probs[1, 2] = float("nan")

    with pytest.raises(ValueError, match="finite"):
        align(log_probs, [3])


@pytest.mark.parametrize("shape", [(4,), (1, 2, 4)])
def test_one_utterance_has_two_dimensions(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(T, V\)"):
        align(torch.zeros(shape), [1])
    with pytest.raises(ValueError, match=r"\(T, V\)"):
        decode_greedy(torch.zeros(shape))


def test_greedy_refuses_what_is_out_of_range() -> None:
    with pytest.raises(ValueError, match="`blank`"):
        decode_greedy(torch.zeros(2, 3), blank=3)
    with pytest.raises(ValueError, match="`lengths`"):
        decode_greedy_batch(torch.zeros(2, 3, 4), [1, 4])
    with pytest.raises(ValueError, match="`lengths`"):
        decode_greedy_batch(torch.zeros(2, 3, 4), [1])
    with pytest.raises(ValueError, match=r"\(N, T, V\)"):
        decode_greedy_batch(torch.zeros(3, 4))


def test_greedy_of_an_empty_batch_is_empty() -> None:
    assert decode_greedy_batch(torch.zeros(0, 3, 4)) == []
    assert [h.tokens for h in decode_greedy_batch(torch.zeros(2, 0, 4))] == [(), ()]
