"""Building a tokenizer of a corpus: which sources take part, what the vocabulary covers and what it does not."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path

import pytest

from eqssl_speech.cli import tokenizer as command
from eqssl_speech.data.corpus import Corpus, DataSource, load_corpus, write_sources
from eqssl_speech.data.manifest import ManifestEntry, write_manifest
from eqssl_speech.error import InputError
from eqssl_speech.text.build import build_tokenizer
from eqssl_speech.text.coverage import list_other_rows, list_training_rows
from eqssl_speech.text.rules import RuleOverrides
from eqssl_speech.text.tables import render_table
from eqssl_speech.text.tokenizer import CtcTokenizer
from eqssl_speech.text.transcripts import select_transcribed

LANGUAGES = {"en-read": "en", "ru-read": "ru", "xx-none": "xx"}


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """Two sources with text and one without; recordings are not there."""
    texts = {
        ("en-read", "train"): ["Abba!", "a cab", "3 cabs", "...", "ZAC ab"],
        ("en-read", "valid"): ["a bad cad", "b a", "b"],
        ("ru-read", "train"): ["аб", "ба"],
        ("ru-read", "test"): ["а б", "7"],
        ("xx-none", "train"): None,
    }

    for (name, split), lines in texts.items():
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        num_lines = 2 if lines is None else len(lines)
        entries = [ManifestEntry(f"{split}{i}.wav", 16_000 * (i + 1)) for i in range(num_lines)]
        write_manifest(folder / f"{split}.tsv", ".", entries)
        if lines is not None:
            (folder / f"{split}.wrd").write_text("".join(f"{line}\n" for line in lines))

    write_sources(
        tmp_path,
        [DataSource(n, lang, "read", "CC0", tmp_path / n) for n, lang in LANGUAGES.items()],
    )

    return load_corpus(tmp_path)


def test_training_text_of_all_sources_that_have_some_makes_the_vocabulary(corpus: Corpus) -> None:
    built = build_tokenizer(corpus)

    assert built.tokenizer.alphabet == set("abcz" + "аб")
    assert built.tokenizer.languages == ("en", "ru")
    assert [(s.name, s.num_utterances) for s in built.tokenizer.info.sources] == [
        ("en-read", 3),
        ("ru-read", 2),
    ]
    assert built.without_text == ("xx-none",)


def test_named_sources_alone_take_part(corpus: Corpus) -> None:
    built = build_tokenizer(corpus, ["ru-read"])

    assert built.tokenizer.alphabet == set("аб")
    assert built.without_text == ()


def test_source_without_text_cannot_be_named(corpus: Corpus) -> None:
    with pytest.raises(InputError, match=r"xx-none/train\.wrd: the source `xx-none` has no"):
        build_tokenizer(corpus, ["ru-read", "xx-none"])


def test_unknown_source_fails_with_the_known_ones(corpus: Corpus) -> None:
    with pytest.raises(InputError, match=r"`ru-rea` is unknown; .*`en-read`, `ru-read`, `xx-none`"):
        build_tokenizer(corpus, ["ru-rea"])


def test_corpus_without_any_text_is_refused(corpus: Corpus) -> None:
    with pytest.raises(InputError, match="no source has text"):
        select_transcribed(Corpus(corpus.directory, corpus.sources[2:]), None)


def test_corpus_whose_text_is_all_refused_says_so(corpus: Corpus) -> None:
    (corpus.directory / "ru-read" / "train.wrd").write_text("1\n2\n")

    with pytest.raises(InputError, match="is empty once it is normalised, or all of it is refused"):
        build_tokenizer(corpus, ["ru-read"])


def test_training_text_is_counted(corpus: Corpus) -> None:
    english = build_tokenizer(corpus).training[0]

    assert english.num_utterances == 3
    assert english.num_empty == 1
    where = f"{corpus.directory / 'en-read' / 'train.tsv'}:4"
    assert english.refusals == (
        f"{where}: the text holds the digit `3`, whose spoken form is not written",
    )
    assert english.counts == {"a": 6, "b": 4, "c": 2, "z": 1}
    assert list(english.counts) == ["a", "b", "c", "z"]
    assert english.seen_once == "z"
    # "abba", "a cab" and "zac ab", with the spaces.
    assert english.num_labels == 4 + 5 + 6
    assert english.duration_s is None
    assert english.labels_per_s is None
    assert english.unknown_share == 0.0


def test_labels_per_second_are_of_usable_utterances(
    corpus: Corpus, make_speech: Callable[..., object], write_audio: Callable[..., int]
) -> None:
    write_audio(corpus.directory / "en-read" / "train0.wav", make_speech(1, 0.5, 8_000), 8_000)

    english = build_tokenizer(corpus).training[0]

    # The first, the second and the last, at the rate that the file has.
    assert english.duration_s == pytest.approx((1 + 2 + 5) * 2)
    assert english.labels_per_s == pytest.approx(15 / 16)


def test_characters_of_other_splits_that_the_vocabulary_lacks_are_named(corpus: Corpus) -> None:
    valid, test = build_tokenizer(corpus).others

    assert (valid.split, test.split) == ("valid", "test")
    assert valid.unknown == {"d": 2}
    assert valid.unknown_share == pytest.approx(2 / 10)
    assert valid.num_unknown_utterances == 1
    assert valid.unknown_utterance_share == pytest.approx(1 / 3)
    assert test.unknown == {}
    assert len(test.refusals) == 1


def test_rare_characters_are_not_covered(corpus: Corpus) -> None:
    built = build_tokenizer(corpus, ["en-read"], min_char_count=2)

    assert built.tokenizer.info.rare_characters == "z"
    assert built.training[0].unknown_share == pytest.approx(1 / 13)
    assert list_training_rows(built.training)[1][-2:] == ["92.31%", "z"]


def test_overrides_hold_for_every_language(corpus: Corpus) -> None:
    overrides = RuleOverrides(case="keep", digits="keep", punctuation="keep")

    built = build_tokenizer(corpus, overrides=overrides)

    assert built.tokenizer.alphabet == set("AabcsZC3!.") | set("аб")
    assert all(r.case == "keep" for r in built.tokenizer.info.rules.values())
    assert built.others[1].unknown == {"7": 1}


def test_tables_name_every_source(corpus: Corpus) -> None:
    built = build_tokenizer(corpus)

    training, other = list_training_rows(built.training), list_other_rows(built.others)

    assert [row[0] for row in training] == ["source", "en-read", "ru-read"]
    assert other[1][-3:] == ["20.00%", "33.3%", "d"]

    lines = render_table(other, title="x", left=["source", "split", "which"]).split("\n")
    assert (
        lines[4]
        == "en-read  valid           3        0      0              20.00%          33.3%  d"
    )


def run(*args: object) -> int:
    parser = ArgumentParser()
    command.add(parser.add_subparsers())
    options = parser.parse_args(["tokenizer", *map(str, args)])

    return int(options.run(options))


def test_command_writes_the_tokenizer_and_says_what_it_lacks(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(corpus.directory, tmp_path / "out", "--min-char-count", 2) == 0

    out = capsys.readouterr().out

    assert CtcTokenizer.load(tmp_path / "out").languages == ("en", "ru")
    assert "Left out, as they have no training text (train.wrd): xx-none." in out
    assert "train.tsv:4: the text holds the digit `3`" in out
    assert "Unknown, as the training text has them less than 2 times: z." in out
    assert "Characters that the vocabulary lacks are never recognised" in out
    assert f"Written: {tmp_path / 'out'} (char, 8 labels, languages: en, ru)" in out


def test_command_keeps_another_tokenizer_unless_forced(corpus: Corpus, tmp_path: Path) -> None:
    out = tmp_path / "out"

    run(corpus.directory, out)
    run(corpus.directory, out)

    with pytest.raises(InputError, match="holds another tokenizer"):
        run(corpus.directory, out, "--source", "ru-read")

    assert run(corpus.directory, out, "--source", "ru-read", "--force", "--inner", "-") == 0
    assert CtcTokenizer.load(out).languages == ("ru",)
    assert CtcTokenizer.load(out).info.rules["ru"].inner == "-"
