"""Writes a summary to ``summary.json``, and files in one move: a reader sees the old or the new."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from eqssl_speech.error import InputError
from eqssl_speech.files import replace_file
from eqssl_speech.report.summary import RunSummary, Summary

SUMMARY_FILE_NAME = "summary.json"


def to_json(summary: Summary) -> dict[str, object]:
    """Return what is written to ``summary.json``; numbers that are not finite become ``None``."""
    runs = {name: _run_to_json(run) for name, run in summary.runs.items()}

    output: dict[str, object] = {
        "units": "losses in bits; hours and utterances seen in training, in macro of all sources",
        "main_run": summary.main_run,
        "sources": runs[summary.main_run]["sources"],
        "macro": runs[summary.main_run]["macro"],
        "worst": runs[summary.main_run]["worst"],
        "runs": runs,
    }

    if summary.comparison is not None:
        output["comparison"] = asdict(summary.comparison)

    clean = _nullify(output)

    assert isinstance(clean, dict)

    return clean


def _run_to_json(run: RunSummary) -> dict[str, object]:
    worst = {"source": run.worst_source, "plain_loss": run.sources[run.worst_source].plain_loss}

    output: dict[str, object] = {"step": run.step}

    if run.config is not None:
        output["config"] = run.config

    return output | {
        "sources": {name: asdict(measures) for name, measures in run.sources.items()},
        "macro": asdict(run.macro),
        "worst": worst,
    }


def _nullify(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _nullify(v) for key, v in value.items()}

    if isinstance(value, (list, tuple)):
        return [_nullify(v) for v in value]

    if isinstance(value, float) and not math.isfinite(value):
        return None

    return value


def write_summary(summary: Summary, directory: Path) -> Path:
    """Write ``summary.json`` into a directory, in one move.

    :returns: The file.

    :raises InputError: If the directory cannot be written to.
    """
    text = json.dumps(to_json(summary), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    return write_atomically(directory / SUMMARY_FILE_NAME, text.encode("utf-8"))


def write_atomically(file: Path, content: bytes) -> Path:
    """Write a file in one move.

    :returns: `file`.

    :raises InputError: If it cannot be written.
    """
    try:
        replace_file(file, content)
    except OSError as ex:
        raise InputError(
            f"{file} cannot be written: {ex.strerror}; make {file.parent} writable or free some "
            "space."
        ) from ex

    return file
