"""A corpus: one folder of manifests per source, and a small file that says what each source is."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Final, final

from eqssl_speech.data.manifest import can_stand_in_line, printable, replace_text
from eqssl_speech.error import InputError

SOURCES_FILE: Final = "sources.tsv"
"""The name of the file that lists a corpus's sources."""

_COLUMNS: Final = ("source", "language", "domain", "licence")

_HEADER: Final = "source<TAB>language<TAB>domain<TAB>licence"

_NAME: Final = re.compile(r"[A-Za-z0-9][-_A-Za-z0-9]*")


@final
@dataclass(frozen=True)
class DataSource:
    """One source of speech: a language in one domain, under one licence."""

    name: str
    """The name in configurations and metrics; equal to that of its folder."""

    language: str
    """The language (BCP 47 or ISO 639); ``und`` where it is not known."""

    domain: str
    """The kind of speech, such as ``read`` or ``telephone``; ``unknown`` where it is not known."""

    licence: str
    """The licence of the recordings; ``unknown`` where it is not known."""

    directory: Path
    """The folder that holds the manifests."""

    def manifest_file(self, split: str) -> Path:
        """Return the manifest of a split, which need not exist.

        :param split: ``train``, ``valid``, ``test`` or another that the folder has.
        :returns: Its path.
        """
        return self.directory / f"{split}.tsv"


@final
@dataclass(frozen=True)
class Corpus:
    """The sources of one directory."""

    directory: Path
    """The directory that was loaded."""

    sources: tuple[DataSource, ...]
    """The sources, at least one, in the order of ``sources.tsv`` (without it: sorted by name)."""


def load_corpus(directory: Path) -> Corpus:
    """Find the sources of a corpus; manifests are not read.

    Without ``sources.tsv``, a directory that holds ``train.tsv`` is one source named after itself, and otherwise
    every sub-folder that holds a ``train.tsv`` is a source; so manifests made for fairseq work unchanged.

    :param directory: The corpus.
    :returns: Its sources, at least one.
    :raises InputError: If the directory or a source's folder is missing, if there is no source, or if
        ``sources.tsv`` is malformed.
    """
    # Not `Path.is_dir`, which raises if the name is too long.
    if not os.path.isdir(directory):  # noqa: PTH112
        raise InputError(
            f"{directory}: there is no such corpus directory; "
            "correct the path, or make the corpus with `eqssl prepare`."
        )

    file = directory / SOURCES_FILE
    if file.exists():
        return Corpus(directory, _read_sources(file))

    if (directory / "train.tsv").exists():
        # Resolved, because `.` has no name.
        folders = {directory.resolve().name: directory}
    else:
        folders = {folder.name: folder for folder in _find_folders(directory)}

    if not folders:
        raise InputError(
            f"{directory}: neither the directory nor a folder in it holds a train.tsv; give the "
            "directory that has one folder of manifests per source, or make one with `eqssl prepare`."
        )

    for name, folder in folders.items():
        _validate_name(printable(str(folder)), name, "rename the folder")

    return Corpus(
        directory,
        tuple(DataSource(n, "und", "unknown", "unknown", d) for n, d in folders.items()),
    )


def select_sources(corpus: Corpus, names: Sequence[str] | None) -> Corpus:
    """Keep only some sources of a corpus.

    :param corpus: The corpus.
    :param names: The names to keep, whose order the result has; ``None`` for all.
    :returns: A corpus of the same directory.
    :raises InputError: If a name is unknown or given twice, or if ``names`` is empty.
    """
    if names is None:
        return corpus

    if not names:
        raise InputError(
            f"{corpus.directory}: the list of sources is empty; "
            f"name some of {_list_names(corpus)}, or leave the list out to use all."
        )

    known = {source.name: source for source in corpus.sources}

    for index, name in enumerate(names):
        if name not in known:
            if all(len(n) == 1 for n in names):
                text = printable("".join(names))
                raise InputError(
                    f"{corpus.directory}: the sources `{text}` are no list; write `[{text}]`, in brackets."
                )

            close = get_close_matches(name, known, n=1)
            closest = f", of which `{close[0]}` is the closest" if close else ""
            raise InputError(
                f"{corpus.directory}: the source `{printable(name)}` is unknown; "
                f"the known ones are {_list_names(corpus)}{closest}."
            )
        if name in names[:index]:
            raise InputError(
                f"{corpus.directory}: the source `{printable(name)}` is listed twice; list every source once."
            )

    return replace(corpus, sources=tuple(known[name] for name in names))


def write_sources(directory: Path, sources: Iterable[DataSource]) -> None:
    """Write the ``sources.tsv`` of a corpus in one piece.

    :param directory: The corpus; it must exist.
    :param sources: The sources, in the order in which they are written.
    :raises InputError: If a name is not allowed or occurs twice, or if a field cannot stand in the file.
    """
    file = directory / SOURCES_FILE

    rows = [[s.name, s.language, s.domain, s.licence] for s in sources]

    for index, row in enumerate(rows):
        _validate_row(str(file), row, rows[:index])

    replace_text(file, "".join("\t".join(row) + "\n" for row in [list(_COLUMNS), *rows]))


def _read_sources(file: Path) -> tuple[DataSource, ...]:
    try:
        lines = file.read_bytes().decode("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as ex:
        raise InputError(f"{file}: cannot be read as UTF-8 text ({ex}); write it again.") from None

    rows = [(n, line.rstrip("\r").split("\t")) for n, line in enumerate(lines, 1) if line.strip()]

    if not rows or tuple(rows[0][1]) != _COLUMNS:
        raise InputError(
            f"{file}:1: the header must be `{_HEADER}`; write it on the first line, or remove the file "
            "to take every folder with a train.tsv as a source."
        )
    if len(rows) == 1:
        raise InputError(
            f"{file}: lists no source; add a line `{_HEADER}` for each folder of manifests."
        )

    for index, (number, row) in enumerate(rows[1:]):
        _validate_row(f"{file}:{number}", row, [r for _, r in rows[1 : index + 1]])
        _validate_folder(f"{file}:{number}", file.parent / row[0])

    _require_all_listed(file, {row[0] for _, row in rows[1:]})

    return tuple(
        DataSource(name, language, domain, licence, file.parent / name)
        for _, (name, language, domain, licence) in rows[1:]
    )


def _validate_row(where: str, row: list[str], earlier: list[list[str]]) -> None:
    if len(row) != len(_COLUMNS):
        raise InputError(
            f"{where}: the line must have {len(_COLUMNS)} columns, but has {len(row)} instead; "
            f"write `{_HEADER}`."
        )

    _validate_name(where, row[0], "rename the folder and correct the line")

    for column, value in zip(_COLUMNS, row, strict=True):
        if not can_stand_in_line(value):
            raise InputError(
                f"{where}: the {column} of `{printable(row[0])}` must be one line of text without a tab, but is "
                f"`{printable(value)}` instead; write `und` or `unknown` where it is not known."
            )

    if row[0] in (other[0] for other in earlier):
        raise InputError(
            f"{where}: the source `{row[0]}` is listed twice; remove one of the lines."
        )


def _validate_name(where: str, name: str, remedy: str) -> None:
    if _NAME.fullmatch(name) is None:
        raise InputError(
            f"{where}: the source name `{printable(name)}` may only hold the letters A to Z and a to z, digits, "
            f"`-` and `_`, and must begin with a letter or digit; {remedy}."
        )


def _validate_folder(where: str, folder: Path) -> None:
    # Not `Path.is_dir`, which raises if the name is too long.
    if not os.path.isdir(folder):  # noqa: PTH112
        raise InputError(
            f"{where}: the source `{printable(folder.name)}` has no folder {printable(str(folder))}; "
            "make its manifests, or remove the line."
        )


def _require_all_listed(file: Path, names: set[str]) -> None:
    for folder in _find_folders(file.parent):
        if folder.name not in names:
            # Leaving it out without a word would train on less than the user thinks.
            raise InputError(
                f"{file}: the folder `{printable(folder.name)}` holds a train.tsv but is not listed; "
                f"add a line `{_HEADER}` for it, or move the folder away."
            )


def _find_folders(directory: Path) -> list[Path]:
    return sorted(folder.parent for folder in directory.glob("*/train.tsv"))


def _list_names(corpus: Corpus) -> str:
    return ", ".join(f"`{source.name}`" for source in corpus.sources)
