"""Makes a tokenizer from text, with the sentencepiece library."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from eqssl_speech.error import InputError
from eqssl_speech.text.rules import TextRules
from eqssl_speech.text.tokenizer import (
    BLANK_INDEX,
    BLANK_PIECE,
    INFO_FILE,
    MODEL_FILE,
    UNK_INDEX,
    VOCABULARY_FILE,
    WORD_BOUNDARY,
    CtcTokenizer,
    Kind,
    format_vocabulary,
)
from eqssl_speech.text.tokenizer_info import TokenizerInfo, TrainedSource

_TOO_LARGE: Final = re.compile(r"size too high \(\d+\).* value <= (\d+)")
_TOO_SMALL: Final = re.compile(r"smaller than required_chars\. \d+ vs (\d+)")

# By default the library leaves out long lines without a word.
_MAX_LINE_BYTES: Final = 1 << 24

# The result depends on it in the last bits, so it must not be the number of cores.
_NUM_THREADS: Final = 4


def train_tokenizer(
    texts: Mapping[TrainedSource, Sequence[str]],
    rules: Mapping[str, TextRules],
    *,
    kind: Kind = "char",
    vocab_size: int | None = None,
    min_char_count: int = 1,
) -> CtcTokenizer:
    """Make a tokenizer; the same text in the same order gives the same bytes.

    :param texts: The normalised training text of each source.
    :param rules: The rules by which the text of each language was normalised.
    :param kind: What the labels are.
    :param vocab_size: The number of labels, with the blank and the unknown one; for ``char``, where the text says how
        many there are, it must be ``None``.
    :param min_char_count: Characters that the text holds less often become unknown; 1 keeps all.
    :returns: The tokenizer, in memory.
    :raises InputError: If there is no text, or if ``vocab_size`` does not suit it.
    """
    counts = Counter(char for lines in texts.values() for line in lines for char in line)
    del counts[" "]

    if not counts:
        raise InputError(
            "the training text is empty once it is normalised, or all of it is refused; "
            "give sources with text, or choose otherwise with `--digits` and `--punctuation`."
        )

    rare = [char for char, count in _sort(counts) if count < min_char_count]
    if len(rare) == len(counts):
        raise InputError(
            f"no character occurs in the training text {min_char_count} times; "
            "lower `--min-char-count`, or give more text."
        )

    # Cut where `encode` will cut as well.
    blanks = str.maketrans(dict.fromkeys(rare, " "))
    lines = [line.translate(blanks) for lines in texts.values() for line in lines]

    model = _train_model(lines, kind, vocab_size)

    info = TokenizerInfo(
        kind=kind,
        rules=rules,
        sources=tuple(texts),
        min_char_count=min_char_count,
        rare_characters="".join(rare),
    )

    processor = SentencePieceProcessor(model_proto=model)
    pieces = [processor.id_to_piece(i) for i in range(len(processor))]

    files = {
        MODEL_FILE: model,
        INFO_FILE: info.format(),
        VOCABULARY_FILE: format_vocabulary(pieces),
    }

    return CtcTokenizer(files, "the new tokenizer")


def _sort(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _train_model(lines: Sequence[str], kind: Kind, vocab_size: int | None) -> bytes:
    writer = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=writer,
            model_type=kind,
            pad_id=BLANK_INDEX,
            pad_piece=BLANK_PIECE,
            unk_id=UNK_INDEX,
            bos_id=-1,
            eos_id=-1,
            normalization_rule_name="identity",
            character_coverage=1.0,
            max_sentence_length=_MAX_LINE_BYTES,
            num_threads=_NUM_THREADS,
            minloglevel=2,
            **_make_options(kind, vocab_size),
        )
    except RuntimeError as ex:
        raise InputError(_explain(str(ex), vocab_size)) from None

    return writer.getvalue()


def _make_options(kind: Kind, vocab_size: int | None) -> dict[str, Any]:
    if kind != "char":
        if vocab_size is None:
            raise InputError(f"a vocabulary of kind {kind} needs a size; give `--vocab-size`.")

        return {"vocab_size": vocab_size}

    if vocab_size is not None:
        raise InputError(
            "a vocabulary of kind char is as large as the text has characters, so it takes no "
            "`--vocab-size`; leave it out, and leave rare characters out with `--min-char-count`."
        )

    # Words must be told apart even if every utterance of the text is one word.
    return {
        "use_all_vocab": True,
        "add_dummy_prefix": False,
        "required_chars": WORD_BOUNDARY,
    }


def _explain(error: str, vocab_size: int | None) -> str:
    if match := _TOO_LARGE.search(error):
        return (
            f"the text is too little for {vocab_size} labels; "
            f"the largest `--vocab-size` that works is {match[1]}."
        )
    if match := _TOO_SMALL.search(error):
        return (
            f"{vocab_size} labels are fewer than the characters of the text; the smallest "
            f"`--vocab-size` that works is {match[1]}, or leave rare characters out with `--min-char-count`."
        )

    return (
        f"sentencepiece cannot make a vocabulary of {vocab_size} labels: {' '.join(error.split())}."
    )
