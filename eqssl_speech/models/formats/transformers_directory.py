"""Directories of Hugging Face transformers, as ``save_pretrained`` writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from eqssl_speech.error import InputError
from eqssl_speech.models.checkpoint import read_tensor_file

CONFIG_FILE: Final = "config.json"
PREPROCESSOR_FILE: Final = "preprocessor_config.json"

_WEIGHTS: Final = ("model.safetensors", "pytorch_model.bin")


def is_transformers_directory(path: Path) -> bool:
    """Say whether a directory is one of transformers."""
    return (path / CONFIG_FILE).is_file()


def read_directory_config(directory: Path) -> tuple[str, Mapping[str, Any]]:
    """Read the configuration of a model.

    :returns: The name of the file, for messages, and its content.
    :raises InputError: If it cannot be read.
    """
    file = directory / CONFIG_FILE

    return str(file), read_json(file)


def read_directory_tensors(directory: Path) -> dict[str, Tensor]:
    """Read the tensors of a model, which may lie in several files.

    :raises InputError: If there are none, or they cannot be read.
    """
    for name in _WEIGHTS:
        if (directory / name).is_file():
            return read_tensor_file(directory / name)

        index = directory / f"{name}.index.json"
        if index.is_file():
            return _read_shards(index)

    raise InputError(
        f"{directory}: holds no {' or '.join(_WEIGHTS)}; download the whole directory of the model."
    )


def require_normalized_audio(directory: Path) -> None:
    """Refuse a model that says to take waveforms as they are.

    :raises InputError: If it does.
    """
    file = directory / PREPROCESSOR_FILE

    if file.is_file() and read_json(file).get("do_normalize") is False:
        raise InputError(
            f"{file}: says that waveforms are not normalised (`do_normalize`), but those of a model with layer norms "
            "in its convolutions always are here; choose another model, or correct it if it was trained on normalised "
            "ones."
        )


def read_json(file: Path) -> Mapping[str, Any]:
    """Read a file that holds one JSON object.

    :raises InputError: If it cannot be read, or holds something else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as ex:
        raise InputError(f"{file}: cannot be read ({ex.strerror}); correct the path.") from None
    except ValueError:
        content = None

    if not isinstance(content, dict):
        raise InputError(f"{file}: is not a JSON object, or is damaged; copy it again.")

    return content


def _read_shards(index: Path) -> dict[str, Tensor]:
    names = read_json(index).get("weight_map")

    if not isinstance(names, dict) or not all(isinstance(n, str) for n in names.values()):
        raise InputError(f"{index}: does not say which file holds which tensor; copy it again.")

    tensors: dict[str, Tensor] = {}

    for name in sorted(set(names.values())):
        # Nothing outside of the directory is ever meant.
        tensors |= read_tensor_file(index.parent / Path(name).name)

    missing = [name for name in names if name not in tensors]
    if missing:
        raise InputError(
            f"{index}: names the tensor `{missing[0]}`, which {names[missing[0]]} does not hold; copy the directory "
            "again."
        )

    return tensors
