"""The files of a directory of labels: their names, and how they are written whole or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from eqssl_speech.error import InputError
from eqssl_speech.files import replace_file

DICTIONARY_FILE: Final = "dict.km.txt"
"""fairseq's dictionary: a line ``id 1`` for each label."""

_WORK_DIR: Final = ".work"


def km_file(out: Path, source_name: str, split: str) -> Path:
    """Return the label file of a split of a source."""
    return out / source_name / f"{split}.km"


def work_dir(out: Path) -> Path:
    """Return where unfinished work lies; it is removed at the end."""
    return out / _WORK_DIR


def save(file: Path, content: bytes) -> None:
    """Write a file in one piece; its directory is made.

    :raises InputError: If it cannot be written; what was there is kept.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)

        replace_file(file, content)
    except OSError as ex:
        raise _cannot_write(file, ex) from None


def save_parts(file: Path, parts: Iterable[bytes]) -> str:
    """Write a file in one piece of parts that do not fit into memory together; its directory is made.

    :param file: The file.
    :param parts: Its content.
    :returns: The SHA-256 of the content.
    :raises InputError: If it cannot be written; what was there is kept.
    """
    digest = hashlib.sha256()
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")

    try:
        file.parent.mkdir(parents=True, exist_ok=True)

        with temporary.open("wb") as stream:
            for part in parts:
                digest.update(part)
                stream.write(part)

        os.replace(temporary, file)
    except OSError as ex:
        raise _cannot_write(file, ex) from None
    finally:
        temporary.unlink(missing_ok=True)

    return digest.hexdigest()


def _cannot_write(file: Path, ex: OSError) -> InputError:
    return InputError(
        f"{file}: cannot be written ({ex.strerror}); free some space or make the directory writable, and run the same "
        "command again: what is done is kept."
    )
