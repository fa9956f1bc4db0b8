"""How the text of each language is written, unless the user wants it otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, Final

from eqssl_speech.text.rules import RuleOverrides, TextRules


def make_rules(language: str, overrides: RuleOverrides | None = None) -> TextRules:
    """Return the rules of a language.

    :param language: A code of BCP 47 or ISO 639, such as ``ru``, ``rus`` or ``pt-BR``. A language without rules of its
        own has those that suit most languages.
    :param overrides: What is wanted otherwise.
    :returns: The rules.
    """
    primary = language.lower().replace("_", "-").split("-")[0]

    rules = replace(TextRules(), **_LANGUAGES.get(_ALIASES.get(primary, primary), {}))
    if overrides is None:
        return rules

    return replace(
        rules, **{key: value for key, value in asdict(overrides).items() if value is not None}
    )


# Acute and grave accents stand for stress in East Slavic; NFC has no letter for most of them, but has two for these.
_STRESS: Final = "\u0300\u0301"
_EAST_SLAVIC: Final[dict[str, Any]] = {
    "removed": _STRESS,
    "replaced": (("ѐ", "е"), ("ѝ", "и"), ("Ѐ", "Е"), ("Ѝ", "И")),
    "stress_plus": True,
}

# `İ` in small letters has two dots where the language was not known to the program that did it.
_TURKIC: Final[dict[str, Any]] = {"dotless_i": True, "replaced": (("i\u0307", "i"),)}

# The tatweel only stretches a word; vowel signs are written by few.
_ARABIC: Final = "\u0640" + "".join(map(chr, (*range(0x064B, 0x0653), 0x0670)))

# Its own forms of two letters, for which Arabic's are often typed.
_PERSIAN: Final[dict[str, Any]] = {"removed": _ARABIC, "replaced": (("ي", "ی"), ("ك", "ک"))}

# Hebrew points and cantillation marks.
_HEBREW: Final = "".join(
    map(chr, (*range(0x0591, 0x05BE), 0x05BF, 0x05C1, 0x05C2, 0x05C4, 0x05C5, 0x05C7))
)

# What is between letters here: an abbreviation's quotation mark.
_GERSHAYIM: Final[dict[str, Any]] = {
    "inner": "'\"",
    "replaced": (("\u05f3", "'"), ("\u05f4", '"')),
}

_MIDDLE_DOT: Final[dict[str, Any]] = {
    "inner": "'\u00b7",
    "replaced": (("\u0140", "l\u00b7"), ("\u013f", "L\u00b7"), ("\u2027", "\u00b7")),
}

_LANGUAGES: Final[Mapping[str, dict[str, Any]]] = {
    "ar": {"removed": _ARABIC},
    "az": _TURKIC,
    "be": _EAST_SLAVIC,
    "bg": {"removed": _STRESS},
    "ca": _MIDDLE_DOT,
    "crh": _TURKIC,
    "fa": _PERSIAN,
    "he": {**_GERSHAYIM, "removed": _HEBREW},
    "mk": {"removed": _STRESS},
    # The letters that were once written with a zero-width joiner.
    "ml": {
        "replaced": tuple(
            (f"{base}\u0d4d\u200d", letter)
            for base, letter in zip(
                "\u0d23\u0d28\u0d30\u0d32\u0d33\u0d15", "\u0d7a\u0d7b\u0d7c\u0d7d\u0d7e\u0d7f"
            )
        )
    },
    "oc": _MIDDLE_DOT,
    # Commas below were not to be had, so cedillas stand for them.
    "ro": {"replaced": (("ş", "ș"), ("ţ", "ț"), ("Ş", "Ș"), ("Ţ", "Ț"))},
    "ru": _EAST_SLAVIC,
    "tr": _TURKIC,
    "uk": _EAST_SLAVIC,
    "ur": _PERSIAN,
    # A letter, which may end a word.
    "uz": {"replaced": tuple((f"{letter}'", f"{letter}\u02bb") for letter in "oOgG")},
    "yi": _GERSHAYIM,
}

LANGUAGES_WITH_RULES: Final = tuple(_LANGUAGES)
"""The languages that differ from the defaults of :class:`TextRules`."""

_ALIASES: Final[Mapping[str, str]] = {
    "ara": "ar",
    "arb": "ar",
    "aze": "az",
    "azj": "az",
    "bel": "be",
    "bul": "bg",
    "cat": "ca",
    "fas": "fa",
    "heb": "he",
    "mal": "ml",
    "mkd": "mk",
    "mo": "ro",
    "oci": "oc",
    "per": "fa",
    "pes": "fa",
    "ron": "ro",
    "rum": "ro",
    "rus": "ru",
    "tur": "tr",
    "ukr": "uk",
    "urd": "ur",
    "uzb": "uz",
    "uzn": "uz",
    "yid": "yi",
}
"""Codes of three letters (ISO 639-2 and 639-3) of the languages above."""
