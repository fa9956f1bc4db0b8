"""Beam search prunes well, leaves nothing behind from one utterance to the next, and says what it cannot use."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from eqssl_speech.decoding.alignment import spans_of, to_words
from eqssl_speech.decoding.beam import BeamSearch
from eqssl_speech.decoding.error_rates import count_errors, sum_counts
from eqssl_speech.decoding.greedy import decode_greedy
from eqssl_speech.decoding.lexicon import find_spelling, list_clear_words, to_text
from eqssl_speech.decoding.word_trie import WordTrie
from eqssl_speech.error import InputError

CHARS = ("<pad>", "<unk>", "▁", *"adehinrsut")
PIECES = ("<pad>", "<unk>", "▁", "▁d", "▁h", "er", "ie", "as", "aus", "und", "e", "s", "▁ist", "n")

LOG_PROBS = {"der": -0.6, "die": -0.7, "das": -0.9, "haus": -1.1, "hund": -1.2, "ist": -1.3}
"""An n-gram to base 10 without memory; the rest is for the end of a sentence and the unknown."""


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("lm") / "unigram.arpa"
    entries = {"<s>": -99.0, "</s>": -0.8, "<unk>": -2.5} | LOG_PROBS
    lines = ["\\data\\", f"ngram 1={len(entries)}", "ngram 2=1", "", "\\1-grams:"]
    lines += [f"{value}\t{word}\t0" for word, value in entries.items()]
    # KenLM wants a bigram at least; this one is what backing off gives.
    lines += ["", "\\2-grams:", "-1.3\tist ist"]
    file.write_text("\n".join([*lines, "", "\\end\\", ""]), encoding="utf-8")

    return file


def spell_pieces(word: str) -> list[int]:
    """Spell with the longest pieces from the left."""
    left, tokens = f"▁{word}", []

    while left:
        token = max(
            (t for t, piece in enumerate(PIECES) if left.startswith(piece)),
            key=lambda t: len(PIECES[t]),
            default=1,
        )
        tokens.append(token)
        left = left.removeprefix(PIECES[token]) if token != 1 else left[1:]

    return tokens


def spell_chars(text: str) -> list[int]:
    return [CHARS.index("▁" if c == " " else c) for c in text]


def emit(labels: Sequence[int], vocab_size: int, seed: int, noise: float = 0.3) -> Tensor:
    """Return log-probabilities *(T, V)* along a random path of labels, with noise."""
    generator, torch_generator = random.Random(seed), torch.Generator().manual_seed(seed)

    path, before = [0], 0
    for label in labels:
        path += [0] * (generator.choice([0, 1, 2]) or label == before)
        path += [label] * generator.choice([1, 1, 2, 3])
        before = label

    logits = noise * torch.randn(len(path) + 1, vocab_size, generator=torch_generator)
    logits[torch.arange(len(path) + 1), torch.tensor([*path, 0])] += 4.0

    return logits.log_softmax(dim=-1)


def draw_sentences(num_sentences: int, seed: int) -> list[str]:
    generator = random.Random(seed)
    words = list(LOG_PROBS)

    return [
        " ".join(generator.choices(words, k=generator.randint(1, 5))) for _ in range(num_sentences)
    ]


@pytest.mark.parametrize("kind", ["char", "pieces"])
def test_ngram_corrects_what_the_best_path_misspells(kind: str, lm: Path) -> None:
    sentences = draw_sentences(25, seed=1)

    if kind == "char":
        vocabulary, search = CHARS, BeamSearch(CHARS, lm=lm)
        labels = [spell_chars(sentence) for sentence in sentences]
    else:
        vocabulary, search = PIECES, BeamSearch(PIECES, lm=lm, speller=spell_pieces)
        labels = [[t for w in s.split() for t in spell_pieces(w)] for s in sentences]

    spoken = [emit(x, len(vocabulary), seed=n, noise=1.8) for n, x in enumerate(labels)]

    greedy = [to_text(vocabulary[t] for t in decode_greedy(x).tokens) for x in spoken]
    found = [search(x)[0].text for x in spoken]

    rates = [
        sum_counts(count_errors(r, h, "word") for r, h in zip(sentences, texts)).rate
        for texts in (greedy, found)
    ]
    assert rates[0] > 0.4
    assert rates[1] < 0.5 * rates[0]


@pytest.mark.parametrize("with_lm", [False, True])
def test_narrow_beam_finds_what_a_wide_one_finds_where_speech_is_clear(
    with_lm: bool, lm: Path
) -> None:
    options = {"lm": lm} if with_lm else {}
    wide = BeamSearch(
        CHARS, beam_size=300, beam_threshold=100.0, num_tokens_per_frame=13, **options
    )
    narrow = BeamSearch(CHARS, beam_size=8, num_tokens_per_frame=3, **options)

    for seed, sentence in enumerate(draw_sentences(6, seed=2)):
        log_probs = emit(spell_chars(sentence), len(CHARS), seed)

        best, near = wide(log_probs)[0], narrow(log_probs)[0]
        assert best.text == near.text == sentence
        # What is pruned is missing from the sum over paths: less than 1 nat.
        assert best.score - 1.0 < near.score <= best.score + 1e-4


@pytest.mark.parametrize("kind", ["char", "pieces"])
def test_word_that_the_ngram_lacks_is_kept_where_it_is_clear(kind: str, lm: Path) -> None:
    if kind == "char":
        search = BeamSearch(CHARS, lm=lm)
        log_probs = emit(spell_chars("das haus ruht"), len(CHARS), seed=3)
    else:
        search = BeamSearch(PIECES, lm=lm, speller=spell_pieces)
        tokens = [t for word in ("das", "hunde", "ist") for t in spell_pieces(word)]
        log_probs = emit(tokens, len(PIECES), seed=3)

    free, weighed = (
        search.with_weights(lm_weight=weight, word_score=0.0)(log_probs)[0] for weight in (0.0, 0.5)
    )
    assert weighed.text == free.text == ("das haus ruht" if kind == "char" else "das hunde ist")

    # It costs what the n-gram gives to the unknown.
    known = {"char": ["das", "haus"], "pieces": ["das", "ist"]}[kind]
    log_prob = sum(LOG_PROBS[word] for word in known) - 2.5 - 0.8
    # Pruned differently, the sums over paths differ by less than a hundredth.
    assert weighed.score - free.score == pytest.approx(0.5 * math.log(10.0) * log_prob, abs=0.01)


@pytest.mark.parametrize("kind", ["char", "pieces"])
def test_utterance_leaves_nothing_behind_for_the_next(kind: str, lm: Path) -> None:
    def make() -> BeamSearch:
        return (
            BeamSearch(CHARS, lm=lm)
            if kind == "char"
            else BeamSearch(PIECES, lm=lm, speller=spell_pieces)
        )

    vocab_size = len(CHARS if kind == "char" else PIECES)
    generator = torch.Generator().manual_seed(4)
    # Noise: every best path spells words that the n-gram lacks.
    spoken = [
        (3.0 * torch.randn(25, vocab_size, generator=generator)).log_softmax(-1) for _ in range(12)
    ]

    used = make()
    for log_probs in spoken:
        used(log_probs)

    again = [used(log_probs, num_best=3) for log_probs in spoken]

    assert again == [make()(log_probs, num_best=3) for log_probs in spoken]
    assert len({h.text for found in again for h in found}) > 12


def test_weights_of_a_copy_leave_the_original_as_it_was(lm: Path) -> None:
    log_probs = emit(spell_chars("der hund"), len(CHARS), seed=5)
    search = BeamSearch(CHARS, lm=lm, lm_weight=0.7, word_score=0.3)
    before = search(log_probs)

    other = search.with_weights(lm_weight=0.7, word_score=2.3)

    assert other(log_probs)[0].score == pytest.approx(before[0].score + 2 * 2.0, abs=1e-3)
    assert search(log_probs) == before


def test_words_of_beam_search_have_times(lm: Path) -> None:
    log_probs = emit(spell_chars("die haus"), len(CHARS), seed=6)

    found = BeamSearch(CHARS, lm=lm)(log_probs)[0]
    words = to_words(spans_of(found), CHARS, len(log_probs))

    assert [word.text for word in words] == ["die", "haus"]
    assert all(0.5 < word.confidence <= 1.0 for word in words)


@pytest.mark.parametrize("with_lm", [False, True])
def test_utterance_without_frames_has_no_words(with_lm: bool, lm: Path) -> None:
    found = BeamSearch(CHARS, **({"lm": lm, "lm_weight": 2.0} if with_lm else {}))(
        torch.zeros(0, 13)
    )

    assert [h.text for h in found] == [""]
    # The n-gram still scores the end of the sentence.
    assert found[0].score == pytest.approx(2.0 * math.log(10.0) * -0.8 if with_lm else 0.0)


@pytest.mark.parametrize("kind", ["char", "pieces"])
def test_best_path_is_returned_where_the_beam_loses_every_sentence(kind: str, lm: Path) -> None:
    if kind == "char":
        vocabulary, search = CHARS, BeamSearch(CHARS, lm=lm, beam_size=1, num_tokens_per_frame=1)
        # A character that the vocabulary lacks spells no word, and a beam of one cannot turn back.
        labels = [*spell_chars("de"), 1]
    else:
        vocabulary = PIECES
        search = BeamSearch(
            PIECES, lm=lm, speller=spell_pieces, beam_size=1, num_tokens_per_frame=1
        )
        labels = [3, 1]

    log_probs = emit(labels, len(vocabulary), seed=7, noise=0.1)
    found = search(log_probs)

    assert [h.tokens for h in found] == [decode_greedy(log_probs).tokens]
    assert found[0].text == ("de" if kind == "char" else "d")
    assert found[0].score == -math.inf


def test_ngram_whose_words_cannot_be_spelled_still_gives_a_text(lm: Path) -> None:
    vocabulary = ("<pad>", "<unk>", "▁", "x", "y")

    found = BeamSearch(vocabulary, lm=lm, lm_weight=0.1)(emit([3, 4, 2, 4], 5, seed=8))

    assert found[0].text == "xy y"


def test_text_leaves_out_what_is_unknown_and_a_clear_word_has_none_of_it() -> None:
    pieces = ["▁d", "<unk>", "er", "▁", "<unk>", "▁ist"]

    assert to_text(pieces) == "der ist"
    assert list_clear_words(pieces) == ["ist"]


def test_words_are_spelled_only_with_what_the_vocabulary_has() -> None:
    spelling = find_spelling(CHARS)

    assert spelling.boundary == "between"
    assert spelling.spell("hund") == tuple(CHARS.index(c) for c in "hund")
    assert spelling.spell("zug") is None
    assert spelling.spell("") is None

    pieces = find_spelling(PIECES, spell_pieces)

    assert pieces.boundary == "begin"
    assert pieces.spell("hund") == (PIECES.index("▁h"), PIECES.index("und"))
    assert pieces.spell("hundq") is None


def test_vocabulary_must_say_where_words_begin(lm: Path) -> None:
    with pytest.raises(InputError, match="3 tokens has no word boundary"):
        BeamSearch(("<pad>", "a", "b"), lm=lm)
    with pytest.raises(ValueError, match="`speller` must be given"):
        BeamSearch(PIECES, lm=lm)

    # Without an n-gram there is no need to know.
    assert BeamSearch(("<pad>", "a", "b"))(emit([1, 2], 3, seed=9))[0].text == "ab"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("beam_size", 0),
        ("num_tokens_per_frame", 0),
        ("beam_threshold", 0.0),
        ("lm_weight", -0.1),
        ("lm_weight", math.nan),
        ("word_score", math.inf),
    ],
)
def test_option_out_of_its_range_is_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        BeamSearch(CHARS, **{name: value})


def test_log_probabilities_of_another_shape_or_kind_are_refused() -> None:
    search = BeamSearch(CHARS)

    with pytest.raises(ValueError, match=r"\(T, 13\)"):
        search(torch.zeros(4, 12))
    with pytest.raises(ValueError, match="finite"):
        search(torch.full((4, 13), -math.inf))


def test_missing_extra_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "flashlight.lib.text.decoder", None)

    with pytest.raises(InputError, match=r"pip install 'eqssl_speech\[lm\]'"):
        BeamSearch(CHARS)


def test_beginning_of_a_word_hopes_for_the_best_word_that_begins_so() -> None:
    words = WordTrie(vocab_size=8, boundary=7)
    words.insert([([1, 2], 0, -1.0), ([1, 3], 1, -0.5), ([4], 2, -2.0)])

    def hope(*tokens: int) -> float:
        return float(words.trie.search(tokens).max_score)

    assert [hope(1), hope(1, 2), hope(1, 3), hope(4)] == [-0.5, -1.0, -0.5, -2.0]

    with words.extended([([1, 2, 5], 3, -3.0)]):
        assert [hope(1, 2, 5), hope(1, 2, 5, 7), hope(1, 2)] == [-3.0, -3.0, -1.0]

    assert words.trie.search([1, 2, 5]) is None
    assert words.trie.search([1, 2, 7]).labels == [0]
