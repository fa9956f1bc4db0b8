"""What a fine-tuning run says of its recogniser besides the model: ``recognizer.json`` in its output directory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from eqssl_speech.data.manifest import replace_text
from eqssl_speech.error import InputError

RECOGNIZER_FILE: Final = "recognizer.json"
_FORMAT_VERSION: Final = 1


def write_recognizer_info(directory: Path, info: Mapping[str, object]) -> None:
    """Write the file, in one move.

    :param directory: The output directory.
    :param info: ``sample_rate`` in Hz, ``sources`` as pairs of a name and a language, and ``encoder_type``, what the
        encoder was before: ``wav2vec2`` or ``hubert``.
    """
    content = {"format_version": _FORMAT_VERSION, **info}

    replace_text(
        directory / RECOGNIZER_FILE, json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    )


def read_recognizer_info(directory: Path) -> dict[str, Any] | None:
    """Read the file.

    :param directory: The output directory.
    :returns: What :func:`write_recognizer_info` was given, without ``encoder_type`` where an earlier version wrote it;
        ``None`` if there is no such file.
    :raises InputError: If it cannot be read.
    """
    file = directory / RECOGNIZER_FILE

    try:
        info = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as ex:
        raise InputError(f"{file}: cannot be read ({ex}); fine-tune again.") from None

    if not isinstance(info, dict) or info.get("format_version") != _FORMAT_VERSION:
        raise InputError(
            f"{file}: is of another version of eqssl_speech; use the version that it was made with."
        )

    return info
