"""Text beside anyone's recordings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eqssl_speech.error import InputError


def read_folder_text(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Find the text of recordings: in ``X.txt`` beside ``X.wav``, or in a ``.tsv`` at the top of the folder.

    :param folder: folder of the source.
    :param names: recordings, relative to ``folder``.
    :returns: text on one line by recording; recordings without text are left out.
    :raises InputError: where a file of text cannot be read.
    """
    texts: dict[str, str] = {}
    known = set(names)
    for table in sorted(folder.glob("*.tsv")):
        texts |= read_text_table(table, known)
    for name in names:
        file = (folder / name).with_suffix(".txt")
        if file.is_file():
            texts[name] = " ".join(_read(file).split())
    return texts


def read_text_table(table: Path, names: set[str]) -> dict[str, str]:
    """Read lines ``path<TAB>text``; a path may lack its extension, and a line about anything else is passed over.

    :param table: the file.
    :param names: recordings, relative to the table's directory.
    :raises InputError: where a line that names a recording has no text column.
    """
    stems = {name.rpartition(".")[0]: name for name in sorted(names)}
    texts = {}
    for number, line in enumerate(_read(table).split("\n"), 1):
        path, mark, text = line.rstrip("\r").partition("\t")
        name = path if path in names else stems.get(path)
        if name is None:
            continue
        if not mark:
            raise InputError(f"{table}:{number}: has no text; write `path<TAB>text`.")
        texts[name] = " ".join(text.split())
    return texts


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as ex:
        raise InputError(f"{file}: cannot be read as UTF-8 text ({ex}); write it again.") from None
