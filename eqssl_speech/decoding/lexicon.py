"""How words are spelled in tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, final

from eqssl_speech.error import InputError
from eqssl_speech.text.tokenizer import WORD_BOUNDARY

UNKNOWN_PIECE: Final = "<unk>"
"""The piece of the characters that the vocabulary lacks; it is never taught, so it says nothing."""

Speller: TypeAlias = Callable[[str], Sequence[int]]
"""Turns a word into tokens, as a tokenizer's ``encode`` does."""


def show_piece(piece: str) -> str:
    """Return the letters of a piece, without the mark of a word's begin; :data:`UNKNOWN_PIECE` has none."""
    return "" if piece == UNKNOWN_PIECE else piece.removeprefix(WORD_BOUNDARY)


def to_text(pieces: Iterable[str]) -> str:
    """Join pieces to words, as the tokenizer decodes them.

    :param pieces: The pieces of a labelling, without blanks.
    :returns: The words, joined by single spaces.
    """
    letters = (piece for piece in pieces if piece != UNKNOWN_PIECE)

    return " ".join("".join(letters).replace(WORD_BOUNDARY, " ").split())


def list_clear_words(pieces: Iterable[str]) -> list[str]:
    """Return the words of a labelling that have no :data:`UNKNOWN_PIECE` in them.

    :param pieces: As of :func:`to_text`.
    """
    words = "".join(pieces).replace(WORD_BOUNDARY, " ").split()

    return [word for word in words if UNKNOWN_PIECE not in word]


@final
@dataclass(frozen=True)
class Spelling:
    """How the words of a vocabulary of tokens are marked off, and how each is spelled."""

    vocabulary: tuple[str, ...]
    """The piece of each token."""

    boundary: Literal["between", "begin"]
    """Whether a piece of its own stands between words (char), or a mark begins words (unigram, BPE)."""

    boundary_index: int | None
    """The token between words; ``None`` with ``begin``."""

    speller: Speller
    """Turns a word into tokens."""

    def spell(self, word: str) -> tuple[int, ...] | None:
        """Spell a word.

        :param word: The word, normalised.
        :returns: Its tokens, of which none is the boundary; ``None`` if it has a character that no token has.
        """
        tokens = tuple(self.speller(word))

        pieces = [self.vocabulary[token] for token in tokens]
        is_word = bool(pieces) and UNKNOWN_PIECE not in pieces and to_text(pieces) == word

        # A tokenizer might put the boundary before a word of characters.
        return tuple(t for t in tokens if t != self.boundary_index) if is_word else None


def find_spelling(vocabulary: Sequence[str], speller: Speller | None = None) -> Spelling:
    """Find how words are marked off in a vocabulary.

    :param vocabulary: The piece of each token.
    :param speller: Turns a word into tokens, such as a tokenizer's ``encode``; ``None`` spells by characters.
    :returns: How words are spelled.
    :raises InputError: If the vocabulary has no word boundary, or is of pieces and has no speller.
    """
    pieces = tuple(vocabulary)

    if any(piece.startswith(WORD_BOUNDARY) and piece != WORD_BOUNDARY for piece in pieces):
        if speller is None:
            raise ValueError("`speller` must be given for a vocabulary of pieces, but is None.")

        return Spelling(pieces, "begin", None, speller)

    if WORD_BOUNDARY not in pieces:
        raise InputError(
            f"the vocabulary of {len(pieces)} tokens has no word boundary (`{WORD_BOUNDARY}`), so that a word "
            "n-gram cannot be used with it; decode without one, or make a tokenizer with `eqssl tokenizer`."
        )

    index = {piece: token for token, piece in enumerate(pieces)}
    unknown = index.get(UNKNOWN_PIECE, -1)

    def spell_characters(word: str) -> list[int]:
        return [index.get(character, unknown) for character in word]

    return Spelling(pieces, "between", index[WORD_BOUNDARY], speller or spell_characters)
