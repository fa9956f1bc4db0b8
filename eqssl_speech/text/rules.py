"""How text is written before it becomes labels: the choices, and their JSON form."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
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

        for name, value in data.items():
            if not _has_type(name, value):
                raise InputError(
                    f"{where}: the rule `{name}` cannot be {value!r}; "
                    "make the tokenizer again with `eqssl tokenizer`."
                )

        _validate_choice(where, "case", data["case"], CASES)
        _validate_choice(where, "punctuation", data["punctuation"], TREATMENTS)
        _validate_choice(where, "digits", data["digits"], TREATMENTS)

        return TextRules(**{**data, "replaced": tuple((a, b) for a, b in data["replaced"])})


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


def _has_type(name: str, value: object) -> bool:
    if name != "replaced":
        return isinstance(value, type(getattr(_DEFAULT, name)))

    return isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(s, str) for s in pair)
        for pair in value
    )


def _validate_choice(where: str, name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(
            f"{where}: the rule `{name}` must be one of {', '.join(choices)}, but is {value!r} instead; "
            "make the tokenizer again with `eqssl tokenizer`."
        )


_DEFAULT: Final = TextRules()
