"""The list of checksums of a checkpoint: written when all its files are, and compared before any of them is loaded."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, final

from eqssl_speech.error import InputError
from eqssl_speech.files import replace_file

CHECKSUM_FILE: Final = "SHA256SUMS"
"""In the directory of the step; ``sha256sum -c SHA256SUMS`` there compares it too."""

_ENTRY: Final = re.compile(r"# ([0-9]+) bytes\n([0-9a-f]{64})  (.+)\n")

_LAST_LINE: Final = re.compile(r"# SHA-256 of the lines above: ([0-9a-f]{64})\n")

_CHUNK_NUM_BYTES: Final = 1 << 20


class DamagedFileError(InputError):
    """Raised when a file of a checkpoint is not as it was written.

    Its message begins with the file and says what is wrong, but not yet what to do: that depends on who reads it.
    """


@final
@dataclass(frozen=True)
class FileChecksum:
    """What is compared of a file."""

    num_bytes: int
    sha256: str


@final
class ChecksumWriter:
    """A file that is written from its beginning to its end, and its checksum with it.

    It keeps the first error, because :func:`torch.save` reports a full disk as a mistake in the data.
    """

    def __init__(self, stream: BinaryIO) -> None:
        """
        :param stream: Open for writing, and at its beginning.
        """
        self._stream = stream
        self._hash = hashlib.sha256()
        self._num_bytes = 0

        self.error: OSError | None = None

    def write(self, data: memoryview | bytes) -> int:
        """Write a part."""
        try:
            self._stream.write(data)
        except OSError as ex:
            self.error = self.error or ex

            raise

        self._hash.update(data)
        self._num_bytes += len(data)

        return len(data)

    def flush(self) -> None:
        """Do nothing: :meth:`finish` brings everything to the disk."""

    def finish(self) -> FileChecksum:
        """Bring the file to the disk, where a power cut leaves it.

        :raises OSError: If that fails.
        """
        self._stream.flush()

        os.fsync(self._stream.fileno())

        return FileChecksum(self._num_bytes, self._hash.hexdigest())


def write_checksums(directory: Path, checksums: Mapping[str, FileChecksum]) -> None:
    """Write the list, in one piece.

    :param directory: The directory of the step.
    :param checksums: By the file's path in it.
    :raises OSError: If the list cannot be written.
    """
    text = "".join(
        f"# {checksums[name].num_bytes} bytes\n{checksums[name].sha256}  {name}\n"
        for name in sorted(checksums)
    )

    text += f"# SHA-256 of the lines above: {_hash_text(text)}\n"

    replace_file(directory / CHECKSUM_FILE, text.encode(), durable=True)


def read_checksums(directory: Path) -> dict[str, FileChecksum] | None:
    """Read the list.

    :param directory: The directory of the step.
    :returns: The checksums by the file's path, or ``None`` if there is no list, as in checkpoints of older versions.
    :raises DamagedFileError: If the list itself is damaged.
    """
    file = directory / CHECKSUM_FILE

    try:
        text = file.read_bytes().decode()
    except FileNotFoundError:
        return None
    except OSError as ex:
        raise DamagedFileError(f"{file}: cannot be read ({ex.strerror})") from None
    except UnicodeDecodeError:
        text = ""

    entries, begin, last_line = text.rpartition("# SHA")

    match = _LAST_LINE.fullmatch(begin + last_line)
    if match is None or match[1] != _hash_text(entries):
        raise DamagedFileError(f"{file}: is cut off or altered")

    return {name: FileChecksum(int(n), digest) for n, digest, name in _ENTRY.findall(entries)}


def find_damage(directory: Path, prefix: str = "", *, part: int = 0, num_parts: int = 1) -> str | None:  # fmt: skip
    """Compare the files of a checkpoint with its list.

    :param directory: The directory of the step.
    :param prefix: Only files whose paths begin with it.
    :param part: Only each ``num_parts``-th file, from this one on: processes share the work.
    :param num_parts: How many processes do.
    :returns: Names the first file that is not as it was written and says what is wrong with it; ``None`` if all are,
        or if there is no list.
    """
    try:
        checksums = read_checksums(directory) or {}

        for name in sorted(n for n in checksums if n.startswith(prefix))[part::num_parts]:
            _check_file(directory / name, checksums[name])
    except DamagedFileError as ex:
        return str(ex)

    return None


def _check_file(file: Path, checksum: FileChecksum) -> None:
    digest = hashlib.sha256()

    try:
        num_bytes = file.stat().st_size

        if num_bytes != checksum.num_bytes:
            what = "is cut off" if num_bytes < checksum.num_bytes else "is altered"

            raise DamagedFileError(
                f"{file}: {what} ({num_bytes:,} bytes, of {checksum.num_bytes:,} that were written)"
            )

        for chunk in _read_chunks(file):
            digest.update(chunk)
    except FileNotFoundError:
        raise DamagedFileError(f"{file}: is missing") from None
    except OSError as ex:
        raise DamagedFileError(f"{file}: cannot be read ({ex.strerror})") from None

    if digest.hexdigest() != checksum.sha256:
        raise DamagedFileError(f"{file}: is altered (its checksum is not the one that was written)")


def _read_chunks(file: Path) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(_CHUNK_NUM_BYTES))

    with file.open("rb", buffering=0) as stream:
        while num_bytes := stream.readinto(buffer):
            yield buffer[:num_bytes]


def _hash_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
