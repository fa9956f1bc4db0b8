"""Label files as fairseq reads them: a line for each utterance of the manifest, labels separated by a space.

The line of an utterance that could not be read is empty. Files may be far larger than memory: they are looked through
in blocks, and read a line at a time.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, final

import numpy as np
import numpy.typing as npt

from eqssl_speech.error import InputError

Labels = npt.NDArray[np.int64]

_MISSING: Final = (
    "there is no such label file; copy the directory of the labels as a whole, or make them anew "
    "with `eqssl labels`."
)

_CHUNK_NUM_BYTES: Final = 1 << 24

_NEWLINE: Final = ord("\n")

_SPACE: Final = ord(" ")


def format_line(labels: npt.ArrayLike) -> str:
    """Return a line without its end.

    :param labels: *Shape:* ``(T,)``.
    """
    return " ".join(map(str, np.asarray(labels).tolist()))


def parse_line(line: bytes) -> Labels:
    """Read what :func:`format_line` wrote.

    :raises (ValueError, OverflowError): If it is something else.
    """
    return np.array(line.split(), dtype=np.int64)


def iterate_lines(file: Path) -> Iterator[Labels]:
    """Read a label file from its beginning to its end."""
    with file.open("rb") as stream:
        for line in stream:
            yield parse_line(line)


@final
@dataclass(frozen=True, eq=False)
class KmIndex:
    """Where the lines of a label file are, and how many labels each has."""

    offsets: npt.NDArray[np.int64]
    """The byte at which each line begins, and that after the last. *Shape:* ``(U + 1,)``."""

    counts: npt.NDArray[np.int64]
    """The labels of each line. *Shape:* ``(U,)``."""

    digest: str
    """The SHA-256 of the file."""


def index_file(file: Path) -> KmIndex:
    """Look through a label file once.

    :raises InputError: If it is missing or cannot be read.
    """
    digest = hashlib.sha256()
    ends, spaces_before = [], []
    num_bytes, num_spaces = 0, 0

    try:
        with file.open("rb") as stream:
            for chunk in _read_chunks(stream):
                digest.update(chunk)

                content = np.frombuffer(chunk, np.uint8)
                newlines = np.flatnonzero(content == _NEWLINE)
                spaces = np.flatnonzero(content == _SPACE)

                ends.append(newlines + num_bytes + 1)
                spaces_before.append(np.searchsorted(spaces, newlines) + num_spaces)

                num_bytes += len(chunk)
                num_spaces += len(spaces)
    except FileNotFoundError:
        raise InputError(f"{file}: {_MISSING}") from None
    except OSError as ex:
        raise InputError(
            f"{file}: cannot be read ({ex.strerror}); correct its permissions."
        ) from None

    offsets = np.concatenate([[0], *ends]).astype(np.int64)

    # Between n labels there are n - 1 spaces; an empty line has neither.
    counts = np.diff(np.concatenate([[0], *spaces_before])) + (np.diff(offsets) > 1)

    return KmIndex(offsets, counts.astype(np.int64), digest.hexdigest())


def _read_chunks(stream: BinaryIO) -> Iterator[bytes]:
    while chunk := stream.read(_CHUNK_NUM_BYTES):
        yield chunk


@final
class KmFile:
    """A label file whose lines are read one at a time, in any thread; it is open only meanwhile, as there are many."""

    def __init__(self, file: Path, index: KmIndex) -> None:
        """
        :param file: The file.
        :param index: Of that file.
        """
        self.digest = index.digest

        self._file = file
        self._offsets = index.offsets
        self._counts = index.counts

    def count(self, line_nr: int) -> int:
        """Return how many labels a line has.

        :param line_nr: From 0.
        """
        return int(self._counts[line_nr])

    def read(self, line_nr: int) -> Labels:
        """Read a line.

        :param line_nr: From 0.
        :returns: *Shape:* ``(T,)``.
        :raises InputError: If the file cannot be read, or is no longer what it was.
        """
        start, stop = int(self._offsets[line_nr]), int(self._offsets[line_nr + 1])

        try:
            with self._file.open("rb", buffering=0) as stream:
                content = os.pread(stream.fileno(), stop - start, start)
        except OSError as ex:
            raise InputError(
                f"{self._file}:{line_nr + 1}: the line cannot be read ({ex.strerror or ex}); put the file back or "
                "mend what is said there, and start again."
            ) from None

        try:
            labels = parse_line(content)
        except (ValueError, OverflowError):
            labels = None

        if labels is None or len(labels) != self.count(line_nr):
            raise InputError(
                f"{self._file}:{line_nr + 1}: the line is not as it was when the labels were opened; leave the file "
                "alone while it is used, and start again."
            )

        return labels
