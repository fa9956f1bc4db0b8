"""N-grams are made by the tool that is there, are probabilities, and are of the text that was asked for."""

from __future__ import annotations

import math
import os
import random
import shutil
import stat
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

import pytest

import eqssl_speech  # noqa: F401  Finds libsndfile.
from eqssl_speech.cli import lm as command
from eqssl_speech.data.corpus import DataSource, load_corpus, write_sources
from eqssl_speech.data.manifest import ManifestEntry, write_manifest
from eqssl_speech.decoding import lm
from eqssl_speech.decoding.lm import build_ngram, find_estimator
from eqssl_speech.decoding.lm_text import read_corpus_text, read_text
from eqssl_speech.decoding.ngram import NGram
from eqssl_speech.error import InputError
from eqssl_speech.text.build import build_tokenizer

WORDS = ["der", "die", "das", "haus", "hund", "ist", "groß", "не", "l'ami"]


def draw_sentences(num_sentences: int, seed: int) -> list[list[str]]:
    """Draw sentences in which some words follow others more often."""
    generator = random.Random(seed)
    sentences = []

    for _ in range(num_sentences):
        words = [generator.choice(WORDS[:3])]
        while generator.random() < 0.75:
            after = WORDS.index(words[-1])
            words.append(WORDS[(after + generator.choice([1, 1, 1, 3, 4])) % len(WORDS)])
        sentences.append(words)

    return sentences


def sum_over_vocabulary(ngram: NGram, history: Sequence[str]) -> float:
    """Return the probability of all that may follow: the words, the unknown, and the end."""
    state = ngram.model.start(False)
    for word in history:
        state, _ = ngram.model.score(state, ngram.find(word))

    scores = [ngram.model.score(state, index)[1] for index in range(len(ngram.words) + 1)]

    return sum(10.0**score for score in [*scores, ngram.model.finish(state)[1]])


@pytest.mark.parametrize("order", [2, 3, 4, 5])
def test_probabilities_after_any_words_sum_to_one(order: int, tmp_path: Path) -> None:
    _, ngram = build_ngram(draw_sentences(60, seed=order), tmp_path / "lm.arpa", order=order)

    assert set(ngram.words) == set(WORDS)

    for history in [[], ["der"], ["haus"], ["die", "haus"], *draw_sentences(20, seed=9)]:
        # The file has seven digits of each logarithm.
        assert sum_over_vocabulary(ngram, history) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("sentences", [[["ja"]], [["ja"], ["nein"]], [["a", "b"], ["b", "a"]] * 50])
def test_shortest_and_most_uniform_texts_make_ngrams_too(
    sentences: list[list[str]], tmp_path: Path
) -> None:
    _, ngram = build_ngram(sentences, tmp_path / "lm.arpa")

    assert sum_over_vocabulary(ngram, []) == pytest.approx(1.0, abs=1e-3)
    assert ngram.score(sentences).perplexity < 10.0


def test_unknown_word_is_possible_and_less_probable_than_a_known_one(tmp_path: Path) -> None:
    _, ngram = build_ngram(draw_sentences(60, seed=1), tmp_path / "lm.arpa")

    known = ngram.score([["der", "haus"]]).log_prob
    unknown = ngram.score([["der", "nova"]]).log_prob

    assert known - 10.0 < unknown < known


def test_text_that_is_there_twice_leaves_room_for_what_it_lacks(tmp_path: Path) -> None:
    pairs = [[f"a{n}", f"b{n}"] for n in range(30)]
    _, ngram = build_ngram(pairs * 2, tmp_path / "lm.arpa", order=2)

    state, _ = ngram.model.score(ngram.model.start(False), ngram.find("a7"))

    # Next to nothing occurs once, from which the discount would be none; 0.1 of a count of 2 is a twentieth.
    assert 10.0 ** ngram.model.score(state, ngram.find("b7"))[1] == pytest.approx(0.95, abs=0.01)


def test_order_of_words_is_learnt(tmp_path: Path) -> None:
    training, held_out = draw_sentences(300, seed=2), draw_sentences(100, seed=3)

    _, ngram = build_ngram(training, tmp_path / "lm.arpa", order=2)
    shuffled = [random.Random(n).sample(words, len(words)) for n, words in enumerate(held_out)]

    assert ngram.score(held_out).perplexity < 0.7 * ngram.score(shuffled).perplexity


def test_what_was_made_is_counted_and_loads_again(tmp_path: Path) -> None:
    sentences = [["a", "b", "a"], [], ["b"]]

    built, ngram = build_ngram(sentences, tmp_path / "new" / "lm.arpa", order=2)

    assert (built.num_sentences, built.num_words) == (2, 4)
    # <s>, </s>, <unk>, a, b; the bigrams are those of the text and of the unknown.
    assert built.num_ngrams[0] == 5
    assert len(built.num_ngrams) == 2
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["lm.arpa"]
    assert NGram(built.file).score(sentences) == ngram.score(sentences)


def test_tools_show_no_progress_of_their_own(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    build_ngram(draw_sentences(30, seed=4), tmp_path / "lm.arpa")

    assert capfd.readouterr() == ("", "")


def test_same_text_makes_the_same_file(tmp_path: Path) -> None:
    files = [tmp_path / "a.arpa", tmp_path / "b.arpa"]

    for file in files:
        build_ngram(draw_sentences(30, seed=4), file)

    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("word", ["<s>", "</s>", "<unk>", "", "a b", "a\u00a0b"])
def test_words_that_cannot_stand_in_an_ngram_are_refused(word: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot stand in an n-gram"):
        build_ngram([["der", word]], tmp_path / "lm.arpa")

    assert not list(tmp_path.iterdir())


def test_no_text_and_no_such_order_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no text"):
        build_ngram([[]], tmp_path / "lm.arpa")
    for order in (1, 6):
        with pytest.raises(InputError, match=f"from 2 to 5, but is {order}"):
            build_ngram([["a"]], tmp_path / "lm.arpa", order=order)


def test_ngram_is_not_written_over_a_directory(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        build_ngram([["a"]], tmp_path)


def test_without_a_tool_the_command_that_installs_one_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(lm, "find_spec", lambda _: None)

    with pytest.raises(InputError, match=r"pip install 'eqssl_speech\[lm\]'.*lmplz"):
        find_estimator()


def plant_lmplz(directory: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = directory / "lmplz"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")


def test_lmplz_is_preferred_and_given_the_text_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = build_ngram([["ja"], ["nein"]], tmp_path / "made.arpa", order=2)
    seen = tmp_path / "seen"
    plant_lmplz(
        tmp_path, monkeypatch, f'echo "$@" > {seen}; cat "$4" >> {seen}; cp {made.file} "$6"'
    )

    built, _ = build_ngram([["ja"], ["nein"]], tmp_path / "lm.arpa", order=4)

    assert built.estimator == "lmplz"
    arguments, *text = seen.read_text().splitlines()
    assert arguments.startswith("--order 4 --text ")
    assert "--discount_fallback" in arguments
    assert text == ["ja", "nein"]


def test_failure_of_a_tool_is_told_in_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_lmplz(tmp_path, monkeypatch, "echo working >&2; echo no memory left >&2; exit 3")

    with pytest.raises(InputError, match=r"lmplz could not make the n-gram \(no memory left\)"):
        build_ngram([["ja"]], tmp_path / "lm.arpa")


def write_source(corpus: Path, name: str, splits: dict[str, list[str]]) -> None:
    directory = corpus / name
    directory.mkdir(parents=True)

    for split, texts in splits.items():
        entries = [ManifestEntry(f"{split}{n}.flac", 16_000) for n, _ in enumerate(texts)]
        write_manifest(directory / f"{split}.tsv", ".", entries)
        (directory / f"{split}.wrd").write_text("".join(f"{t}\n" for t in texts), encoding="utf-8")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    corpus = tmp_path / "corpus"
    write_source(corpus, "de-a", {"train": ["der hund", "das haus"], "valid": ["der hahn"]})
    write_source(corpus, "nl-b", {"train": ["het huis", ""], "test": ["niet lezen"]})
    write_sources(
        corpus,
        [DataSource(name, name[:2], "read", "MIT", corpus / name) for name in ("de-a", "nl-b")],
    )
    return corpus


def test_text_of_a_corpus_is_that_of_its_sources_and_split(corpus: Path) -> None:
    assert read_corpus_text(corpus, None, None, "train").words == (
        ("der", "hund"),
        ("das", "haus"),
        ("het", "huis"),
    )
    assert read_corpus_text(corpus, ["nl-b"], None, "train").words == (("het", "huis"),)
    assert read_corpus_text(corpus, None, None, "valid").words == (("der", "hahn"),)


def test_text_files_are_read_line_by_line(tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_bytes("\ufeffein  haus\r\n\n zwei\n".encode())

    assert read_text(file, None, None).words == (("ein", "haus"), ("zwei",))

    file.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot be read as UTF-8"):
        read_text(file, None, None)


def test_text_is_written_as_the_tokenizer_writes_it(corpus: Path, tmp_path: Path) -> None:
    tokenizer = build_tokenizer(load_corpus(corpus)).tokenizer
    file = tmp_path / "text"
    file.write_text("Der Hund, DAS Haus!\n12 Hunde\n...\n", encoding="utf-8")

    found = read_text(file, tokenizer, "de")

    assert found.words == (("der", "hund", "das", "haus"),)
    assert len(found.refusals) == 1
    assert found.refusals[0].startswith(f"{file}:2: ")

    # It writes text of two languages, which may differ.
    with pytest.raises(InputError, match="`de`, `nl`; add `--language`"):
        read_text(file, tokenizer, None)

    german = build_tokenizer(load_corpus(corpus), ["de-a"]).tokenizer
    assert read_text(file, german, None) == found


def test_refused_text_of_a_corpus_is_named_by_its_line(corpus: Path) -> None:
    tokenizer = build_tokenizer(load_corpus(corpus)).tokenizer
    (corpus / "de-a" / "train.wrd").write_text("Der Hund\n2 Hunde\n", encoding="utf-8")

    found = read_corpus_text(corpus, ["de-a"], tokenizer, "train")

    assert found.words == (("der", "hund"),)
    assert found.refusals[0].startswith(f"{corpus / 'de-a' / 'train.tsv'}:3: ")


def run(*arguments: str | Path) -> int:
    parser = ArgumentParser()
    command.add(parser.add_subparsers())
    options = parser.parse_args(["lm", *map(str, arguments)])

    return int(options.run(options))


def test_command_makes_an_ngram_and_measures_it(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = tmp_path / "more.txt"
    more.write_text("der hahn\n", encoding="utf-8")

    assert run(more, tmp_path / "lm.arpa", "--corpus", corpus, "--source", "de-a") == 0

    printed = capsys.readouterr().out
    assert "training          3      6           0.0%" in printed
    assert "held out          1      2           0.0%" in printed
    assert f"Written: {tmp_path / 'lm.arpa'} (8 1-grams" in printed
    assert math.isfinite(NGram(tmp_path / "lm.arpa").score([["der", "hahn"]]).log_prob)


def test_command_measures_with_the_text_that_is_given(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.txt"
    other.write_text("das ist neu\n", encoding="utf-8")

    run(tmp_path / "lm.arpa", "--corpus", corpus, "--held-out", other, "--order", "2")

    assert "held out          1      3          66.7%" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lm.arpa"], "no text"),
        (["a.txt", "b.txt"], "would be overwritten"),
        (["a", "lm.arpa", "--source", "de-a"], "`--source` needs `--corpus DIR`"),
        (["a", "lm.arpa", "--language", "de"], "`--language` needs `--tokenizer DIR`"),
    ],
)
def test_command_refuses_what_does_not_go_together(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(*arguments)
