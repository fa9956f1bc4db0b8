"""Which recordings are meant: files, folders and patterns; and what the outputs of each are called."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from eqssl_speech.data.corpora.folder_job import AUDIO_SUFFIXES
from eqssl_speech.error import InputError

_SUFFIXES: Final = ", ".join(sorted(AUDIO_SUFFIXES))


@final
@dataclass(frozen=True)
class InputFile:
    """A recording that was asked for, which need not exist."""

    path: Path
    """The file, as it was given or found."""

    name: Path
    """What its outputs are called, without suffix: relative to the folder, or to the fixed part of the pattern."""

    def output_file(self, directory: Path, fmt: str) -> Path:
        """Return the file of an output.

        :param directory: Where outputs are written.
        :param fmt: The format, which is also the suffix.
        """
        return directory / self.name.parent / f"{self.name.name}.{fmt}"


@final
@dataclass(frozen=True)
class Inputs:
    """The recordings that were asked for."""

    files: tuple[InputFile, ...]
    """In the order of the arguments, sorted by name inside each; none twice, and at least one."""

    num_repeated: int
    """How many more times a file was named that is already in the list."""

    num_others: int
    """How many files of the folders have no audio file's name."""


def find_inputs(arguments: Sequence[str]) -> Inputs:
    """Find the recordings that were asked for.

    A folder is searched at any depth for files that are named like audio; what begins with a dot is not looked at. A
    pattern (``*``, ``?``, ``[a-z]``, and ``**`` for any depth) is tried where no file of that very name exists.

    :param arguments: Files, folders and patterns. A file that does not exist is kept, to be named later on.
    :returns: The recordings.
    :raises InputError: If a pattern matches nothing, or a folder holds no recording.
    """
    files: dict[str, InputFile] = {}
    num_named = num_others = 0

    for argument in arguments:
        found, others = _expand(argument)

        num_others += others
        num_named += len(found)

        for file in found:
            # Not resolved: a link is a recording with a name of its own.
            files.setdefault(os.path.abspath(file.path), file)  # noqa: PTH100

    return Inputs(tuple(files.values()), num_named - len(files), num_others)


def require_distinct_outputs(files: Iterable[InputFile], directory: Path, fmt: str) -> None:
    """Refuse recordings whose outputs would overwrite each other.

    :param files: The recordings.
    :param directory: Where outputs are written.
    :param fmt: One of the formats; in the others the names are as distinct.
    :raises InputError: If two of them have the same output file.
    """
    owners: dict[Path, InputFile] = {}

    for file in files:
        output = file.output_file(directory, fmt)
        owner = owners.setdefault(output, file)

        if owner is not file:
            raise InputError(
                f"{owner.path} and {file.path} would both be written to {output}; rename one of them, or transcribe "
                "them with an `--out` of their own each."
            )


def _expand(argument: str) -> tuple[list[InputFile], int]:
    path = Path(argument)

    if path.is_dir():
        found, others = _search(path, base=path)
        if not found:
            raise InputError(
                f"{argument}: the folder holds no recording, which is a file named {_SUFFIXES}; name the files "
                "themselves if they are called otherwise."
            )

        return found, others

    if not glob.has_magic(argument) or os.path.lexists(argument):
        return [_describe(path, base=path.parent)], 0

    return _match(argument)


def _match(pattern: str) -> tuple[list[InputFile], int]:
    base = _fixed_part(pattern)
    found, num_others = [], 0

    # `Path.glob` takes no absolute pattern.
    for match in sorted(glob.glob(pattern, recursive=True)):  # noqa: PTH207
        path = Path(match)

        if path.is_dir():
            inside, others = _search(path, base)
            found += inside
            num_others += others
        else:
            found.append(_describe(path, base))

    if not found:
        raise InputError(f"{pattern}: the pattern matches no recording; correct it.")

    # A folder and the files in it may both match.
    return list({file.path: file for file in found}.values()), num_others


def _fixed_part(pattern: str) -> Path:
    parts = Path(pattern).parts
    number = next(i for i, part in enumerate(parts) if glob.has_magic(part))

    return Path(*parts[:number])


def _search(folder: Path, base: Path) -> tuple[list[InputFile], int]:
    found, num_others = [], 0

    for file in _walk(folder):
        if file.suffix.lower() in AUDIO_SUFFIXES:
            found.append(_describe(file, base))
        else:
            num_others += 1

    return found, num_others


def _walk(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))

        for name in sorted(names):
            if not name.startswith("."):
                yield Path(root, name)


def _describe(path: Path, base: Path) -> InputFile:
    # Not `with_suffix`, which fails on a name such as `...wav`.
    name = path.relative_to(base)

    return InputFile(path, name.parent / (path.stem or path.name))
