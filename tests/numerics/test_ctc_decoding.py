"""Best path, forced alignment and beam search are what trying everything gives, on cases small enough for that.

Emissions are float32, as a recogniser's; scores are compared to 1e-5, a few units in the last place of sums of
some log-probabilities.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from eqssl_speech.decoding.alignment import align, count_frames_needed
from eqssl_speech.decoding.greedy import decode_greedy, decode_greedy_batch

TOLERANCE = 1e-5


def draw_log_probs(num_frames: int, vocab_size: int, seed: int, scale: float = 2.0) -> Tensor:
    """Draw log-probabilities *(T, V)* without ties."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(num_frames, vocab_size, generator=generator)

    return logits.log_softmax(dim=-1)


def all_paths(log_probs: Tensor) -> Iterator[tuple[tuple[int, ...], float]]:
    """Yield every path of tokens with its log-probability."""
    rows = log_probs.double().tolist()

    for path in itertools.product(range(log_probs.size(1)), repeat=log_probs.size(0)):
        yield path, sum(row[token] for row, token in zip(rows, path))


def collapse(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(token for token, _ in itertools.groupby(path) if token != 0)


def find_runs(path: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Return the frames [start, end) of each token of a path that is not the blank."""
    runs, begin = [], 0

    for token, group in itertools.groupby(path):
        end = begin + len(list(group))
        if token != 0:
            runs.append((begin, end))
        begin = end

    return tuple(runs)


def mean_posteriors(log_probs: Tensor, path: tuple[int, ...]) -> list[float]:
    return [
        sum(math.exp(log_probs[t, path[t]].item()) for t in range(start, end)) / (end - start)
        for start, end in find_runs(path)
    ]


@pytest.mark.parametrize("seed", range(40))
def test_greedy_is_the_most_probable_path(seed: int) -> None:
    # Small scales give runs of one frame, large ones repeat rarely; both need to be right.
    log_probs = draw_log_probs(num_frames=seed % 7, vocab_size=3, seed=seed)

    path, score = max(all_paths(log_probs), key=lambda item: item[1])
    found = decode_greedy(log_probs)

    assert found.tokens == collapse(path)
    assert found.frames == find_runs(path)
    assert found.score == pytest.approx(score, abs=TOLERANCE)
    assert found.confidences == pytest.approx(mean_posteriors(log_probs, path), abs=TOLERANCE)


def test_greedy_of_a_padded_batch_is_that_of_each_utterance() -> None:
    # The lengths contain none, one and all frames, and what lies beyond must not count.
    lengths = [0, 1, 23, 9, 16, 2]
    each = [draw_log_probs(length, 4, seed=100 + n, scale=1.0) for n, length in enumerate(lengths)]

    batch = draw_log_probs(len(lengths) * 23, 4, seed=99).reshape(-1, 23, 4)
    batch[1] = float("nan")
    for row, log_probs in zip(batch, each):
        row[: len(log_probs)] = log_probs

    found = decode_greedy_batch(batch, torch.tensor(lengths))

    assert any(len(hypothesis.tokens) > 3 for hypothesis in found)

    for hypothesis, log_probs in zip(found, each):
        expected = decode_greedy(log_probs)

        assert hypothesis.tokens == expected.tokens
        assert hypothesis.frames == expected.frames
        assert hypothesis.score == pytest.approx(expected.score, abs=TOLERANCE)
        assert hypothesis.confidences == pytest.approx(expected.confidences, abs=TOLERANCE)


def test_greedy_takes_another_blank() -> None:
    log_probs = draw_log_probs(30, 4, seed=3)
    swapped = log_probs[:, [3, 1, 2, 0]]

    expected = decode_greedy(log_probs)
    found = decode_greedy(swapped, blank=3)

    assert found.frames == expected.frames
    assert found.tokens == tuple({1: 1, 2: 2, 3: 0}[token] for token in expected.tokens)


@pytest.mark.parametrize("seed", range(40))
def test_alignment_is_the_most_probable_path_of_the_labels(seed: int) -> None:
    generator = torch.Generator().manual_seed(1000 + seed)
    num_labels = int(torch.randint(1, 5, (), generator=generator))
    labels = torch.randint(1, 4, (num_labels,), generator=generator).tolist()

    # Half of the cases leave no frame to spare.
    num_frames = max(1, count_frames_needed(labels)) + seed % 2 * 2
    log_probs = draw_log_probs(min(num_frames, 7), vocab_size=4, seed=seed)

    path, _ = max(
        ((p, s) for p, s in all_paths(log_probs) if collapse(p) == tuple(labels)),
        key=lambda item: item[1],
    )
    spans = align(log_probs, labels)

    assert [span.token for span in spans] == labels
    assert tuple((span.start, span.end) for span in spans) == find_runs(path)
    assert [s.confidence for s in spans] == pytest.approx(
        mean_posteriors(log_probs, path), abs=TOLERANCE
    )


def test_labels_fit_exactly_the_frames_that_some_path_needs() -> None:
    shortest: dict[tuple[int, ...], int] = {}

    for num_frames in range(8):
        for path in itertools.product(range(3), repeat=num_frames):
            shortest.setdefault(collapse(path), num_frames)

    assert len(shortest) > 50
    assert all(count_frames_needed(labels) == n for labels, n in shortest.items())
