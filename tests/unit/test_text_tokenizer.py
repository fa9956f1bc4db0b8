"""Tokenizers: the same text gives the same files, the host reads them too, and what cannot be used says why."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fairseq2.data.tokenizers import TokenizerFamily
from fairseq2.data.tokenizers.char import CHAR_TOKENIZER_FAMILY
from fairseq2.device import CPU
from fairseq2.gang import create_fake_gangs
from fairseq2.runtime.dependency import get_dependency_resolver

from eqssl_speech.error import InputError
from eqssl_speech.text.languages import make_rules
from eqssl_speech.text.tokenizer import FILES, INFO_FILE, MODEL_FILE, VOCABULARY_FILE, CtcTokenizer
from eqssl_speech.text.tokenizer_info import TrainedSource
from eqssl_speech.text.training import train_tokenizer

KINDS: list[dict[str, Any]] = [
    {"kind": "char"},
    {"kind": "unigram", "vocab_size": 60},
    {"kind": "bpe", "vocab_size": 60},
]


def make_lines(seed: int, alphabet: str, count: int = 200) -> list[str]:
    """Make words of syllables that recur, as those of a language do."""
    rng = random.Random(seed)

    syllables = ["".join(rng.choices(alphabet, k=rng.randint(1, 3))) for _ in range(20)]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 3))) for _ in range(60)]

    return [" ".join(rng.choices(words, k=rng.randint(1, 9))) for _ in range(count)]


TEXTS = {
    TrainedSource("read", "ru", 200): make_lines(1, "абвгдеёжз'й"),
    TrainedSource("acted", "tr", 200): make_lines(2, "abcdeıişğo"),
}

RULES = {language: make_rules(language) for language in ("ru", "tr")}


def train(**options: Any) -> CtcTokenizer:
    return train_tokenizer(TEXTS, RULES, **options)


@pytest.mark.parametrize("options", KINDS)
def test_text_survives_the_round_trip(options: dict[str, Any], tmp_path: Path) -> None:
    tokenizer = train(**options)

    for line in [line for lines in TEXTS.values() for line in lines]:
        indices = tokenizer.encode(line)

        assert min(indices) > 0
        assert tokenizer.unk_index not in indices
        assert tokenizer.decode(indices) == line


@pytest.mark.parametrize("options", KINDS)
def test_same_text_gives_the_same_files(options: dict[str, Any], tmp_path: Path) -> None:
    for name in ("a", "b"):
        train(**options).save(tmp_path / name)

    CtcTokenizer.load(tmp_path / "a").save(tmp_path / "c")

    for name in FILES:
        content = (tmp_path / "a" / name).read_bytes()
        assert content == (tmp_path / "b" / name).read_bytes()
        assert content == (tmp_path / "c" / name).read_bytes()

    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == sorted(FILES)


@pytest.mark.parametrize("options", KINDS)
def test_vocabulary_begins_with_the_blank(options: dict[str, Any], tmp_path: Path) -> None:
    train(**options).save(tmp_path / "t")
    tokenizer = CtcTokenizer.load(tmp_path / "t")

    assert tokenizer.blank_index == 0
    assert tokenizer.unk_index == 1
    assert tokenizer.vocabulary[:2] == ("<pad>", "<unk>")
    assert tokenizer.vocab_size == len(tokenizer.vocabulary) == options.get("vocab_size", 24)
    assert tokenizer.kind == options["kind"]
    assert tokenizer.languages == ("ru", "tr")
    assert tokenizer.info.sources == tuple(TEXTS)
    assert (tmp_path / "t" / VOCABULARY_FILE).read_text().splitlines() == list(tokenizer.vocabulary)


@pytest.mark.parametrize("options", KINDS)
def test_host_reads_the_model_as_its_own(options: dict[str, Any], tmp_path: Path) -> None:
    tokenizer = train(**options)
    tokenizer.save(tmp_path / "t")

    family = get_dependency_resolver().resolve(TokenizerFamily, key=CHAR_TOKENIZER_FAMILY)
    theirs = family.load_custom_tokenizer(tmp_path / "t" / MODEL_FILE, None, create_fake_gangs(CPU))

    info = theirs.vocab_info
    assert (info.size, info.pad_idx, info.unk_idx) == (tokenizer.vocab_size, 0, 1)
    assert info.bos_idx is None
    assert info.eos_idx is None

    encode, decode = theirs.create_encoder(), theirs.create_decoder()

    for line in [*next(iter(TEXTS.values()))[:50], "ёжz й", "q"]:
        indices = encode(line)
        assert indices.tolist() == tokenizer.encode(line)
        assert (
            decode(indices).replace("⁇", "").split() == tokenizer.decode(indices.tolist()).split()
        )


def test_labels_of_a_char_tokenizer_are_characters() -> None:
    tokenizer = train()

    pieces = [tokenizer.vocabulary[i] for i in tokenizer.encode("ад аа")]

    assert pieces == ["а", "д", "▁", "а", "а"]


@pytest.mark.parametrize("options", KINDS)
def test_unknown_characters_have_a_label_that_says_nothing(options: dict[str, Any]) -> None:
    tokenizer = train(**options)

    indices = tokenizer.encode("адzzа qд")

    assert indices.count(tokenizer.unk_index) == 2
    assert tokenizer.decode(indices) == "ада д"
    assert tokenizer.decode([tokenizer.unk_index]) == ""


def test_decoding_takes_whatever_a_model_emits() -> None:
    rng = np.random.default_rng(3)

    for options in KINDS:
        tokenizer = train(**options)

        for _ in range(200):
            indices = rng.integers(0, tokenizer.vocab_size, rng.integers(0, 20)).tolist()
            text = tokenizer.decode(indices)

            assert text == " ".join(text.split())
            assert "▁" not in text
            assert tokenizer.decode([i for i in indices if i != 0]) == text

    with pytest.raises(IndexError):
        tokenizer.decode([tokenizer.vocab_size])
    with pytest.raises(IndexError):
        tokenizer.decode([-1])


def test_words_are_told_apart_even_if_the_text_has_single_words_only() -> None:
    texts = {TrainedSource("letters", "ru", 2): ["да", "нет"]}

    tokenizer = train_tokenizer(texts, {"ru": make_rules("ru")})

    assert tokenizer.decode(tokenizer.encode("да нет")) == "да нет"


@pytest.mark.parametrize("options", [{}, {"kind": "bpe", "vocab_size": 6}])
def test_rare_characters_are_unknown_and_named(options: dict[str, Any]) -> None:
    texts = {TrainedSource("x", "en", 3): ["abba ab xé", "baba b é", "ab ba abab"]}

    tokenizer = train_tokenizer(texts, {"en": make_rules("en")}, min_char_count=3, **options)

    assert tokenizer.info.rare_characters == "éx"
    assert tokenizer.alphabet == {"a", "b"}
    assert not any(set("éx") & set(piece) for piece in tokenizer.vocabulary)
    assert tokenizer.decode(tokenizer.encode("axb é")) == "ab"


def test_language_is_known_with_its_region_too() -> None:
    tokenizer = train(kind="char")

    for language, is_known in {
        "tr": True,
        "tr-CY": True,
        "ru": True,
        "t": False,
        "trk": False,
    }.items():
        assert tokenizer.knows(language) == is_known

        if is_known:
            tokenizer.normalize("", language)
        else:
            with pytest.raises(InputError, match="does not know the language"):
                tokenizer.normalize("", language)


def test_text_is_normalised_by_the_rules_of_its_language() -> None:
    tokenizer = train()

    assert tokenizer.normalize("За́мок, I!", "ru") == "замок i"
    assert tokenizer.normalize("KIŞ", "tr") == "kış"
    assert tokenizer.normalize("KIŞ", "tr-CY") == "kış"

    with pytest.raises(InputError, match=r"language `en`; the known ones are `ru`, `tr`: "):
        tokenizer.normalize("a", "en")


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_sizes_that_do_not_suit_the_text_say_which_do(kind: Any) -> None:
    for wrong, word in ((20_000, "largest"), (5, "smallest")):
        with pytest.raises(InputError, match=rf"the {word} `--vocab-size` that works is") as info:
            train(kind=kind, vocab_size=wrong)

        message = str(info.value)
        assert "\n" not in message
        assert "src/" not in message

        # It is true.
        right = int(message.split("works is ")[1].split(",")[0].rstrip("."))
        assert train(kind=kind, vocab_size=right).vocab_size == right
        with pytest.raises(InputError):
            train(kind=kind, vocab_size=right + (1 if wrong > right else -1))


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"kind": "bpe"}, "kind bpe needs a size; give `--vocab-size`"),
        ({"kind": "char", "vocab_size": 40}, "takes no `--vocab-size`"),
        ({"min_char_count": 1_000_000}, r"no character occurs in .* 1000000 times"),
    ],
)
def test_options_that_contradict_are_refused(options: dict[str, Any], fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        train(**options)


def test_tokenizer_is_never_overwritten_unasked(tmp_path: Path) -> None:
    one, other = train(), train(kind="bpe", vocab_size=60)

    one.save(tmp_path / "t")
    one.save(tmp_path / "t")

    with pytest.raises(InputError, match="holds another tokenizer"):
        other.save(tmp_path / "t")

    assert CtcTokenizer.load(tmp_path / "t").kind == "char"

    other.save(tmp_path / "t", replace=True)

    assert CtcTokenizer.load(tmp_path / "t").kind == "bpe"
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_what_is_not_a_tokenizer_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").touch()
    (tmp_path / "file").touch()

    for name in ("thesis", "file"):
        with pytest.raises(InputError, match="exists and is not a tokenizer"):
            train().save(tmp_path / name, replace=True)

    assert (tmp_path / "thesis" / "chapter1.tex").exists()

    (tmp_path / "empty").mkdir()
    train().save(tmp_path / "empty")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    train().save(tmp_path / "t")

    return tmp_path / "t"


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_named(directory: Path, name: str) -> None:
    (directory / name).unlink()

    with pytest.raises(InputError, match=rf"is not a tokenizer, as {name} cannot be read") as info:
        CtcTokenizer.load(directory)

    assert str(info.value).startswith(f"{directory}: ")


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"format_version": 1}', '{"format_version": 1, "kind": 1, "rules": 2}'],
)
def test_damaged_description_is_named(directory: Path, content: str) -> None:
    (directory / INFO_FILE).write_text(content)

    with pytest.raises(InputError, match="is not the description of a tokenizer, or is damaged"):
        CtcTokenizer.load(directory)


def test_newer_format_is_named(directory: Path) -> None:
    data = json.loads((directory / INFO_FILE).read_text())
    (directory / INFO_FILE).write_text(json.dumps({**data, "format_version": 2}))

    with pytest.raises(InputError, match="version must be 1, but is 2"):
        CtcTokenizer.load(directory)


def test_files_of_two_tokenizers_are_not_mixed(directory: Path, tmp_path: Path) -> None:
    train(min_char_count=300).save(tmp_path / "u")
    shutil.copy(tmp_path / "u" / MODEL_FILE, directory)

    with pytest.raises(InputError, match="belong to different tokenizers"):
        CtcTokenizer.load(directory)


def test_other_sentencepiece_models_are_refused(directory: Path) -> None:
    (directory / MODEL_FILE).write_bytes(b"not a model")

    with pytest.raises(InputError, match="is not a sentencepiece model"):
        CtcTokenizer.load(directory)

    from sentencepiece import SentencePieceTrainer

    lines = iter(make_lines(1, "abc"))
    with (directory / MODEL_FILE).open("wb") as fp:
        SentencePieceTrainer.train(
            sentence_iterator=lines, model_writer=fp, model_type="char", vocab_size=7
        )

    with pytest.raises(InputError, match="must have `<pad>`"):
        CtcTokenizer.load(directory)
