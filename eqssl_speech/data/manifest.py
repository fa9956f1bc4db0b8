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

FIRST_ENTRY_LINE: Final = 2
"""The line of a manifest's first entry, counted from one; line 1 is the audio root."""

_SLICE: Final = re.compile(r"(?P<path>.+):(?P<offset>[0-9]+):(?P<length>[0-9]+)")

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
    :raises InputError: If a path cannot stand in a manifest, or a length is not greater than 0.
    """
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
    # A name of its own per process, so that two writers cannot mix their bytes.
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(text.encode("utf-8"))
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


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
            f"{file}:1: the first line must be the audio root, but is `{line}`; "
            "put the directory that the paths are relative to before it."
        )

    root = file.parent / line
    if not root.is_dir():
        raise InputError(
            f"{file}:1: the audio root {root} does not exist or is not a directory; "
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

    if int(match["length"]) != num_samples:
        raise InputError(
            f"{where}: the path selects {match['length']} samples, but the length after the tab is "
            f"{num_samples}; write the same number in `path:offset:length<TAB>length`."
        )

    return ManifestEntry(match["path"], num_samples, int(match["offset"]), is_slice=True)


def _parse_length(where: str, text: str) -> int:
    # `int` would take `1_000` and digits of other scripts as well.
    if re.fullmatch(r"\s*[-+]?[0-9]+\s*", text) is None:
        raise InputError(
            f"{where}: the length must be a whole number of samples, but is `{text}` instead; "
            f"{_LAYOUT}, so correct it."
        )

    num_samples = int(text)
    if num_samples <= 0:
        raise InputError(
            f"{where}: the length must be greater than 0, but is {num_samples} instead; "
            "correct it, or remove the line."
        )

    return num_samples


def _validate_entry(file: Path, entry: ManifestEntry) -> None:
    if not entry.path.strip() or re.search(r"[\t\r\n]", entry.path):
        raise InputError(
            f"{file}: the path {entry.path!r} cannot stand in a manifest; "
            "rename the file so that it has no tab and no line break in its name."
        )
    if not entry.is_slice and _SLICE.fullmatch(entry.path):
        raise InputError(
            f"{file}: the path {entry.path!r} would be read as `path:offset:length`; rename the file."
        )
    if entry.num_samples <= 0 or entry.offset < 0:
        raise InputError(
            f"{file}: {entry} must have a length greater than 0 and an offset of at least 0, but "
            f"has {entry.num_samples} and {entry.offset} instead; leave it out of the manifest."
        )
    if entry.offset and not entry.is_slice:
        raise InputError(
            f"{file}: {entry} has the offset {entry.offset} but is not a slice; set `is_slice`."
        )
