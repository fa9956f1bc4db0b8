"""N-grams are read, scored and refused as they should be."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import pytest

from eqssl_speech.decoding.ngram import NGram, TextScore, read_arpa_words
from eqssl_speech.error import InputError

ARPA = """\\data\\
ngram 1=6
ngram 2=3

\\1-grams:
-99\t<s>\t-0.3
-0.7\t</s>
-1.4\t<unk>
-0.5\tя\t-0.2
-0.9\tl'ami\t-0.4
-0.8\ta\u00a0b\t0.1

\\2-grams:
-0.2\t<s> я
-1.3\tя я
-0.4\tl'ami </s>

\\end\\
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "lm.arpa"
    path.write_text(ARPA, encoding="utf-8")

    return path


def test_words_are_those_of_the_unigrams(file: Path) -> None:
    # The space that does not break is part of a word to KenLM.
    assert read_arpa_words(file) == ["я", "l'ami", "a\u00a0b"]


def test_compressed_ngram_is_read_as_well(file: Path, tmp_path: Path) -> None:
    packed = tmp_path / "lm.arpa.gz"
    packed.write_bytes(gzip.compress(file.read_bytes()))

    assert read_arpa_words(packed) == read_arpa_words(file)
    assert NGram(packed).score([["я"]]) == NGram(file).score([["я"]])


def test_text_is_scored_with_backing_off_and_sentence_ends(file: Path) -> None:
    # <s> я | я я | я: back off, l'ami | l'ami </s>; then <s>: back off, <unk> | <unk> </s>, without a weight.
    first = -0.2 - 1.3 + (-0.2 - 0.9) - 0.4
    second = (-0.3 - 1.4) - 0.7

    found = NGram(file).score([["я", "я", "l'ami"], ["nova"]])

    assert found.log_prob == pytest.approx(math.log(10.0) * (first + second), abs=1e-5)
    assert (found.num_words, found.num_unknown, found.num_sentences) == (4, 1, 2)
    assert found.perplexity == pytest.approx(10 ** (-(first + second) / 6), rel=1e-5)
    assert found.unknown_rate == 0.25


def test_perplexity_of_no_text_is_not_a_number() -> None:
    empty = TextScore(0.0, 0, 0, 0)

    assert math.isnan(empty.perplexity)
    assert empty.unknown_rate == 0.0


def test_spare_words_are_scored_as_unknown_and_stay_apart(file: Path) -> None:
    ngram = NGram(file, num_spare=2)
    start = ngram.model.start(False)

    states, scores = zip(*(ngram.model.score(start, index) for index in ngram.spare), strict=True)

    assert len(ngram.spare) == 2
    assert scores == pytest.approx([-1.7, -1.7])
    assert states[0].compare(states[1]) != 0
    assert ngram.find("nova") is None
    assert ngram.find("l'ami") == 1


def test_loading_shows_no_progress_of_kenlm(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    NGram(file)

    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no n-gram at all\n", "holds no words"),
        (b"\\data\\\nngram 1=1\n\n\\1-grams:\n\n\\end\\\n", "holds no words"),
        (b"\xff\xfe\\data\\", "cannot be read as an n-gram"),
        (b"\x1f\x8bnot gzip", "cannot be read as an n-gram"),
        (b"mmap lm http://kheafield.com/code format version 5\n\x00", "does not list its words"),
        (ARPA.replace("-0.4\tl'ami </s>\n", "").encode(), "KenLM cannot load"),
    ],
)
def test_file_that_is_no_ngram_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.arpa"
    path.write_bytes(content)

    with pytest.raises(InputError, match=rf"bad\.arpa.*{message}"):
        NGram(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.arpa.*cannot be read"):
        NGram(tmp_path / "none.arpa")
    with pytest.raises(InputError, match=r"none\.arpa: there is no such n-gram"):
        NGram(tmp_path / "none.arpa", words=["a"])
