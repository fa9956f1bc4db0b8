"""Brings text into its language's written form, or says in one sentence why it cannot."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Final, Literal, TypeAlias, final

from eqssl_speech.text.rules import TextRules, Treatment

_Kind: TypeAlias = Literal[
    "word", "mark", "space", "nothing", "digit", "sign", "punctuation", "broken"
]

# Quotation marks and accents that are typed for an apostrophe, and a letter that looks and serves like one.
_LOOKALIKES: Final = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u201b\u02bc\u00b4\u0060\u2032\uff07", "'"),
        **dict.fromkeys("\u2010\u2011", "-"),
    }
)

_READ_ALOUD: Final = frozenset(
    "%\u2030&@#\u00a7\u00b0\u2116+=<>\u00b1\u00d7\u00f7\u2212\u2264\u2265\u2260\u2248\u221a"
)

_STRESS_PLUS: Final = re.compile(r"\+(?=[аеёиоуыэюяіїєАЕЁИОУЫЭЮЯІЇЄ])")

# Capital dotted I, whose small letter would otherwise be an `i` and a second dot.
_DOTTED_I: Final = str.maketrans({"\u0130": "i"})
_DOTLESS_I: Final = str.maketrans({"\u0130": "i", "I": "\u0131"})

# What sentencepiece writes for a space, so that it must not come from the text.
_WORD_BOUNDARY: Final = "\u2581"

# Marks and letters that show nothing of their own: joiners, fillers and variation selectors.
_INVISIBLE: Final = frozenset(
    [
        *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0),
        *range(0x180B, 0x1810),
        *range(0xFE00, 0xFE10),
        *range(0xE0100, 0xE01F0),
    ]
)


class TextRefusedError(ValueError):
    """Raised when a text cannot be brought into its language's written form, so that its utterance is not used.

    The message is the rest of a sentence about the text, such as ``holds the digit `3`, ...``.
    """


@final
class TextNormalizer:
    """Applies the rules of one language.

    The result is the same on every machine, and normalising it again changes nothing.
    """

    def __init__(self, rules: TextRules) -> None:
        """:param rules: The rules of the language."""
        self._rules = rules
        self._removed = dict.fromkeys(map(ord, rules.removed))
        self._table = _Table(rules)

    @property
    def rules(self) -> TextRules:
        """The rules that are applied."""
        return self._rules

    def __call__(self, text: str) -> str:
        """Bring text into the written form.

        :param text: One utterance, as found.
        :returns: Words joined by single spaces; empty if nothing of the text is kept.
        :raises TextRefusedError: If the text holds what the rules refuse, or a character that no text holds.
        """
        while True:
            result = self._apply(text)
            if result == text:
                return result

            # Once more, as letters may have met their accents only now, and the rules are about composed letters.
            text = result

    def _apply(self, text: str) -> str:
        text = unicodedata.normalize("NFC", text).translate(_LOOKALIKES)

        # A joiner may be part of a spelling; in the next step it is gone.
        for found, written in self._rules.replaced:
            text = text.replace(found, written)

        text = unicodedata.normalize("NFC", text.translate(_ZERO_WIDTH))
        text = text.translate(self._removed)

        if self._rules.stress_plus:
            text = _STRESS_PLUS.sub("", text)

        text = text.translate(self._table)

        if self._rules.punctuation != "keep" and any(sign in text for sign in self._rules.inner):
            text = self._resolve_inner(text)

        # Sigma's form depends on what stands beside it, so that the words must be known by now.
        return self._lower(" ".join(filter(None, map(_strip_marks, text.split()))))

    def _lower(self, text: str) -> str:
        if self._rules.case == "keep":
            return text

        return text.translate(_DOTLESS_I if self._rules.dotless_i else _DOTTED_I).lower()

    def _resolve_inner(self, text: str) -> str:
        result = []
        padded = f" {text} "

        for before, char, after in zip(padded, text, padded[2:]):
            if char in self._rules.inner and not (_is_word(before) and _is_letter(after)):
                if self._rules.punctuation == "refuse":
                    raise _refuse(char, "punctuation")
                char = " "
            result.append(char)

        return "".join(result)


class _Table(dict[int, str]):
    """What becomes of each character, found out when it is first met; for :meth:`str.translate`."""

    def __init__(self, rules: TextRules) -> None:
        super().__init__({ord(sign): sign for sign in rules.inner})

        self._treatments: dict[_Kind, Treatment] = {
            "word": "keep",
            "mark": "keep",
            "space": "drop",
            "digit": rules.digits,
            "sign": rules.digits,
            "punctuation": rules.punctuation,
            "broken": "refuse",
        }

    def __missing__(self, key: int) -> str:
        char = chr(key)
        kind = _classify(char)
        treatment = self._treatments[kind]

        if treatment == "refuse":
            raise _refuse(char, kind)

        return self.setdefault(key, char if treatment == "keep" else " ")


class _ZeroWidth(dict[int, "str | int"]):
    """Removes what takes no room."""

    def __missing__(self, key: int) -> str | int:
        return self.setdefault(key, "" if _classify(chr(key)) == "nothing" else key)


_ZERO_WIDTH: Final = _ZeroWidth()


def _refuse(char: str, kind: _Kind) -> TextRefusedError:
    if kind == "digit":
        return TextRefusedError(f"holds the digit `{char}`, whose spoken form is not written")
    if kind == "sign":
        return TextRefusedError(f"holds `{char}`, whose spoken form is not written")
    if kind == "punctuation":
        return TextRefusedError(f"holds the punctuation mark `{char}`")

    return TextRefusedError(
        f"holds U+{ord(char):04X}, which is not a character, so the text was decoded wrongly"
    )


@lru_cache(maxsize=1 << 16)
def _classify(char: str) -> _Kind:
    category = unicodedata.category(char)

    if ord(char) in _INVISIBLE:
        return "nothing"
    if char.isspace() or char == _WORD_BOUNDARY:
        return "space"
    if category in ("Cc", "Cf"):
        return "nothing"
    if category[0] == "C" or char == "\ufffd":
        return "broken"
    # The ideographic zero is written among letters.
    if category[0] == "L" or char == "\u3007":
        return "word"
    if category[0] == "M":
        return "mark"
    if category[0] == "N":
        return "digit"

    return "sign" if category == "Sc" or char in _READ_ALOUD else "punctuation"


def _is_word(char: str) -> bool:
    return _classify(char) in ("word", "mark", "digit")


def _is_letter(char: str) -> bool:
    return _classify(char) in ("word", "digit")


def _strip_marks(word: str) -> str:
    """Remove combining marks that have nothing to combine with."""
    while word and _classify(word[0]) == "mark":
        word = word[1:]

    return word
