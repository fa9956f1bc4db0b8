"""Which checkpoint a run started from: ``origin.json`` in its output directory, as both may have gone on since."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, final

from eqssl_speech.data.manifest import replace_text
from eqssl_speech.error import InputError
from eqssl_speech.models.checkpoint import find_checkpoint
from eqssl_speech.models.formats.transformers_directory import is_transformers_directory
from eqssl_speech.models.opening import find_path

ORIGIN_FILE: Final = "origin.json"


@final
@dataclass(frozen=True)
class Origin:
    """A checkpoint that a run started from."""

    name: str
    """The name of the asset, file or directory."""

    path: str | None
    """Where it was; ``None`` of an asset."""

    step: int | None
    """The step, if it is of a run."""


def write_origin(directory: Path, pretrained: str) -> None:
    """Write down which checkpoint a run starts from, unless it has gone on from there already.

    :param directory: The output directory of the run.
    :param pretrained: As for :func:`~eqssl_speech.models.opening.open_checkpoint`.
    :raises InputError: If there is no such checkpoint.
    """
    if any(directory.glob("checkpoints/step_*")):
        return

    path = find_path(pretrained)
    if path is None:
        origin = Origin(pretrained, None, None)
    else:
        path = path.absolute()
        is_run = path.is_dir() and not is_transformers_directory(path)

        origin = Origin(path.name, str(path), find_checkpoint(path).step_nr if is_run else None)

    replace_text(directory / ORIGIN_FILE, json.dumps(asdict(origin), indent=2) + "\n")


def read_origin(directory: Path) -> Origin | None:
    """Read what :func:`write_origin` has written.

    :param directory: The output directory of the run.
    :returns: ``None`` if there is no such file, as of runs of earlier versions.
    :raises InputError: If it cannot be read.
    """
    file = directory / ORIGIN_FILE

    try:
        return Origin(**json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as ex:
        raise InputError(f"{file}: cannot be read ({ex}); restore or remove it.") from None
