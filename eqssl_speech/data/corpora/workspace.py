"""The directory of a corpus while it is being made."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Final

from eqssl_speech.error import InputError

WORK_DIRECTORY: Final = ".prepare"
"""Where a prepared corpus keeps its journals and, unless told otherwise, the packages that it is made of."""


def journal_file(out: Path, source: str) -> Path:
    """Where the journal of a source is kept.

    :param out: directory of the corpus.
    :param source: name of the source.
    """
    return out / WORK_DIRECTORY / "journals" / f"{source}.tsv"


def require_own_directory(out: Path, names: Collection[str]) -> None:
    """Check that a directory holds no other corpus, so that nothing of anyone's is mixed or written over.

    :param out: directory of the corpus; need not exist.
    :param names: the sources that the corpus is to have.
    :raises InputError: where it holds another source.
    """
    for file in sorted(out.glob("*/train.tsv")):
        if file.parent.name not in names:
            raise InputError(
                f"{out}: holds the source `{file.parent.name}`, which this corpus does not have; "
                "give an empty directory, or the one that an interrupted call was given."
            )


def remove_scratch(directory: Path) -> None:
    """Remove the unfinished files that a killed program left.

    :param directory: where to look, with all folders below.
    """
    for file in sorted(directory.rglob(".*.tmp")):
        if file.is_file():
            file.unlink()
