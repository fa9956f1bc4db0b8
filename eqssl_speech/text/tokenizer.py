"""The labels of CTC: a directory that holds a sentencepiece model and the rules by which its text was written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, final

from sentencepiece import SentencePieceProcessor

from eqssl_speech.error import InputError
from eqssl_speech.text.normalization import TextNormalizer
from eqssl_speech.text.rules import TextRules
from eqssl_speech.text.tokenizer_info import TokenizerInfo

Kind: TypeAlias = Literal["char", "unigram", "bpe"]
"""What the labels are: single characters, or pieces of words found by one of sentencepiece's methods."""

MODEL_FILE: Final = "tokenizer.model"
INFO_FILE: Final = "tokenizer.json"
VOCABULARY_FILE: Final = "vocab.txt"

FILES: Final = (MODEL_FILE, INFO_FILE, VOCABULARY_FILE)
"""All files of a tokenizer."""

BLANK_INDEX: Final = 0
BLANK_PIECE: Final = "<pad>"
"""The model's padding, which is the blank of CTC."""

UNK_INDEX: Final = 1

WORD_BOUNDARY: Final = "\u2581"
"""Stands between words (char), or begins a piece that begins a word (unigram, bpe)."""


@final
class CtcTokenizer:
    """Turns text into labels and back."""

    blank_index: Final = BLANK_INDEX
    """The index of CTC's blank; never in what :meth:`encode` returns."""

    unk_index: Final = UNK_INDEX
    """The index of what the vocabulary lacks. It is left out of what a model is taught, so that it says nothing."""

    def __init__(self, files: Mapping[str, bytes], where: str) -> None:
        """
        :param files: The content of each of :data:`FILES`.
        :param where: Where they are from, for messages.
        :raises InputError: If they are not a tokenizer.
        """
        self._files = dict(files)
        self._where = where
        self._info = TokenizerInfo.parse(f"{where}/{INFO_FILE}", files[INFO_FILE])
        self._model = _open_model(f"{where}/{MODEL_FILE}", files[MODEL_FILE])
        self._normalizers: dict[str, TextNormalizer] = {}

        pieces = (self._model.id_to_piece(i) for i in range(len(self._model)))

        self.vocabulary: Final[tuple[str, ...]] = tuple(pieces)
        """The piece of each index; the first is ``<pad>``."""

        if files[VOCABULARY_FILE] != format_vocabulary(self.vocabulary):
            raise InputError(
                f"{where}: {VOCABULARY_FILE} does not list the pieces of {MODEL_FILE}, so the files "
                "belong to different tokenizers; make it again with `eqssl tokenizer`."
            )

    @staticmethod
    def load(directory: Path) -> CtcTokenizer:
        """Read a tokenizer.

        :param directory: What ``eqssl tokenizer`` made, or :meth:`save`.
        :returns: The tokenizer.
        :raises InputError: If the directory does not hold one.
        """
        files = {}

        for name in FILES:
            try:
                files[name] = (directory / name).read_bytes()
            except OSError as ex:
                raise InputError(
                    f"{directory}: is not a tokenizer, as {name} cannot be read ({ex.strerror}); "
                    "correct the path, or make one with `eqssl tokenizer`."
                ) from None

        return CtcTokenizer(files, str(directory))

    def save(self, directory: Path, *, replace: bool = False) -> None:
        """Write the tokenizer in one piece, byte for byte as it was read.

        :param directory: Where to; if it holds this very tokenizer, nothing is done.
        :param replace: Whether another tokenizer that is there is replaced.
        :raises InputError: If something else is there, or the directory cannot be written.
        """
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            if self._is_saved_in(directory):
                return
            _require_replaceable(directory, replace)

        # Names of their own per process, so that two writers cannot mix their files.
        new = directory.with_name(f".{directory.name}.{os.getpid()}.new")
        old = directory.with_name(f".{directory.name}.{os.getpid()}.old")
        try:
            new.mkdir(parents=True)
            for name, content in self._files.items():
                (new / name).write_bytes(content)
            if directory.exists():
                directory.rename(old)
            new.rename(directory)
        except OSError as ex:
            raise InputError(
                f"{directory}: the tokenizer cannot be written ({ex.strerror}); choose another directory."
            ) from None
        finally:
            shutil.rmtree(new, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)

    @property
    def scores(self) -> tuple[float, ...]:
        """What sentencepiece prefers pieces by: log-probabilities (unigram), or the order of merges (bpe)."""
        return tuple(self._model.get_score(i) for i in range(len(self._model)))

    @property
    def alphabet(self) -> frozenset[str]:
        """The characters that can be written; a space is not one of them."""
        return frozenset(piece for piece in self.vocabulary if len(piece) == 1) - {WORD_BOUNDARY}

    @property
    def info(self) -> TokenizerInfo:
        """What the tokenizer was made of, and how."""
        return self._info

    @property
    def kind(self) -> str:
        """``char``, ``unigram`` or ``bpe``."""
        return self._info.kind

    @property
    def vocab_size(self) -> int:
        """The number of labels, with the blank and the unknown one."""
        return len(self.vocabulary)

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages whose text it can write."""
        return tuple(self._info.rules)

    def knows(self, language: str) -> bool:
        """Return whether text of a language can be written; ``pt-BR`` can where ``pt`` can."""
        return any(key in self._info.rules for key in _list_keys(language))

    def normalize(self, text: str, language: str) -> str:
        """Bring text into the written form of its language, in which error rates are counted as well.

        :param text: One utterance, as found.
        :param language: Its language; ``pt-BR`` has the rules of ``pt`` where it has none of its own.
        :returns: Words joined by single spaces; empty if nothing is kept.
        :raises TextRefusedError: If the rules refuse the text.
        :raises InputError: If the language is not one of :attr:`languages`.
        """
        if language not in self._normalizers:
            self._normalizers[language] = TextNormalizer(self._find_rules(language))

        return self._normalizers[language](text)

    def encode(self, text: str) -> list[int]:
        """Turn normalised text into labels.

        :param text: What :meth:`normalize` returned.
        :returns: Indices into :attr:`vocabulary`; a run of characters that it lacks is one :attr:`unk_index`.
        """
        indices: list[int] = self._model.encode(text)

        return indices

    def decode(self, indices: Sequence[int]) -> str:
        """Turn labels into text.

        :param indices: Labels without repeats and blanks, as CTC collapses them; blanks that are left say nothing, nor
            does :attr:`unk_index`, which no model is taught to emit.
        :returns: Words joined by single spaces.
        :raises IndexError: If an index is not one of the vocabulary.
        """
        pieces = []

        for index in indices:
            if not 0 <= index < self.vocab_size:
                raise IndexError(
                    f"`indices` must be less than {self.vocab_size} and not negative, but has {index}."
                )
            if index not in (BLANK_INDEX, UNK_INDEX):
                pieces.append(self.vocabulary[index])

        return " ".join("".join(pieces).replace(WORD_BOUNDARY, " ").split())

    def _is_saved_in(self, directory: Path) -> bool:
        try:
            return all((directory / name).read_bytes() == self._files[name] for name in FILES)
        except OSError:
            return False

    def _find_rules(self, language: str) -> TextRules:
        rules = self._info.rules

        for key in _list_keys(language):
            if key in rules:
                return rules[key]

        known = ", ".join(f"`{key}`" for key in rules)
        raise InputError(
            f"{self._where}: the tokenizer does not know the language `{language}`; "
            f"the known ones are {known}: correct the language in sources.tsv, "
            "or make a tokenizer that covers it with `eqssl tokenizer`."
        )


def _list_keys(language: str) -> tuple[str, str]:
    return language, language.split("-")[0]


def format_vocabulary(vocabulary: Sequence[str]) -> bytes:
    """Return the content of ``vocab.txt``: one piece per line, the first with index 0."""
    return "".join(f"{piece}\n" for piece in vocabulary).encode()


def _open_model(where: str, content: bytes) -> Any:
    model = SentencePieceProcessor()
    try:
        model.LoadFromSerializedProto(content)
    except RuntimeError:
        raise InputError(
            f"{where}: is not a sentencepiece model; make the tokenizer again with `eqssl tokenizer`."
        ) from None

    ids = (model.pad_id(), model.unk_id(), model.bos_id(), model.eos_id())
    if ids != (BLANK_INDEX, UNK_INDEX, -1, -1) or model.id_to_piece(0) != BLANK_PIECE:
        raise InputError(
            f"{where}: the model must have `{BLANK_PIECE}` (CTC's blank) as index {BLANK_INDEX}, "
            f"the unknown piece as {UNK_INDEX} and no marks of begin and end; "
            "make the tokenizer with `eqssl tokenizer`."
        )

    return model


def _require_replaceable(directory: Path, replace: bool) -> None:
    if not directory.is_dir() or {path.name for path in directory.iterdir()} - set(FILES):
        # Never remove what this package did not write.
        raise InputError(f"{directory}: exists and is not a tokenizer; give another directory.")

    if not replace:
        raise InputError(
            f"{directory}: holds another tokenizer, and checkpoints may depend on it; "
            "give another directory, or replace it with `--force`."
        )
