"""How a recogniser is written so that sherpa-onnx makes of it what is made here.

Its offline recogniser for omnilingual ASR takes models like ours. As of version 2.0.1 it brings a recording to 16 kHz,
and to zero mean and unit variance; takes the best label of each frame; drops those that repeat the one before, and the
blank; and joins the pieces of the others (``offline-recognizer-ctc-impl.h`` and ``symbol-table.cc`` in its sources).
What differs from here:

- It knows no silent label but the blank. So its graph gives what silent labels score to the blank: where one of them
  is the best of a frame, nothing is written.
- It takes only the first ``▁`` of a piece for a space, and leaves doubled and last spaces in the text.
- It turns 256 pieces ``<0x00>`` to ``<0xFF>`` into bytes, which here are text like any other.
"""

from __future__ import annotations

from typing import Final

from eqssl_speech.error import InputError
from eqssl_speech.export.onnx_encoder import LOWEST
from eqssl_speech.export.onnx_graph import Graph
from eqssl_speech.export.vocabulary import Vocabulary
from eqssl_speech.text.tokenizer import WORD_BOUNDARY

SAMPLE_RATE: Final = 16_000
"""What sherpa-onnx resamples recordings to, in Hz, whatever the model says."""

METADATA: Final = {"model_type": "omnilingual-asr", "version": "1"}
"""What sherpa-onnx's own exporter writes into such models, besides numbers."""

_BLANK: Final = "<blk>"

_SKIPPED: Final = ("SIL", "</s>")
"""Symbols that sherpa-onnx leaves out of every text."""

_NO_BYTE: Final = "\u2047"
"""A symbol that cannot stand for a byte."""

_LAST_BYTE_LETTERS: Final = frozenset(map(chr, range(0x180, 0x1C0)))
"""The last of the letters by which icefall's vocabularies write bytes."""

_SPACES: Final = " \t\n\r\f\v"


def format_tokens(vocabulary: Vocabulary) -> bytes:
    """Return the content of ``tokens.txt``: a piece and its index per line.

    The blank is called ``<blk>``, and a space is ``▁``. Where the vocabulary has pieces that sherpa-onnx would take for
    something else, lines come first that keep it from that; no model emits their indices.

    :raises InputError: If a piece is empty or has spaces in it, as such a line could not be read.
    """
    pieces = [piece.replace(vocabulary.word_boundary, WORD_BOUNDARY) for piece in vocabulary.pieces]
    pieces[vocabulary.blank_index] = _BLANK

    for index, piece in enumerate(pieces):
        if not piece or any(space in piece for space in _SPACES):
            raise InputError(
                f"The label {index} of the vocabulary is `{piece}`, but tokens.txt takes none that is empty or has "
                "spaces in it; choose another format with `--to`."
            )

    unused = enumerate(_find_decoys(pieces, vocabulary), start=len(pieces))
    lines = [(piece, index) for index, piece in [*unused, *enumerate(pieces)]]

    return "".join(f"{piece} {index}\n" for piece, index in lines).encode()


def add_silence(graph: Graph, logits: str, vocabulary: Vocabulary, output: str) -> str:
    """Give what silent labels score to the blank, and the others of them nothing.

    :param logits: *Shape:* ``(N, T, V)``.
    :param output: The name of the result.
    """
    indices = range(len(vocabulary.pieces))
    silent = vocabulary.silent_indices | {vocabulary.blank_index}

    is_silent = graph.bools("is_silent", [i in silent for i in indices])
    is_blank = graph.bools("is_blank", [i == vocabulary.blank_index for i in indices])
    lowest = graph.number(LOWEST)

    best = graph.op("Where", is_silent, logits, lowest)
    best = graph.op("ReduceMax", best, axes=[-1], keepdims=1)

    others = graph.op("Where", is_silent, lowest, logits)

    return graph.op("Where", is_blank, best, others, output=output)


def _find_decoys(pieces: list[str], vocabulary: Vocabulary) -> list[str]:
    """List symbols that have to come first for sherpa-onnx to take the pieces for what they are."""
    written = {p for i, p in enumerate(pieces) if i not in vocabulary.silent_indices}
    decoys: list[str] = [symbol for symbol in _SKIPPED if symbol in written]

    # By the last of its letters a vocabulary is taken for one that writes bytes as letters.
    letters = "".join(piece.removeprefix(WORD_BOUNDARY) for piece in pieces)

    if max(letters) in _LAST_BYTE_LETTERS:
        decoys.append(_NO_BYTE)

    return decoys
