"""The text that an n-gram is made of: files, or the training text of a corpus, as a recogniser would write it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from eqssl_speech.data.corpus import DataSource, load_corpus
from eqssl_speech.error import InputError
from eqssl_speech.text.normalization import TextRefusedError
from eqssl_speech.text.tokenizer import CtcTokenizer
from eqssl_speech.text.transcripts import list_transcribed_splits, read_split, select_transcribed


@final
@dataclass(frozen=True)
class Sentences:
    """Lines of text, cut into words."""

    words: tuple[tuple[str, ...], ...]
    """The words of each line that has any."""

    refusals: tuple[str, ...]
    """The lines that the rules of the tokenizer refuse: where, and why."""

    def __add__(self, other: Sentences) -> Sentences:
        return Sentences(self.words + other.words, self.refusals + other.refusals)


def read_text(file: Path, tokenizer: CtcTokenizer | None, language: str | None) -> Sentences:
    """Read a text of one sentence a line.

    :param file: The text.
    :param tokenizer: Writes the text as the recogniser does; ``None`` to take it as it is.
    :param language: The language of the text; ``None`` if the tokenizer has only one.
    :returns: Its sentences.
    :raises InputError: If the text cannot be read, or its language is not known.
    """
    try:
        lines = file.read_bytes().decode("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as ex:
        raise InputError(
            f"{file}: cannot be read as UTF-8 text ({ex}); give a text file with one sentence a line."
        ) from None

    if tokenizer is None:
        return Sentences(tuple(tuple(words) for line in lines if (words := line.split())), ())

    language = language or _find_language(tokenizer)
    sentences, refusals = [], []

    for number, line in enumerate(lines, start=1):
        try:
            if words := tokenizer.normalize(line, language).split():
                sentences.append(tuple(words))
        except TextRefusedError as ex:
            refusals.append(f"{file}:{number}: {ex}")

    return Sentences(tuple(sentences), tuple(refusals))


def read_corpus_text(
    directory: Path, names: Sequence[str] | None, tokenizer: CtcTokenizer | None, split: str
) -> Sentences:
    """Read the text of a split of a corpus.

    :param directory: The corpus.
    :param names: The sources to read; ``None`` for all that have training text.
    :param tokenizer: Writes the text as the recogniser does; ``None`` to take it as it is.
    :param split: ``train``, or ``valid`` or ``test``, which sources may lack.
    :returns: Its sentences.
    :raises InputError: If the corpus or a text cannot be read, or a language is not known.
    """
    corpus, _ = select_transcribed(load_corpus(directory), names)

    found = Sentences((), ())

    for source in corpus.sources:
        if split in list_transcribed_splits(source):
            found += _read_source(source, split, tokenizer)

    return found


def _read_source(source: DataSource, split: str, tokenizer: CtcTokenizer | None) -> Sentences:
    def normalize(text: str) -> str:
        return text if tokenizer is None else tokenizer.normalize(text, source.language)

    transcripts = read_split(source, split, normalize)

    words = (tuple(text.split()) for text in transcripts.texts)

    return Sentences(
        tuple(sentence for sentence in words if sentence),
        tuple(
            f"{transcripts.manifest.describe_line(index)}: {reason}"
            for index, reason in transcripts.refusals.items()
        ),
    )


def _find_language(tokenizer: CtcTokenizer) -> str:
    if len(tokenizer.languages) == 1:
        return tokenizer.languages[0]

    known = ", ".join(f"`{language}`" for language in tokenizer.languages)
    raise InputError(
        f"the language of the text must be given, as the tokenizer knows {known}; add `--language`."
    )
