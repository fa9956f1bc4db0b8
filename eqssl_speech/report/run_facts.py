"""What a run was made of and what came of it, as its directory says: for model cards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from eqssl_speech.error import InputError
from eqssl_speech.models.checkpoint import RunCheckpoint, find_checkpoint, holds_steps
from eqssl_speech.models.origin import read_origin
from eqssl_speech.report.runs import Row, get_number, read_config, read_history
from eqssl_speech.report.sources import SourceRow


@final
@dataclass(frozen=True)
class RunFacts:
    """One checkpoint of a run."""

    name: str
    """The name of its directory."""

    family: str
    """``wav2vec2``, ``hubert``, or ``wav2vec2_asr`` of a fine-tuning run."""

    step: int

    config: Mapping[str, Any]
    """The configuration of the run."""

    sources: tuple[SourceRow, ...]
    """What it was trained on."""

    heard_hours: float | None
    """Hours of audio until ``step``, repeats counted."""

    valid_step: int | None
    """The step of the validation below: the last until ``step``."""

    macro: Row
    """The validation over all sources; empty if there is none."""

    valid: Mapping[str, Row]
    """The validation of each source."""

    start: RunFacts | str | None
    """The run whose model it started from, or the name of another one; ``None`` after random weights."""

    def setting(self, *path: str) -> Any:
        """Return a setting of the configuration, or ``None`` if there is none of that name.

        :param path: The names of the sections it is in, and its own.
        """
        value: Any = self.config
        for name in path:
            if not isinstance(value, Mapping):
                return None
            value = value.get(name)

        return value


def read_run_facts(
    checkpoint: RunCheckpoint, *, seen: frozenset[Path] = frozenset()
) -> RunFacts | None:
    """Read what the directory of a run says of one of its checkpoints.

    :param checkpoint: The checkpoint.
    :param seen: The directories of runs that have started from it.
    :returns: ``None`` if it is not where the run has left it.
    :raises InputError: If a file of the run cannot be read.
    """
    directory, step = checkpoint.run_dir, checkpoint.step_nr
    if directory is None or step is None or checkpoint.family is None:
        return None

    config = read_config(directory / "config.yaml")
    if config is None:
        return None

    macro = _find_last(directory / "metrics" / "valid.jsonl", step)
    valid_step = macro.get("step")

    train = _find_last(directory / "metrics" / "train.jsonl", step)
    seconds = get_number(train, "total_audio_seconds")

    return RunFacts(
        name=directory.name,
        family=checkpoint.family,
        step=step,
        config=config,
        sources=_read_sources(directory / "sources.json"),
        heard_hours=None if seconds is None else seconds / 3600,
        valid_step=valid_step if isinstance(valid_step, int) else None,
        macro=macro,
        # Of sources that are being validated again there is a later line already.
        valid={
            file.stem: rows[valid_step]
            for file in sorted((directory / "metrics" / "valid").glob("*.jsonl"))
            if valid_step in (rows := read_history(file))
        },
        start=_find_start(directory, config, seen | {directory}),
    )


def _find_last(file: Path, step: int) -> Row:
    """Return the last line until a step; nothing if there is none."""
    if not file.is_file():
        return {}

    history = {s: row for s, row in read_history(file).items() if s <= step}

    return history[max(history)] if history else {}


def _read_sources(file: Path) -> tuple[SourceRow, ...]:
    try:
        return tuple(SourceRow(**item) for item in json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, TypeError) as ex:
        raise InputError(
            f"{file}: cannot be read as a list of sources ({ex}); restore or remove it."
        ) from None


def _find_start(
    directory: Path, config: Mapping[str, Any], seen: frozenset[Path]
) -> RunFacts | str | None:
    origin = read_origin(directory)

    if origin is None:
        model = config.get("model")
        model = model if isinstance(model, Mapping) else {}

        name = config.get("pretrained") or model.get("path") or model.get("name")

        # A path says nothing elsewhere.
        return None if name is None else Path(str(name)).name

    if origin.path is None or origin.step is None:
        return origin.name

    path = Path(origin.path)
    try:
        checkpoint = find_checkpoint(path, origin.step if holds_steps(path) else None)

        if checkpoint.run_dir not in seen:
            return read_run_facts(checkpoint, seen=seen) or origin.name
    except InputError:
        pass  # It has been moved, or its checkpoint is gone.

    return origin.name
