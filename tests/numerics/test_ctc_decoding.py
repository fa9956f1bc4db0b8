"""Best path, forced alignment and beam search are what trying everything gives, on cases small enough for that.

Emissions are float32, as a recogniser's; scores are compared to 1e-5, a few units in the last place of sums of
some log-probabilities.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from eqssl_speech.decoding.alignment import align
from eqssl_speech.decoding.beam import BeamSearch
from eqssl_speech.decoding.greedy import decode_greedy, decode_greedy_batch
from eqssl_speech.text.frames import min_frames

TOLERANCE = 1e-5

# A beam that prunes nothing.
WIDE = {"beam_size": 100_000, "beam_threshold": 1e6, "num_tokens_per_frame": 100}


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
    num_frames = max(1, min_frames(labels)) + seed % 2 * 2
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
    assert all(min_frames(labels) == n for labels, n in shortest.items())


def sum_over_paths(log_probs: Tensor) -> dict[tuple[int, ...], float]:
    """Return the log-probability of every labelling."""
    sums: dict[tuple[int, ...], list[float]] = defaultdict(list)

    for path, score in all_paths(log_probs):
        sums[collapse(path)].append(score)

    return {labels: log_sum_exp(scores) for labels, scores in sums.items()}


def log_sum_exp(values: Iterable[float]) -> float:
    return torch.tensor(list(values), dtype=torch.float64).logsumexp(dim=0).item()


@pytest.mark.parametrize("seed", range(30))
def test_beam_search_without_ngram_ranks_labellings_by_their_sums_over_paths(seed: int) -> None:
    log_probs = draw_log_probs(num_frames=seed % 6, vocab_size=4, seed=seed, scale=1.0)

    expected = sorted(sum_over_paths(log_probs).items(), key=lambda item: -item[1])[:8]
    search = BeamSearch(["<pad>", "▁", "a", "b"], **WIDE)

    found = search(log_probs, num_best=8)

    assert [hypothesis.tokens for hypothesis in found] == [labels for labels, _ in expected]
    assert [h.score for h in found] == pytest.approx([s for _, s in expected], abs=TOLERANCE)


def test_best_labelling_is_often_not_that_of_the_best_path() -> None:
    # Otherwise the tests of beam search would also pass with a search for the best path.
    cases = [draw_log_probs(5, 4, seed, scale=1.0) for seed in range(30)]

    differs = [
        max(sums := sum_over_paths(c), key=sums.__getitem__) != decode_greedy(c).tokens
        for c in cases
    ]

    assert sum(differs) > 5


@pytest.mark.parametrize("seed", range(20))
def test_frames_of_beam_search_are_a_path_of_the_labels(seed: int) -> None:
    log_probs = draw_log_probs(6, 4, seed)

    for hypothesis in BeamSearch(["<pad>", "▁", "a", "b"], **WIDE)(log_probs, num_best=5):
        path = [0] * len(log_probs)
        for token, (start, end), confidence in zip(
            hypothesis.tokens, hypothesis.frames, hypothesis.confidences
        ):
            path[start:end] = [token] * (end - start)
            mean = log_probs[start:end, token].exp().mean().item()
            assert confidence == pytest.approx(mean, abs=TOLERANCE)

        assert collapse(tuple(path)) == hypothesis.tokens
        assert find_runs(tuple(path)) == hypothesis.frames


class Bigram:
    """A bigram with a back-off, in its definition and as a file."""

    UNIGRAMS: ClassVar = {"<s>": (-99.0, -0.3), "</s>": (-0.7, 0.0), "<unk>": (-1.4, -0.1)}
    UNIGRAMS |= {"a": (-0.5, -0.2), "ab": (-0.9, -0.4), "ba": (-0.8, 0.1), "bb": (-1.1, 0.0)}
    BIGRAMS: ClassVar = {
        ("<s>", "ab"): -0.2,
        ("<s>", "ba"): -0.9,
        ("a", "a"): -1.3,
        ("ab", "a"): -0.4,
        ("ab", "</s>"): -1.2,
        ("ba", "bb"): -0.1,
        ("bb", "</s>"): -0.3,
    }

    @classmethod
    def write(cls, file: Path) -> Path:
        lines = ["\\data\\", f"ngram 1={len(cls.UNIGRAMS)}", f"ngram 2={len(cls.BIGRAMS)}", ""]
        lines += ["\\1-grams:", *(f"{p}\t{w}\t{b}" for w, (p, b) in cls.UNIGRAMS.items()), ""]
        lines += ["\\2-grams:", *(f"{p}\t{' '.join(w)}" for w, p in cls.BIGRAMS.items()), ""]
        file.write_text("\n".join([*lines, "\\end\\", ""]), encoding="utf-8")

        return file

    @classmethod
    def log_prob(cls, words: Sequence[str]) -> float:
        """Return the natural logarithm of the probability of a sentence."""
        known = [word if word in cls.UNIGRAMS else "<unk>" for word in words]
        total = 0.0

        for before, word in itertools.pairwise(["<s>", *known, "</s>"]):
            backed_off = cls.UNIGRAMS[before][1] + cls.UNIGRAMS[word][0]
            total += cls.BIGRAMS.get((before, word), backed_off)

        return total * math.log(10.0)


CHARS = ("<pad>", "▁", "a", "b")

# `ab` can be spelled in two ways, of which one is the tokenizer's; `b` begins words and is none; `ba` has no spelling.
PIECES = ("<pad>", "▁a", "▁b", "b", "▁ab")
SPELLINGS = {"a": (1,), "ab": (4,), "b": (2,), "bb": (2, 3), "abb": (4, 3), "bbb": (2, 3, 3)}


def rank_sentences(
    log_probs: Tensor,
    read: Callable[[tuple[int, ...]], tuple[str, ...] | None],
    *,
    lm_weight: float,
    word_score: float,
) -> list[tuple[str, float]]:
    """Return all sentences that some labelling reads as, and their scores, best first."""
    sums: dict[tuple[str, ...], list[float]] = defaultdict(list)

    for labels, score in sum_over_paths(log_probs).items():
        words = read(labels)
        if words is not None:
            sums[words].append(score)

    scores = {
        " ".join(words): log_sum_exp(found)
        + lm_weight * Bigram.log_prob(words)
        + word_score * len(words)
        for words, found in sums.items()
    }
    return sorted(scores.items(), key=lambda item: -item[1])


def read_chars(labels: tuple[int, ...], more: Collection[str]) -> tuple[str, ...] | None:
    words = tuple("".join(CHARS[i] for i in labels).replace("▁", " ").split())

    return words if all(w in Bigram.UNIGRAMS or w in more for w in words) else None


def read_pieces(labels: tuple[int, ...], more: Collection[str]) -> tuple[str, ...] | None:
    words = tuple("".join(PIECES[i] for i in labels).replace("▁", " ").split())
    spelled = tuple(token for word in words for token in SPELLINGS.get(word, ()))
    allowed = all(w in Bigram.UNIGRAMS or w in more for w in words)

    return words if allowed and spelled == labels else None


WEIGHTS = [(0.0, 0.0), (0.5, 0.0), (1.3, -0.7), (0.8, 1.5)]


@pytest.mark.parametrize(("lm_weight", "word_score"), WEIGHTS)
@pytest.mark.parametrize("seed", range(16))
def test_beam_search_over_characters_ranks_sentences_as_trying_all(
    seed: int, lm_weight: float, word_score: float, tmp_path: Path
) -> None:
    log_probs = draw_log_probs(num_frames=1 + seed % 6, vocab_size=4, seed=seed, scale=1.0)
    weights = {"lm_weight": lm_weight, "word_score": word_score}

    search = BeamSearch(CHARS, lm=Bigram.write(tmp_path / "lm.arpa"), **WIDE, **weights)
    found = search(log_probs, num_best=4)

    candidates = "".join(CHARS[i] for i in decode_greedy(log_probs).tokens).split("▁")
    expected = rank_sentences(log_probs, lambda x: read_chars(x, candidates), **weights)[:4]

    assert [h.text for h in found] == [text for text, _ in expected]
    assert [h.score for h in found] == pytest.approx([s for _, s in expected], abs=TOLERANCE)


@pytest.mark.parametrize(("lm_weight", "word_score"), WEIGHTS)
@pytest.mark.parametrize("seed", range(16))
def test_beam_search_over_pieces_ranks_sentences_as_trying_all(
    seed: int, lm_weight: float, word_score: float, tmp_path: Path
) -> None:
    log_probs = draw_log_probs(num_frames=1 + seed % 5, vocab_size=5, seed=seed, scale=1.0)
    weights = {"lm_weight": lm_weight, "word_score": word_score}

    search = BeamSearch(
        PIECES,
        lm=Bigram.write(tmp_path / "lm.arpa"),
        speller=lambda word: SPELLINGS.get(word, ()),
        **WIDE,
        **weights,
    )
    found = search(log_probs, num_best=4)

    greedy = "".join(PIECES[i] for i in decode_greedy(log_probs).tokens)
    candidates = greedy.replace("▁", " ").split()
    expected = rank_sentences(log_probs, lambda x: read_pieces(x, candidates), **weights)[:4]

    assert [h.text for h in found] == [text for text, _ in expected]
    assert [h.score for h in found] == pytest.approx([s for _, s in expected], abs=TOLERANCE)
