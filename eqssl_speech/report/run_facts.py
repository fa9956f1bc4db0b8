"""What a run was made of and what came of it, as its directory says: for model cards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from eqssl_speech.error import InputError
from eqssl_speech.models.checkpoint import RunCheckpoint, find_checkpoint
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


def read_run_facts(checkpoint: RunCheckpoint) -> RunFacts | None:
    """Read what the directory of a run says of one of its checkpoints.

    :param checkpoint: The checkpoint.
    :returns: ``None`` if it is no longer where the run has left it.
    :raises InputError: If a file of the run cannot be read.
    """
    directory, step = checkpoint.run_dir, checkpoint.step_nr
    config = read_config(directory / "config.yaml")

    if config is None or step is None or checkpoint.family is None:
        return None

    macro = _until(directory / "metrics" / "valid.jsonl", step)
    valid_step = macro.get("step")

    seconds = get_number(_until(directory / "metrics" / "train.jsonl", step), "total_audio_seconds")

    return RunFacts(
        name=directory.name,
        family=checkpoint.family,
        step=step,
        config=config,
        sources=_read_sources(directory / "sources.json"),
        heard_hours=None if seconds is None else seconds / 3600,
        valid_step=valid_step if isinstance(valid_step, int) else None,
        macro=macro,
        valid={
            file.stem: row
            for file in sorted((directory / "metrics" / "valid").glob("*.jsonl"))
            if (row := _until(file, step)) and row["step"] == valid_step
        },
        start=_find_start(config.get("pretrained")),
    )


def _until(file: Path, step: int) -> Row:
    """Return the last line until a step."""
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


def _find_start(pretrained: object) -> RunFacts | str | None:
    if pretrained is None:
        return None

    path = Path(str(pretrained))

    if path.is_dir():
        try:
            facts = read_run_facts(find_checkpoint(path))
        except InputError:
            facts = None

        if facts is not None:
            return facts

    # A path says nothing elsewhere.
    return path.name
