"""How the text of a language is written before it becomes labels: the choices, their defaults, and their JSON form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final, Literal, TypeAlias, final, get_args

from eqssl_speech.error import InputError

Case: TypeAlias = Literal["lower", "keep"]
"""What happens to capital letters."""

Treatment: TypeAlias = Literal["keep", "drop", "refuse"]
"""What happens to a kind of character; with ``refuse`` an utterance that holds one is not used."""

CASES: Final = get_args(Case)
TREATMENTS: Final = get_args(Treatment)


@final
@dataclass(frozen=True, kw_only=True)
class TextRules:
    """The written form of one language; :class:`~eqssl_speech.text.normalization.TextNormalizer` applies it.

    Unicode NFC, single spaces, and the removal of control and zero-width characters are not a choice.
    """

    case: Case = "lower"
    """Whether capital letters become small ones (``ß`` stays, a final sigma becomes ``ς``)."""

    dotless_i: bool = False
    """Whether the small letter of ``I`` is ``ı``, and that of ``İ`` is ``i``, as in Turkish."""

    punctuation: Treatment = "drop"
    """Punctuation and pictures (Unicode's P and S) that the next two fields do not name; dropped, they part words."""

    digits: Treatment = "refuse"
    """Digits, and signs that are read as words (``%``, ``&``, ``+``, currencies): nobody wrote how they were spoken."""

    inner: str = "'"
    """Signs that belong to a word where they stand between two letters; elsewhere they are punctuation."""

    removed: str = ""
    """Characters that vanish without separating words, such as stress marks."""

    replaced: tuple[tuple[str, str], ...] = ()
    """Spellings of one letter that are made one, as (found, written), in the order in which they are applied."""

    stress_plus: bool = False
    """Whether a ``+`` before a vowel is a stress mark, which is removed, as Russian corpora have it."""

    def to_json(self) -> dict[str, Any]:
        """Return the rules as what JSON can hold; :meth:`from_json` reads it."""
        return {**asdict(self), "replaced": [list(pair) for pair in self.replaced]}

    @staticmethod
    def from_json(where: str, data: object) -> TextRules:
        """Read what :meth:`to_json` made.

        :param where: The file and the language, for messages.
        :param data: The parsed JSON.
        :returns: The rules.
        :raises InputError: If a field is missing, unknown or of another type.
        """
        names = {field.name for field in fields(TextRules)}

        if not isinstance(data, dict) or set(data) != names:
            raise InputError(
                f"{where}: the rules must have exactly the fields {', '.join(sorted(names))}; "
                "make the tokenizer again with `eqssl tokenizer`."
            )

        for field in fields(TextRules):
            value, default = data[field.name], getattr(_DEFAULT, field.name)
            if not isinstance(value, list if field.name == "replaced" else type(default)):
                raise InputError(
                    f"{where}: the rule `{field.name}` cannot be {value!r}; "
                    "make the tokenizer again with `eqssl tokenizer`."
                )

        _validate_choice(where, "case", data["case"], CASES)
        _validate_choice(where, "punctuation", data["punctuation"], TREATMENTS)
        _validate_choice(where, "digits", data["digits"], TREATMENTS)

        return TextRules(
            **{**data, "replaced": tuple((str(a), str(b)) for a, b in data["replaced"])}
        )


@final
@dataclass(frozen=True, kw_only=True)
class RuleOverrides:
    """What a user wants otherwise than the defaults, for every language; ``None`` leaves the default."""

    case: Case | None = None
    """See :attr:`TextRules.case`."""

    punctuation: Treatment | None = None
    """See :attr:`TextRules.punctuation`."""

    digits: Treatment | None = None
    """See :attr:`TextRules.digits`."""

    inner: str | None = None
    """See :attr:`TextRules.inner`."""


def make_rules(language: str, overrides: RuleOverrides | None = None) -> TextRules:
    """Return the rules of a language.

    :param language: A code of BCP 47 or ISO 639, such as ``ru``, ``rus`` or ``pt-BR``. A language without rules of its
        own has those that suit most languages.
    :param overrides: What is wanted otherwise.
    :returns: The rules.
    """
    primary = language.lower().replace("_", "-").split("-")[0]

    rules = replace(_DEFAULT, **_LANGUAGES.get(_ALIASES.get(primary, primary), {}))
    if overrides is None:
        return rules

    return replace(
        rules, **{key: value for key, value in asdict(overrides).items() if value is not None}
    )


def _validate_choice(where: str, name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(
            f"{where}: the rule `{name}` must be one of {', '.join(choices)}, but is {value!r} instead; "
            "make the tokenizer again with `eqssl tokenizer`."
        )


_DEFAULT: Final = TextRules()

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
    "fa": {"removed": _ARABIC},
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
    "ur": {"removed": _ARABIC},
    # A letter, which may end a word.
    "uz": {"replaced": tuple((f"{letter}'", f"{letter}\u02bb") for letter in "oOgG")},
    "yi": _GERSHAYIM,
}
"""Where a language differs from the defaults of :class:`TextRules`."""

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
