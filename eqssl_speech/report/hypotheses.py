"""``hypotheses.tsv``: every utterance of an evaluation, the worst first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from eqssl_speech.decoding.error_rates import ErrorCounts
from eqssl_speech.error import InputError
from eqssl_speech.report.output import write_atomically
from eqssl_speech.tasks.evaluate.scores import ScoredUtterance

HYPOTHESES_FILE_NAME: Final = "hypotheses.tsv"

_KINDS: Final = ("substitutions", "deletions", "insertions", "hits")

_COUNTS: Final = tuple(f"{unit}_{kind}" for unit in ("word", "char") for kind in _KINDS)

_COLUMNS: Final = ("id", "source", "cer", "wer", "duration_s", *_COUNTS, "ref", "hyp")


def sort_by_error(utterances: Iterable[ScoredUtterance]) -> list[ScoredUtterance]:
    """Sort utterances: those with the greatest character error rate first, and among them those with most errors."""
    return sorted(utterances, key=lambda u: (-u.chars.rate, -u.chars.num_errors, u.source, u.id))


def write_hypotheses(utterances: Sequence[ScoredUtterance], directory: Path) -> Path:
    """Write ``hypotheses.tsv`` into a directory, in one move.

    :param utterances: The utterances.
    :param directory: The directory.
    :returns: The file.
    :raises InputError: If the directory cannot be written to.
    """
    rows = [_COLUMNS, *map(_to_row, sort_by_error(utterances))]

    text = "".join("\t".join(row) + "\n" for row in rows)

    return write_atomically(
        directory / HYPOTHESES_FILE_NAME, text.encode("utf-8", "surrogateescape")
    )


def read_hypotheses(file: Path) -> list[ScoredUtterance]:
    """Read what :func:`write_hypotheses` wrote.

    :param file: The file.
    :returns: The utterances, as sorted there.
    :raises InputError: If the file is missing or is not such a file.
    """
    try:
        text = file.read_bytes().decode("utf-8", "surrogateescape")
    except OSError as ex:
        raise InputError(
            f"{file}: cannot be read ({ex.strerror}); give the summary.json of `eqssl evaluate`, beside which the "
            "hypotheses lie."
        ) from None

    header, *rows = (tuple(line.split("\t")) for line in text.removesuffix("\n").split("\n"))

    if header != _COLUMNS:
        raise InputError(
            f"{file}:1: the columns must be {', '.join(_COLUMNS)}, but are {', '.join(header)} instead; evaluate again."
        )

    try:
        return [_parse_row(row) for row in rows]
    except (ValueError, KeyError):
        raise InputError(f"{file}: a line is damaged; evaluate again.") from None


def _to_row(utterance: ScoredUtterance) -> tuple[str, ...]:
    counts = [
        str(getattr(counts, kind))
        for counts in (utterance.words, utterance.chars)
        for kind in _KINDS
    ]

    return (
        utterance.id,
        utterance.source,
        f"{utterance.chars.rate:.4f}",
        f"{utterance.words.rate:.4f}",
        f"{utterance.duration_s:.3f}",
        *counts,
        utterance.reference,
        utterance.hypothesis,
    )


def _parse_row(row: tuple[str, ...]) -> ScoredUtterance:
    fields = dict(zip(_COLUMNS, row, strict=True))

    words, chars = (
        ErrorCounts(**{kind: int(fields[f"{unit}_{kind}"]) for kind in _KINDS})
        for unit in ("word", "char")
    )

    return ScoredUtterance(
        fields["id"],
        fields["source"],
        float(fields["duration_s"]),
        fields["ref"],
        fields["hyp"],
        words,
        chars,
    )
