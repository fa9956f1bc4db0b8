"""The labels of a recogniser, wherever it is from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from eqssl_speech.error import InputError
from eqssl_speech.models.formats.transformers_directory import read_json
from eqssl_speech.text.tokenizer import WORD_BOUNDARY, CtcTokenizer

_TOKENIZER_DIR: Final = "tokenizer"
_VOCABULARY_FILES: Final = ("vocab.json", "dict.ltr.txt")

_FAIRSEQ_SYMBOLS: Final = ("<s>", "<pad>", "</s>", "<unk>")
"""What a dictionary of fairseq begins with, without listing it; CTC's blank is the first."""


@final
@dataclass(frozen=True)
class Vocabulary:
    """The labels of a recogniser and what is to be made of them."""

    pieces: tuple[str, ...]
    """The piece of each label."""

    blank_index: int
    """The label that is CTC's blank."""

    silent_indices: frozenset[int]
    """Labels that write nothing: the blank, the unknown one, and others that begin or end a sentence."""

    word_boundary: str
    """What stands for a space, by itself or within a piece: ``▁``, or ``|`` as in fairseq's and Hugging Face's."""

    def decode(self, labels: Sequence[int]) -> str:
        """Turn the best label of every frame into text.

        :param labels: One of each frame.
        :returns: Words joined by single spaces.
        """
        written = []
        previous = None

        for label in labels:
            if label != previous and label not in self.silent_indices:
                written.append(self.pieces[label])
            previous = label

        return " ".join("".join(written).replace(self.word_boundary, " ").split())


def vocabulary_of(tokenizer: CtcTokenizer) -> Vocabulary:
    """Return the vocabulary of a recogniser that was trained here."""
    return Vocabulary(
        pieces=tokenizer.vocabulary,
        blank_index=tokenizer.blank_index,
        silent_indices=frozenset({tokenizer.blank_index, tokenizer.unk_index}),
        word_boundary=WORD_BOUNDARY,
    )


def find_labels(checkpoint: Path | None, file: Path | None = None) -> CtcTokenizer | Vocabulary:
    """Find the labels of a recogniser.

    :param checkpoint: Its file or directory; ``None`` of an asset.
    :param file: The directory of a tokenizer of ours, ``vocab.json`` of Hugging Face transformers, or ``dict.ltr.txt``
        of fairseq; by default looked for in and beside the checkpoint.
    :raises InputError: If there is none, or it cannot be read.
    """
    if file is not None:
        return _read_labels(file)

    if checkpoint is not None:
        for directory in (checkpoint, *checkpoint.absolute().parents[:3]):
            for name in (_TOKENIZER_DIR, *_VOCABULARY_FILES):
                if (directory / name).exists():
                    return _read_labels(directory / name)

            if (directory / "checkpoints").is_dir():
                break

    raise InputError(
        f"{checkpoint or 'The asset'}: is a recogniser, but there is nothing that says what its labels are; give the "
        "directory of its tokenizer, a vocab.json of transformers or a dict.ltr.txt of fairseq (`--vocabulary`)."
    )


def _read_labels(file: Path) -> CtcTokenizer | Vocabulary:
    if file.is_dir():
        return CtcTokenizer.load(file)

    return _read_transformers(file) if file.suffix == ".json" else _read_fairseq(file)


def _read_transformers(file: Path) -> Vocabulary:
    indices = read_json(file)
    settings_file = file.parent / "tokenizer_config.json"
    settings = read_json(settings_file) if settings_file.is_file() else {}

    if sorted(indices.values(), key=str) != sorted(range(len(indices)), key=str):
        raise InputError(
            f"{file}: does not number its {len(indices)} pieces from 0; a vocabulary of several languages has to be "
            "reduced to that of the one which the output layer is of."
        )

    pieces = tuple(sorted(indices, key=indices.__getitem__))

    def read_piece(key: str, default: str) -> str:
        piece = settings.get(key, default)

        # Written by some versions with how it is to be split; one that a model has not is null.
        return str(piece["content"] if isinstance(piece, dict) else piece or "")

    blank = read_piece("pad_token", "<pad>")
    if blank not in indices:
        raise InputError(
            f"{file}: has no piece {blank!r}, the blank of CTC; see `pad_token` in {settings_file}."
        )

    specials = {blank} | {
        read_piece(f"{name}_token", default)
        for name, default in (("unk", "<unk>"), ("bos", "<s>"), ("eos", "</s>"))
    }

    return Vocabulary(
        pieces=pieces,
        blank_index=indices[blank],
        silent_indices=frozenset(indices[piece] for piece in specials if piece in indices),
        word_boundary=read_piece("word_delimiter_token", "|") or "|",
    )


def _read_fairseq(file: Path) -> Vocabulary:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as ex:
        raise InputError(f"{file}: cannot be read ({ex}); correct the path.") from None

    pieces = [*_FAIRSEQ_SYMBOLS, *(line.rpartition(" ")[0] for line in lines if line)]

    if not lines or "" in pieces or len(set(pieces)) != len(pieces):
        raise InputError(
            f"{file}: is no dictionary of fairseq, which has a piece and its count on each line, no piece twice; give "
            "its dict.ltr.txt."
        )

    return Vocabulary(
        pieces=tuple(pieces),
        blank_index=0,
        silent_indices=frozenset(range(len(_FAIRSEQ_SYMBOLS))),
        word_boundary="|",
    )
