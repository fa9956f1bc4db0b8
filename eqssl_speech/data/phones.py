"""Phones with their times beside a manifest, as NIST CTM: ``utterance channel start duration phone``, in seconds.

The utterance is the manifest's entry as written there (``path``, or ``path:offset:length``), with white space, ``%``
and ``;`` percent-encoded; times count from the utterance's first sample. The format is that of NIST's scoring tools
(https://github.com/usnistgov/SCTK, ``doc/infmts.htm``): columns are set apart by white space, a line that begins with
``;;`` is a comment, and a confidence may follow the phone, which is not used here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final
from urllib.parse import quote, unquote

from eqssl_speech.data.corpus import DataSource
from eqssl_speech.data.manifest import Manifest, printable, replace_text
from eqssl_speech.error import InputError

TOLERANCE_S: Final = 0.01
"""How far a phone may reach into the next one, or past the end of its utterance: what rounding to two decimals does."""

_SUFFIX: Final = ".phones.ctm"

_CHANNEL: Final = "1"

_LAYOUT: Final = "`utterance channel start duration phone [confidence]`"


@final
@dataclass(frozen=True, slots=True)
class Phone:
    """A phone, or a pause, and when it is spoken."""

    start_s: float
    """When it begins, in seconds from the start of the utterance; at least 0."""

    end_s: float
    """When it ends, in seconds from the start of the utterance; not before it begins."""

    label: str
    """Its name in the labels' own alphabet, such as ``ay``; ``pau`` or the like for a pause."""


def phones_file(source: DataSource, split: str) -> Path:
    """Return the phone labels of a split, which need not exist.

    :param source: The source.
    :param split: ``train``, ``valid``, ``test`` or another that the source has.
    :returns: ``<split>.phones.ctm`` beside the manifest.
    """
    return phones_beside(source.manifest_file(split))


def phones_beside(manifest_file: Path) -> Path:
    """Return the phone labels that belong to a manifest.

    :param manifest_file: The manifest, ``<split>.tsv``.
    :returns: Their path, whether or not they exist.
    """
    return manifest_file.with_suffix(_SUFFIX)


def read_phones(file: Path, manifest: Manifest) -> list[list[Phone] | None]:
    """Read the phone labels beside a manifest, whoever wrote them.

    :param file: The labels, see :func:`phones_file`.
    :param manifest: The manifest that they belong to.
    :returns: The phones of each entry, in the order of their times; ``None`` where the file has none of it.
    :raises InputError: If the file is missing, a line is malformed or names an utterance that the manifest does not
        have, or the phones of an utterance are not in the order of their times or overlap.
    """
    utterances: dict[str, list[Phone]] = {str(entry): [] for entry in manifest.entries}

    for number, line in enumerate(_read_lines(file), start=1):
        if not line.strip() or line.startswith(";;"):
            continue

        where = f"{file}:{number}"
        name, phone = _parse_line(where, line)

        if name not in utterances:
            raise InputError(
                f"{where}: the manifest {manifest.file} has no utterance `{printable(name)}`; write the paths "
                "as they stand there, or remove the line."
            )

        phones = utterances[name]
        _require_follows(where, phone, phones[-1] if phones else None)
        phones.append(phone)

    return [utterances[str(entry)] or None for entry in manifest.entries]


def write_phones(file: Path, manifest: Manifest, phones: Sequence[Sequence[Phone] | None]) -> None:
    """Write phone labels beside a manifest in one piece: a reader sees the old file or the new one.

    Times are rounded to milliseconds, and so that a phone ends where the next one begins if it did before.

    :param file: The labels to write, see :func:`phones_file`; the directory must exist.
    :param manifest: The manifest that they belong to.
    :param phones: The phones of each entry, in the order of the manifest and of their times; ``None`` or empty where an
        entry has none. An utterance that the manifest names twice is written once.
    :raises InputError: If there is not one item per entry, or if a phone cannot stand in the file.
    """
    if len(phones) != len(manifest.entries):
        raise InputError(
            f"{file}: there are phones for {len(phones)} utterances, but {manifest.file} has "
            f"{len(manifest.entries)}; give one list per utterance."
        )

    lines: dict[str, str] = {}

    for entry, spoken in zip(manifest.entries, phones):
        if spoken and str(entry) not in lines:
            lines[str(entry)] = "".join(_format_lines(file, str(entry), spoken))

    replace_text(file, "".join(lines.values()))


def require_phones_fit(file: Path, manifest: Manifest, durations_s: Mapping[int, float]) -> None:
    """Check phone labels against the recordings.

    :param file: The labels, see :func:`phones_file`.
    :param manifest: The manifest that they belong to.
    :param durations_s: The length of the recordings, in seconds, by the number of their entry. Entries that are not in
        it are only checked among themselves.
    :raises InputError: As :func:`read_phones`, and if a phone ends after its utterance.
    """
    for entry_nr, phones in enumerate(read_phones(file, manifest)):
        duration_s = durations_s.get(entry_nr, math.inf)

        if phones and phones[-1].end_s > duration_s + TOLERANCE_S:
            raise InputError(
                f"{file}: the phone `{printable(phones[-1].label)}` of {manifest.entries[entry_nr]} ends at "
                f"{phones[-1].end_s:.3f} s, but the utterance is {duration_s:.3f} s long; "
                "make the labels from the recordings as they are, or remove the file."
            )


def encode_name(name: str) -> str:
    """Return a name as one column: white space, ``%`` and ``;`` become ``%20`` and the like."""
    return "".join(quote(c, safe="") if c.isspace() or c in "%;" else c for c in name)


def _read_lines(file: Path) -> list[str]:
    try:
        return file.read_bytes().decode("utf-8-sig").split("\n")
    except OSError as ex:
        raise InputError(
            f"{file}: the phone labels cannot be read ({ex.strerror}); give a CTM file of phones."
        ) from None
    except UnicodeDecodeError as ex:
        raise InputError(
            f"{file}: the phone labels are not UTF-8 text (byte {ex.start}); convert them to UTF-8."
        ) from None


def _parse_line(where: str, line: str) -> tuple[str, Phone]:
    columns = line.split()

    if len(columns) not in (5, 6):
        raise InputError(
            f"{where}: a line must hold {_LAYOUT}, but has {len(columns)} columns; correct it."
        )

    name, _, start, duration, label = columns[:5]

    try:
        start_s, duration_s = float(start), float(duration)
    except ValueError:
        start_s = duration_s = math.nan

    if not (0.0 <= start_s < math.inf and 0.0 <= duration_s < math.inf):
        raise InputError(
            f"{where}: the start and the duration must be numbers of seconds from 0, but are "
            f"`{printable(start)} {printable(duration)}` instead; correct the line."
        )

    # As written, so that a phone ends where the next one begins.
    return unquote(name), Phone(start_s, round(start_s + duration_s, 6), label)


def _format_lines(file: Path, name: str, phones: Sequence[Phone]) -> Iterator[str]:
    where, last = f"{file}: {name}", None

    for phone in phones:
        _require_writable(where, phone)
        # Rounded first, so that what is written is what was checked.
        phone = Phone(round(phone.start_s, 3), round(phone.end_s, 3), phone.label)
        _require_follows(where, phone, last)
        last = phone

        times = f"{phone.start_s:.3f} {phone.end_s - phone.start_s:.3f}"
        yield f"{encode_name(name)} {_CHANNEL} {times} {phone.label}\n"


def _require_writable(where: str, phone: Phone) -> None:
    if phone.label.split() != [phone.label]:
        raise InputError(
            f"{where}: the phone {phone.label!r} must be one word without white space; rename it."
        )
    if not 0.0 <= phone.start_s <= phone.end_s < math.inf:
        raise InputError(
            f"{where}: the phone `{phone.label}` must begin at 0 s or later and end no earlier than it begins, but "
            f"is from {phone.start_s} to {phone.end_s} s instead; correct its times."
        )


def _require_follows(where: str, phone: Phone, last: Phone | None) -> None:
    if last is None:
        return

    # The sum of two numbers of three decimals is not exact.
    overlap_s = round(last.end_s - phone.start_s, 6)

    if phone.start_s < last.start_s or overlap_s > TOLERANCE_S:
        raise InputError(
            f"{where}: the phone `{printable(phone.label)}` begins at {phone.start_s:.3f} s, within or before "
            f"`{printable(last.label)}` ({last.start_s:.3f} to {last.end_s:.3f} s); "
            "write the phones of an utterance one after another, in the order of their times."
        )
