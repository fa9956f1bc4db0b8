"""CTM, in which words are written with their times: ``utterance channel start duration word confidence``, in seconds.

The format is that of NIST's scoring tools (https://github.com/usnistgov/SCTK, ``doc/infmts.htm``): columns are set
apart by white space, a line that begins with ``;;`` is a comment, and the confidence may be missing. Those tools want
the lines sorted (``LC_ALL=C sort -k1,1 -k2,2 -k3,3n``); here they keep the order of the manifests.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from eqssl_speech.data.phones import encode_name
from eqssl_speech.decoding.alignment import Word
from eqssl_speech.error import InputError
from eqssl_speech.report.output import write_atomically

_CHANNEL: Final = "1"

_LAYOUT: Final = "`utterance channel start duration word [confidence]`"


def write_ctm(file: Path, utterances: Iterable[tuple[str, Sequence[Word]]]) -> Path:
    """Write words with their times, in one move.

    Times are rounded to milliseconds, and so that words that do not overlap do not overlap as written.

    :param file: The file.
    :param utterances: The name and the words of each utterance, in the order of the lines. In a name, white space,
        ``%`` and ``;`` are percent-encoded.
    :returns: `file`.
    :raises InputError: If it cannot be written.
    """
    lines = (_to_line(encode_name(name), word) for name, words in utterances for word in words)

    return write_atomically(file, "".join(lines).encode("utf-8"))


def read_ctm(file: Path) -> dict[str, list[Word]]:
    """Read words with their times, whoever wrote them.

    :param file: The file.
    :returns: The words of each utterance, in the order of the file; those of a file without confidences have 1.
    :raises InputError: If the file is missing, or a line is malformed.
    """
    try:
        lines = file.read_bytes().decode("utf-8-sig").split("\n")
    except OSError as ex:
        raise InputError(
            f"{file}: cannot be read ({ex.strerror}); give a CTM file, such as `eqssl align` writes."
        ) from None
    except UnicodeDecodeError as ex:
        raise InputError(
            f"{file}: is not UTF-8 text (byte {ex.start}); convert it to UTF-8."
        ) from None

    utterances: dict[str, list[Word]] = {}

    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.startswith(";;"):
            name, word = _parse_line(f"{file}:{number}", line)

            utterances.setdefault(name, []).append(word)

    return utterances


def _to_line(name: str, word: Word) -> str:
    start_ms, end_ms = round(1000 * word.start_s), round(1000 * word.end_s)

    times = f"{start_ms / 1000:.3f} {(end_ms - start_ms) / 1000:.3f}"

    return f"{name} {_CHANNEL} {times} {word.text} {word.confidence:.4f}\n"


def _parse_line(where: str, line: str) -> tuple[str, Word]:
    columns = line.split()

    if len(columns) not in (5, 6):
        raise InputError(
            f"{where}: a line must hold {_LAYOUT}, but has {len(columns)} columns; correct it."
        )

    name, _, *times, text = columns[:5]

    try:
        start_s, duration_s, confidence = (float(x) for x in (*times, *(columns[5:] or ["1"])))
    except ValueError:
        start_s = duration_s = confidence = math.nan

    if not (math.isfinite(start_s + confidence) and 0.0 <= duration_s < math.inf):
        raise InputError(
            f"{where}: the start, the duration and the confidence must be numbers, and the duration not negative, but "
            f"are `{' '.join([*times, *columns[5:]])}` instead; correct the line."
        )

    # As written, so that a word ends where the next one begins.
    return unquote(name), Word(text, start_s, round(start_s + duration_s, 6), confidence)
