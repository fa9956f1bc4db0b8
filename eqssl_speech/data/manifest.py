"""Manifests, exactly as fairseq writes them, and the text beside them.

The first line is the audio root; each further line is ``path<TAB>num_samples``. A path may carry
``:offset:length`` in samples, which selects a part of the file; ``num_samples`` is then that length.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from eqssl_speech.error import InputError
from eqssl_speech.files import replace_file

FIRST_ENTRY_LINE: Final = 2
"""The line of a manifest's first entry, counted from one; line 1 is the audio root."""

_SLICE: Final = re.compile(r"(?P<path>.+):(?P<offset>[0-9]+):(?P<length>[0-9]+)")

_MAX_NUM_SAMPLES: Final = (1 << 63) - 1
"""What libsndfile and NumPy can count to."""

_MAX_SHOWN: Final = 300

_LAYOUT: Final = "fairseq manifests hold `path<TAB>num_samples`"


@final
@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """One utterance: an audio file, or a part of one."""

    path: str
    """The file, relative to the audio root, as written but without ``:offset:length``."""

    num_samples: int
    """The length of the utterance in samples of the file as stored; greater than 0."""

    offset: int = 0
    """The first sample of the utterance within the file."""

    is_slice: bool = False
    """Whether the entry names a part of the file (``path:offset:length``)."""

    def __str__(self) -> str:
        return f"{self.path}:{self.offset}:{self.num_samples}" if self.is_slice else self.path


@final
@dataclass(frozen=True)
class Manifest:
    """The utterances of one split of one source."""

    file: Path
    """The manifest itself."""

    root: Path
    """The directory that the entries' paths are relative to."""

    entries: tuple[ManifestEntry, ...]
    """The utterances, in the order of the file; never empty."""

    def locate(self, entry: ManifestEntry) -> Path:
        """Return the audio file of an entry.

        :param entry: An entry of this manifest.
        :returns: Its path, joined to the audio root.
        """
        return self.root / entry.path

    def describe_line(self, index: int) -> str:
        """Name the line of an entry, as ``file:line``, for messages.

        :param index: The index into :attr:`entries`.
        :returns: The manifest's file and the line, counted from one.
        """
        return f"{self.file}:{index + FIRST_ENTRY_LINE}"


def read_manifest(file: Path) -> Manifest:
    """Read a manifest; audio files are not opened.

    :param file: The manifest. A relative audio root in it is relative to the manifest's own directory.
    :returns: The manifest, with at least one entry.
    :raises InputError: If the manifest, or its audio root, is missing; if it is empty; or if a line is malformed.
    """
    lines = _read_lines(file, what="manifest")

    while lines and not lines[-1].strip():
        lines.pop()

    root = _parse_root(file, lines)

    entries = tuple(
        _parse_entry(f"{file}:{number}", line)
        for number, line in enumerate(lines[1:], start=FIRST_ENTRY_LINE)
    )
    if not entries:
        raise InputError(
            f"{file}: the manifest holds an audio root but no utterance; "
            "add lines `path<TAB>num_samples`, or leave this source out."
        )

    return Manifest(file, root, entries)


def write_manifest(file: Path, root: Path | str, entries: Iterable[ManifestEntry]) -> None:
    """Write a manifest in one piece: a reader sees the old file or the new one.

    :param file: The manifest to write; its directory must exist.
    :param root: The audio root, written verbatim; a relative one keeps the corpus relocatable.
    :param entries: The utterances, in the order in which they are written.
    :raises InputError: If the root or a path cannot stand in a manifest, or a length is not greater than 0.
    """
    if not can_stand_in_line(str(root)) or str(root).startswith("\ufeff"):
        raise InputError(
            f"{file}: the audio root {str(root)!r} cannot stand in a manifest; "
            "rename the directory so that its name is UTF-8 without a tab and a line break."
        )

    lines = [str(root)]

    for entry in entries:
        _validate_entry(file, entry)
        lines.append(f"{entry}\t{entry.num_samples}")

    replace_text(file, "".join(f"{line}\n" for line in lines))


def read_transcripts(file: Path, manifest: Manifest) -> list[str]:
    """Read the text beside a manifest (``.wrd``).

    :param file: The text, one line per entry; a line may be empty.
    :param manifest: The manifest that the text belongs to.
    :returns: One string per entry, without the line end.
    :raises InputError: If the file is missing, or has another number of lines than the manifest has entries.
    """
    lines = _read_lines(file, what="transcript file")

    if len(lines) != len(manifest.entries):
        raise InputError(
            f"{file}: has {len(lines)} lines, but {manifest.file} has {len(manifest.entries)} "
            "utterances; write exactly one line of text per utterance, in the same order."
        )

    return lines


def replace_text(file: Path, text: str) -> None:
    """Write a text file in one piece, so that an interrupted program leaves the old file or none.

    :param file: The file to write; its directory must exist.
    :param text: Its content, written as UTF-8 with the line ends as they are.
    """
    replace_file(file, text.encode("utf-8"))


def printable(text: str) -> str:
    """Return what a file holds as a message of one line can show it: cut if it is long, with escapes."""
    shown = text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."

    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in shown)


def can_stand_in_line(text: str) -> bool:
    """Tell whether text can be a column of a file of lines: UTF-8, not blank, without a tab and a line break."""
    if not text.strip() or re.search(r"[\t\r\n]", text):
        return False

    try:
        text.encode()
    except UnicodeEncodeError:
        # A name that is not UTF-8.
        return False

    return True


def _read_lines(file: Path, what: str) -> list[str]:
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(
            f"{file}: there is no such {what}; correct the path, or make it with `eqssl prepare`."
        ) from None
    except OSError as ex:
        raise InputError(
            f"{file}: the {what} cannot be read ({ex.strerror}); "
            "give a text file that this user may read."
        ) from None
    except UnicodeDecodeError as ex:
        raise InputError(
            f"{file}: the {what} is not UTF-8 text (byte {ex.start}); convert it to UTF-8."
        ) from None

    # Not `splitlines`, which would also split at characters that may stand in a path or a transcript.
    lines = [line.removesuffix("\r") for line in text.split("\n")]

    if lines[-1] == "":
        lines.pop()

    return lines


def _parse_root(file: Path, lines: list[str]) -> Path:
    if not lines:
        raise InputError(
            f"{file}: the manifest is empty; "
            "its first line must be the audio root and each further line `path<TAB>num_samples`."
        )

    line = lines[0]
    if not line.strip() or "\t" in line:
        raise InputError(
            f"{file}:1: the first line must be the audio root, but is `{printable(line)}`; "
            "put the directory that the paths are relative to before it."
        )

    root = file.parent / line
    # Not `Path.is_dir`, which raises if the name is too long or if a directory above may not be entered.
    if not os.path.isdir(root):  # noqa: PTH112
        raise InputError(
            f"{file}:1: the audio root {printable(str(root))} does not exist or is not a directory; "
            "write the directory of the audio files on the first line."
        )

    return root


def _parse_entry(where: str, line: str) -> ManifestEntry:
    name, *lengths = line.split("\t")

    if not name.strip():
        raise InputError(f"{where}: the line names no audio file; {_LAYOUT}, so remove the line.")
    if not lengths or not lengths[0].strip():
        raise InputError(
            f"{where}: the line has no length; {_LAYOUT}, "
            "so write the number of samples after a tab."
        )
    if len(lengths) > 1:
        raise InputError(
            f"{where}: the line has {len(line.split(chr(9)))} columns; "
            f"{_LAYOUT}, so remove what follows the length."
        )

    num_samples = _parse_length(where, lengths[0])

    match = _SLICE.fullmatch(name)
    if match is None:
        return ManifestEntry(name, num_samples)

    if not match["path"].strip():
        raise InputError(f"{where}: the line names no audio file; {_LAYOUT}, so remove the line.")
    if _parse_number(match["length"]) != num_samples:
        raise InputError(
            f"{where}: the path selects {printable(match['length'])} samples, but the length after the tab is "
            f"{num_samples}; write the same number in `path:offset:length<TAB>length`."
        )

    offset = _parse_number(match["offset"])
    if offset is None:
        raise InputError(
            f"{where}: the offset must be at most {_MAX_NUM_SAMPLES}, but is `{printable(match['offset'])}` instead; "
            "correct it in `path:offset:length<TAB>length`."
        )

    return ManifestEntry(match["path"], num_samples, offset, is_slice=True)


def _parse_length(where: str, text: str) -> int:
    # `int` would take `1_000` and digits of other scripts as well.
    if re.fullmatch(r"\s*[-+]?[0-9]+\s*", text) is None:
        raise InputError(
            f"{where}: the length must be a whole number of samples, but is `{printable(text)}` instead; "
            f"{_LAYOUT}, so correct it."
        )

    num_samples = _parse_number(text)
    if num_samples is None:
        raise InputError(
            f"{where}: the length must be at most {_MAX_NUM_SAMPLES}, but is `{printable(text)}` instead; correct it."
        )
    if num_samples <= 0:
        raise InputError(
            f"{where}: the length must be greater than 0, but is {num_samples} instead; "
            "correct it, or remove the line."
        )

    return num_samples


def _parse_number(text: str) -> int | None:
    """Return a whole number, or ``None`` if its size is too large for a number of samples."""
    digits = text.strip().lstrip("+-0") or "0"
    # Python refuses to convert thousands of digits.
    if len(digits) > len(str(_MAX_NUM_SAMPLES)) or int(digits) > _MAX_NUM_SAMPLES:
        return None

    return -int(digits) if "-" in text else int(digits)


def _validate_entry(file: Path, entry: ManifestEntry) -> None:
    if not can_stand_in_line(entry.path):
        raise InputError(
            f"{file}: the path {entry.path!r} cannot stand in a manifest; "
            "rename the file so that its name is UTF-8 without a tab and a line break."
        )
    if not entry.is_slice and _SLICE.fullmatch(entry.path):
        raise InputError(
            f"{file}: the path {entry.path!r} would be read as `path:offset:length`; rename the file."
        )
    if not (0 < entry.num_samples <= _MAX_NUM_SAMPLES and 0 <= entry.offset <= _MAX_NUM_SAMPLES):
        raise InputError(
            f"{file}: {printable(entry.path)} must have a length from 1 and an offset from 0, both at most "
            f"{_MAX_NUM_SAMPLES}; correct them, or leave the file out of the manifest."
        )
    if entry.offset and not entry.is_slice:
        raise InputError(
            f"{file}: {printable(entry.path)} has the offset {entry.offset} but is not a slice; set `is_slice`."
        )
