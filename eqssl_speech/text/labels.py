"""What the check needs of a tokenizer, and characters where there is none yet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol, final

from typing_extensions import override

from eqssl_speech.text.languages import make_rules
from eqssl_speech.text.normalization import TextNormalizer
from eqssl_speech.text.tokenizer import CtcTokenizer


class Labels(Protocol):
    """Writes text and makes labels of it."""

    @property
    def alphabet(self) -> frozenset[str]:
        """The characters that can be written, without the space."""

    def normalize(self, text: str, language: str) -> str:
        """See :meth:`CtcTokenizer.normalize`."""

    def encode(self, text: str) -> list[int]:
        """Return the labels that the model is taught to emit, which are those that are known."""


@final
class TokenizerLabels(Labels):
    """The labels of a tokenizer."""

    def __init__(self, tokenizer: CtcTokenizer) -> None:
        """:param tokenizer: The tokenizer."""
        self._tokenizer = tokenizer
        self._alphabet = tokenizer.alphabet

    @property
    @override
    def alphabet(self) -> frozenset[str]:
        return self._alphabet

    @override
    def normalize(self, text: str, language: str) -> str:
        return self._tokenizer.normalize(text, language)

    @override
    def encode(self, text: str) -> list[int]:
        unknown = self._tokenizer.unk_index

        return [index for index in self._tokenizer.encode(text) if index != unknown]


@final
@dataclass
class CharacterLabels(Labels):
    """Every character of the training text is a label, and the rules are the defaults of each language."""

    _alphabet: set[str] = field(default_factory=set)
    _normalizers: dict[str, TextNormalizer] = field(default_factory=dict)

    @property
    @override
    def alphabet(self) -> frozenset[str]:
        return frozenset(self._alphabet)

    def learn(self, texts: Iterable[str]) -> None:
        """Take the characters of normalised training text into the alphabet."""
        self._alphabet.update(*texts)
        self._alphabet.discard(" ")

    @override
    def normalize(self, text: str, language: str) -> str:
        if language not in self._normalizers:
            self._normalizers[language] = TextNormalizer(make_rules(language))

        return self._normalizers[language](text)

    @override
    def encode(self, text: str) -> list[int]:
        return [ord(char) for char in text if char == " " or char in self._alphabet]
