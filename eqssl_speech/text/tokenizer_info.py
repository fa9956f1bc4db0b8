"""What ``tokenizer.json`` says: what a tokenizer was made of, and by which rules."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, final

from eqssl_speech.error import InputError
from eqssl_speech.text.rules import TextRules

FORMAT_VERSION: Final = 1
"""Of ``tokenizer.json``; raised when an older program could misread it."""


@final
@dataclass(frozen=True)
class TrainedSource:
    """A source whose training text made the tokenizer."""

    name: str
    """The name of the source."""

    language: str
    """Its language."""

    num_utterances: int
    """The number of its utterances that were used."""


@final
@dataclass(frozen=True, kw_only=True)
class TokenizerInfo:
    """What a tokenizer was made of, and how."""

    kind: str
    """``char``, ``unigram`` or ``bpe``."""

    rules: Mapping[str, TextRules]
    """The rules by which the text of each language is written."""

    sources: tuple[TrainedSource, ...]
    """The sources, in the order in which their text was read."""

    min_char_count: int
    """Characters that the training text holds less often are unknown; 1 or greater."""

    rare_characters: str
    """The characters of the training text that are therefore unknown, the commonest first."""

    def format(self) -> bytes:
        """Return the content of ``tokenizer.json``; :meth:`parse` reads it."""
        data = {
            "format_version": FORMAT_VERSION,
            "kind": self.kind,
            "min_char_count": self.min_char_count,
            "rare_characters": self.rare_characters,
            "sources": [asdict(source) for source in self.sources],
            "rules": {language: rules.to_json() for language, rules in self.rules.items()},
        }

        return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()

    @staticmethod
    def parse(where: str, content: bytes) -> TokenizerInfo:
        """Read what :meth:`format` made.

        :param where: The file, for messages.
        :param content: Its content.
        :returns: The same information.
        :raises InputError: If it is damaged, or of a version that is not known.
        """
        try:
            data: Any = json.loads(content)
            version = data["format_version"]
        except (ValueError, KeyError, TypeError):
            raise _damaged(where) from None

        if version != FORMAT_VERSION:
            raise InputError(
                f"{where}: the format version must be {FORMAT_VERSION}, but is {version} instead; "
                "update eqssl_speech, or make the tokenizer again with `eqssl tokenizer`."
            )

        try:
            return TokenizerInfo(
                kind=str(data["kind"]),
                rules={
                    str(language): TextRules.from_json(f"{where}, {language}", rules)
                    for language, rules in data["rules"].items()
                },
                sources=tuple(TrainedSource(**source) for source in data["sources"]),
                min_char_count=int(data["min_char_count"]),
                rare_characters=str(data["rare_characters"]),
            )
        except InputError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError):
            raise _damaged(where) from None


def _damaged(where: str) -> InputError:
    return InputError(
        f"{where}: is not the description of a tokenizer, or is damaged; "
        "make the tokenizer again with `eqssl tokenizer`."
    )
