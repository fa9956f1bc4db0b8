"""Word n-grams that KenLM scores, through flashlight-text, which brings KenLM as a wheel.

Scores of KenLM are logarithms to base 10; everything that leaves this file is a natural logarithm, unless it says so.
"""

from __future__ import annotations

import gzip
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from importlib import import_module
from itertools import dropwhile, islice, takewhile
from pathlib import Path
from typing import Any, Final, final

from eqssl_speech.error import InputError

UNKNOWN_WORD: Final = "<unk>"
"""The entry of an n-gram that every word it does not have is scored as."""

LOG_10: Final = math.log(10.0)

_MARKS: Final = frozenset({"<s>", "</s>", UNKNOWN_WORD, "<UNK>"})

_BINARY: Final = b"mmap lm http://kheafield.com/code"

_GZIP: Final = b"\x1f\x8b"

INSTALL: Final = "pip install 'eqssl_speech[lm]'"
"""Installs the extra that beam search and n-grams need."""


def import_flashlight() -> Any:
    """Import what searches with flashlight-text need.

    :returns: The module ``flashlight.lib.text.decoder``.
    :raises InputError: If the extra is not installed.
    """
    try:
        return import_module("flashlight.lib.text.decoder")
    except ImportError as ex:
        raise InputError(
            f"beam search and n-grams need flashlight-text, which cannot be loaded ({ex}); install it with "
            f"`{INSTALL}`, or decode greedily."
        ) from None


@contextmanager
def silenced_stderr() -> Iterator[None]:
    """Keep a library's progress bars back, also those that it draws past Python, as KenLM does."""
    sys.stderr.flush()

    with Path(os.devnull).open("w") as sink, redirect_stderr(sink):
        try:
            saved = os.dup(2)
        except OSError:
            # There is none.
            yield
            return

        os.dup2(sink.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def read_arpa_words(file: Path) -> list[str]:
    """Read the words of an n-gram in the ARPA format, which may be compressed with gzip.

    :param file: The n-gram.
    :returns: Its words in the order of the file, without ``<s>``, ``</s>`` and ``<unk>``.
    :raises InputError: If it cannot be read, is KenLM's binary format, or has no words.
    """
    try:
        words = list(_read_unigrams(file))
    except (OSError, UnicodeDecodeError) as ex:
        raise InputError(
            f"{file}: cannot be read as an n-gram ({ex}); make one with `eqssl lm`."
        ) from None

    if not words:
        raise InputError(
            f"{file}: holds no words; it must be an n-gram in the ARPA format, such as `eqssl lm` makes."
        )

    return words


@final
@dataclass(frozen=True)
class TextScore:
    """How well an n-gram foresees a text."""

    log_prob: float
    """The natural logarithm of the probability of the text, sentence ends included."""

    num_words: int
    """The words of the text."""

    num_unknown: int
    """Those of them that the n-gram does not have; they are scored as ``<unk>``."""

    num_sentences: int
    """The lines of the text."""

    @property
    def perplexity(self) -> float:
        """The inverse of the geometric mean probability of a word or a sentence end."""
        num_events = self.num_words + self.num_sentences

        return math.exp(-self.log_prob / num_events) if num_events else math.nan

    @property
    def unknown_rate(self) -> float:
        """The share of the words that the n-gram does not have."""
        return self.num_unknown / self.num_words if self.num_words else 0.0


@final
class NGram:
    """A word n-gram that is loaded."""

    def __init__(
        self, file: Path, words: Sequence[str] | None = None, *, num_spare: int = 0
    ) -> None:
        """Load an n-gram.

        :param file: The n-gram, in the ARPA format (possibly with gzip) or KenLM's binary one.
        :param words: Its words; ``None`` to read them from an ARPA file.
        :param num_spare: How many indices to keep for words that are not known yet, scored as ``<unk>``.
        :raises InputError: If flashlight-text is not installed, or the file cannot be used.
        """
        import_flashlight()

        self.file = file

        self.words: tuple[str, ...] = tuple(read_arpa_words(file) if words is None else words)
        """The words; the index of each is its place."""

        self.spare: range = range(len(self.words) + 1, len(self.words) + 1 + num_spare)
        """The indices that are kept for other words."""

        self._index = {word: index for index, word in enumerate(self.words)}

        # No word holds a space, so the names of the spare ones cannot be words.
        names = [*self.words, UNKNOWN_WORD, *(f"{UNKNOWN_WORD} {i}" for i in range(num_spare))]

        self.model: Any = _load(file, names)
        """flashlight's ``KenLM``, whose scores are to base 10."""

    def find(self, word: str) -> int | None:
        """Return the index of a word, or ``None`` if the n-gram does not have it."""
        return self._index.get(word)

    def score(self, sentences: Iterable[Sequence[str]]) -> TextScore:
        """Score a text.

        :param sentences: The words of each line.
        :returns: Its probability, and how much of it is unknown.
        """
        total, num_words, num_unknown, num_sentences = 0.0, 0, 0, 0

        for sentence in sentences:
            indices = [self._index.get(word, len(self.words)) for word in sentence]

            total += self._score_sentence(indices)
            num_words += len(indices)
            num_unknown += indices.count(len(self.words))
            num_sentences += 1

        return TextScore(total, num_words, num_unknown, num_sentences)

    def _score_sentence(self, indices: Sequence[int]) -> float:
        state, total = self.model.start(False), 0.0

        for index in indices:
            state, score = self.model.score(state, index)
            total += score

        return float(total + self.model.finish(state)[1]) * LOG_10


def _load(file: Path, names: list[str]) -> Any:
    kenlm = import_module("flashlight.lib.text.decoder.kenlm")
    dictionary = import_module("flashlight.lib.text.dictionary")

    if not file.is_file():
        raise InputError(
            f"{file}: there is no such n-gram; correct the path, or make it with `eqssl lm`."
        )

    try:
        with silenced_stderr():
            return kenlm.KenLM(str(file), dictionary.Dictionary(names))
    except RuntimeError as ex:
        # The first line names a file of the library's source.
        reason = str(ex).strip().split("\n")[-1]
        raise InputError(
            f"{file}: KenLM cannot load the n-gram ({reason}); make it anew with `eqssl lm`."
        ) from None


def _read_unigrams(file: Path) -> Iterator[str]:
    with file.open("rb") as stream:
        head = stream.read(len(_BINARY))

    if head == _BINARY:
        raise InputError(
            f"{file}: KenLM's binary format does not list its words; give the .arpa that it was made of."
        )

    compressed = head.startswith(_GZIP)
    with (
        gzip.open(file, "rt", encoding="utf-8")
        if compressed
        else file.open(encoding="utf-8") as lines
    ):
        section = takewhile(_is_entry, islice(dropwhile(_is_not_unigrams, lines), 1, None))

        # Not `split()`, which would also split at characters that may stand in a word.
        words = (re.split("[\t ]+", line.rstrip("\r\n"))[1:2] for line in section)

        yield from (word for found in words for word in found if word not in _MARKS)


def _is_not_unigrams(line: str) -> bool:
    return not line.startswith("\\1-grams:")


def _is_entry(line: str) -> bool:
    return not line.startswith("\\")
