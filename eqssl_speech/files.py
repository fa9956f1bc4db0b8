"""Files that are there whole or not at all, whatever ends the program that writes them."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def replace_file(file: Path, content: bytes, *, durable: bool = False) -> None:
    """Write a file in one piece: whoever reads it meanwhile, or after an interruption, sees the old one or none.

    :param file: The file to write; its directory must exist.
    :param content: What it holds then.
    :param durable: Whether it is on the disk when this returns, where a power cut leaves it.
    :raises OSError: If it cannot be written; nothing is left behind.
    """
    # A name of its own per process, so that two writers cannot mix their bytes.
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")

    try:
        with temporary.open("wb") as stream:
            stream.write(content)

            if durable:
                stream.flush()
                os.fsync(stream.fileno())

        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)

    if durable:
        sync_directory(file.parent)


def sync_directory(directory: Path) -> None:
    """Bring the names in a directory to the disk.

    :raises OSError: If that fails.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as ex:
        # Some file systems cannot do that for directories.
        if ex.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
