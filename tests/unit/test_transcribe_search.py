"""Searches over words: a long recording is divided for them between words, and the options say what is meant."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from spelled_audio import TOKENIZER, SpelledRecognizer, spell, write_ngram, write_spelled

from eqssl_speech.decoding.greedy import decode_greedy
from eqssl_speech.error import InputError
from eqssl_speech.tasks.transcribe.decoder import Search, SearchOptions, WordCutter, make_search
from eqssl_speech.tasks.transcribe.emission import EmissionPart
from eqssl_speech.tasks.transcribe.inputs import InputFile
from eqssl_speech.tasks.transcribe.planning import EmissionOptions
from eqssl_speech.tasks.transcribe.result import HypothesisJoiner, Transcript
from eqssl_speech.tasks.transcribe.transcribe import open_recordings, transcribe
from eqssl_speech.text.languages import make_rules
from eqssl_speech.text.tokenizer import CtcTokenizer
from eqssl_speech.text.tokenizer_info import TrainedSource
from eqssl_speech.text.training import train_tokenizer

WORDS = ("the", "cat", "sat", "on", "a", "mat", "and", "ate", "rats")


def draw_text(seed: int, num_words: int) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, num_words))


def make_pieces() -> CtcTokenizer:
    lines = [draw_text(seed, 30) for seed in range(40)]

    return train_tokenizer(
        {TrainedSource("en", "en", 40): lines},
        {"en": make_rules("en")},
        kind="unigram",
        vocab_size=20,
    )


TOKENIZERS = {"char": TOKENIZER, "unigram": make_pieces()}


def emit_text(tokenizer: CtcTokenizer, text: str, seed: int) -> torch.Tensor:
    """Make log-probabilities of a text, with pauses of all lengths between and within words."""
    rng = np.random.default_rng(seed)
    labels = [0] * 5

    for token in tokenizer.encode(text):
        labels += [token] * int(rng.integers(1, 4)) + [0] * int(rng.choice([1, 2, 3, 15]))

    probs = torch.full((len(labels), tokenizer.vocab_size), 0.02 / tokenizer.vocab_size)
    probs[torch.arange(len(labels)), torch.tensor(labels)] += 0.98

    return probs.log()


def divide(emission: torch.Tensor, seed: int, num_cuts: int) -> list[EmissionPart]:
    num_frames = len(emission)
    cuts = sorted(np.random.default_rng(seed).integers(0, num_frames, num_cuts).tolist())

    return [
        EmissionPart(0, start, emission[start:stop], stop == num_frames)
        for start, stop in zip([0, *cuts], [*cuts, num_frames], strict=True)
    ]


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("seed", range(10))
def test_parts_are_cut_between_words_and_lose_no_frame(kind: str, seed: int) -> None:
    tokenizer = TOKENIZERS[kind]
    text = draw_text(seed, 40)
    emission = emit_text(tokenizer, text, seed)

    cutter = WordCutter(tokenizer)
    parts = [cut for part in divide(emission, seed, 6) if (cut := cutter.push(part)) is not None]

    assert len(parts) > 1
    assert torch.equal(torch.cat([part.log_probs for part in parts]), emission)
    assert [part.is_last for part in parts] == [False] * (len(parts) - 1) + [True]

    start = 0
    words: list[str] = []
    for part in parts:
        assert part.start == start
        start += len(part.log_probs)
        words += tokenizer.decode(decode_greedy(part.log_probs).tokens).split()

    assert words == text.split()


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("seed", range(10))
def test_search_over_words_reads_a_divided_recording_as_the_whole(kind: str, seed: int) -> None:
    tokenizer = TOKENIZERS[kind]
    text = draw_text(seed, 40)

    # As a search over words does, it says nothing of the boundary at the ends of a part.
    def decode(log_probs: torch.Tensor) -> object:
        frames = log_probs.clone()
        boundary = tokenizer.vocabulary.index("▁") if "▁" in tokenizer.vocabulary else None
        labels = frames.argmax(dim=-1).tolist()

        for order in (range(len(labels)), reversed(range(len(labels)))):
            for frame in order:
                if labels[frame] not in (0, boundary):
                    break
                frames[frame] = torch.tensor([0.0] + [-20.0] * (tokenizer.vocab_size - 1))

        return decode_greedy(frames)

    joiner = HypothesisJoiner(Search(decode, "test", True), tokenizer)  # type: ignore[arg-type]
    for part in divide(emit_text(tokenizer, text, seed), seed, 6):
        joiner.add(part)

    assert tokenizer.decode(joiner.list_tokens()) == text

    words = joiner.list_words(SpelledRecognizer(tokenizer))  # type: ignore[arg-type]

    assert " ".join(word.text for word in words) == text
    assert all(a.end_s <= b.start_s + 1e-9 for a, b in zip(words, words[1:]))  # noqa: RUF007


def test_word_without_end_is_cut_after_a_minute() -> None:
    label = TOKENIZER.encode("a")[0]
    emission = torch.full((8000, TOKENIZER.vocab_size), -20.0)
    emission[:, 0] = -5.0
    emission[::3, label] = 0.0

    cutter = WordCutter(TOKENIZER)
    lengths = []

    for start in range(0, 8000, 1000):
        part = cutter.push(EmissionPart(0, start, emission[start : start + 1000], start == 7000))
        if part is not None:
            lengths.append(len(part.log_probs))

    assert lengths == [4000, 4000]


def test_silence_is_cut_anywhere() -> None:
    silence = torch.full((500, TOKENIZER.vocab_size), -20.0)
    silence[:, 0] = 0.0

    part = WordCutter(TOKENIZER).push(EmissionPart(0, 0, silence, False))

    assert part is not None
    assert len(part.log_probs) == 250


def test_greedy_is_the_default() -> None:
    search = make_search(TOKENIZER, SearchOptions())

    assert search.description == "greedy"
    assert not search.finds_words


def test_weights_without_a_language_model_are_refused() -> None:
    with pytest.raises(InputError, match="`--lm-weight` needs a language model"):
        make_search(TOKENIZER, SearchOptions(lm_weight=0.5, word_score=0.0))


def test_missing_language_model_is_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("flashlight.lib.text.decoder")

    with pytest.raises(InputError, match=r"nowhere\.arpa"):
        make_search(TOKENIZER, SearchOptions(lm=tmp_path / "nowhere.arpa"))


def test_weight_out_of_range_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("flashlight.lib.text.decoder")

    lm = write_ngram(tmp_path / "words.arpa", WORDS)

    with pytest.raises(InputError, match="`lm_weight` must be finite and at least 0"):
        make_search(TOKENIZER, SearchOptions(lm=lm, lm_weight=-1.0))


def test_beam_without_a_language_model_reads_what_greedy_reads() -> None:
    pytest.importorskip("flashlight.lib.text.decoder")

    search = make_search(TOKENIZER, SearchOptions(beam_size=10))
    recognizer = SpelledRecognizer()

    (emission,) = recognizer.emit([spell("the cat sat")])

    assert search.description == "beam search (beam_size 10)"
    assert TOKENIZER.decode(search.decode(emission).tokens) == "the cat sat"


@pytest.mark.parametrize("beam_size", [None, 10])
def test_label_of_unknown_characters_is_never_text(beam_size: int | None) -> None:
    if beam_size is not None:
        pytest.importorskip("flashlight.lib.text.decoder")

    # The vocabulary has no digits; what spells them emits `<unk>`.
    (emission,) = SpelledRecognizer().emit([spell("the c4t 77 sat 5")])

    assert (emission.argmax(dim=-1) == TOKENIZER.unk_index).sum() >= 6

    joiner = HypothesisJoiner(make_search(TOKENIZER, SearchOptions(beam_size=beam_size)), TOKENIZER)
    joiner.add(EmissionPart(0, 0, emission, True))

    words = joiner.list_words(SpelledRecognizer())  # type: ignore[arg-type]

    assert TOKENIZER.decode(joiner.list_tokens()) == "the ct sat"
    assert [word.text for word in words] == ["the", "ct", "sat"]


@pytest.mark.parametrize("max_segment_s", [4.0, 1000.0])
def test_language_model_mends_a_word_in_a_long_recording(
    tmp_path: Path, max_segment_s: float
) -> None:
    pytest.importorskip("flashlight.lib.text.decoder")

    text = draw_text(3, 60)
    words = text.split()
    words[20] = "ratx"

    pauses = {i: 8 for i, char in enumerate(" ".join(words)) if char == " "}
    write_spelled(tmp_path / "a.wav", " ".join(words), pauses=pauses)

    lm = write_ngram(tmp_path / "words.arpa", WORDS)
    search = make_search(TOKENIZER, SearchOptions(lm=lm, lm_weight=1.0, beam_size=30))
    recognizer = SpelledRecognizer()

    recordings = open_recordings([InputFile(tmp_path / "a.wav", Path("a"))], recognizer, 1)  # type: ignore[arg-type]
    options = EmissionOptions(max_segment_s=max_segment_s)

    (result,) = transcribe(recordings, recognizer, search, options)  # type: ignore[arg-type]

    assert isinstance(result, Transcript)

    found = result.text.split()

    assert len(found) == 60
    assert found[:20] + found[21:] == words[:20] + words[21:]
    # Which word it is, pruning decides: all other labels are as improbable.
    assert found[20] in WORDS
    assert "lm_weight 1" in search.description
