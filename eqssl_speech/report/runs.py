"""Reads a run directory: fairseq2's JSON lines, the configuration, and the list of sources.

A run that was killed may end a file in half a line, and a run that was resumed repeats steps (and,
where it was killed in mid-line, glues its first line to that half). All of these read as if the run
had never stopped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from eqssl_speech.error import InputError

EQUILIBRIUM_RUN = "equilibrium"
"""The name of the run that is reported first and compared with `CONVENTIONAL_RUN`."""

CONVENTIONAL_RUN = "conventional"

_MIXED_CATEGORY = "mixed"

Row: TypeAlias = Mapping[str, object]
"""One line of a metric file."""

History: TypeAlias = Mapping[int, Row]
"""The lines of a metric file by step, in ascending order."""


@dataclass(frozen=True)
class SourceInfo:
    """What a run directory's ``sources.json`` says of a data source, as far as it is reported."""

    language: str | None
    domain: str | None


@dataclass(frozen=True)
class RunRecord:
    """What a run directory holds."""

    name: str

    directory: Path

    valid: Mapping[str, History]
    """The validations, by source name."""

    train: Mapping[str, Row]
    """The last training line, by source name; sources that have none are missing."""

    mixed: Row | None
    """The last training line of a regime that mixes all sources in one batch."""

    config: Mapping[str, object] | None
    """The seed and the equilibrium section, or ``None`` if there is no ``config.yaml``."""

    infos: Mapping[str, SourceInfo]
    """What ``sources.json`` says, by source name; empty if there is no such file."""


def find_runs(out: Path, names: Sequence[str] | None = None) -> list[tuple[str, Path]]:
    """Find the run directories in a directory.

    :param out: The directory that holds run directories, or a run directory itself.
    :param names: The runs to find, in this order; by default all, equilibrium first and
        conventional second.

    :returns: Name and directory of each run, at least one.

    :raises InputError: If a run, or any run at all, is missing.
    """
    if not out.is_dir():
        raise InputError(f"{out} is not a directory: give the output directory of a training.")

    if names:
        return [(name, _require_run(out, name)) for name in dict.fromkeys(names)]

    if (out / "metrics").is_dir():
        return [(out.resolve().name, out)]

    order = {EQUILIBRIUM_RUN: 0, CONVENTIONAL_RUN: 1}

    children = sorted(
        (d for d in out.iterdir() if d.is_dir()), key=lambda d: (order.get(d.name, 2), d.name)
    )

    found = [(d.name, run) for d in children if (run := _locate_metrics(d)) is not None]
    if not found:
        raise InputError(
            f"{out} holds no run with a metrics directory: train one into it first, for instance "
            f"into {out / EQUILIBRIUM_RUN}."
        )

    return found


def _require_run(out: Path, name: str) -> Path:
    directory = _locate_metrics(out / name)
    if directory is not None:
        return directory

    known = sorted(d.name for d in out.iterdir() if d.is_dir() and _locate_metrics(d) is not None)

    remedy = f"name one of {', '.join(known)}" if known else "train it first"

    raise InputError(f"{out / name} is not a run with a metrics directory: {remedy}.")


def _locate_metrics(directory: Path) -> Path | None:
    # fairseq2 puts a run in a subdirectory named after its configuration unless told not to.
    if (directory / "metrics").is_dir():
        return directory

    if not directory.is_dir():
        return None

    tagged = [d for d in sorted(directory.glob("ws_*")) if (d / "metrics").is_dir()]

    return max(tagged, key=lambda d: (d / "metrics").stat().st_mtime, default=None)


def read_run(name: str, directory: Path) -> RunRecord:
    """Read a run directory.

    :param name: The name under which the run is reported.
    :param directory: The directory that holds ``metrics/``.

    :raises InputError: If there is no validation yet, or a file is not what fairseq2 writes.
    """
    metrics = directory / "metrics"

    valid = {f.stem: read_history(f) for f in sorted(metrics.glob("valid/*.jsonl"))}
    valid = {source: history for source, history in valid.items() if history}
    if not valid:
        raise InputError(
            f"{metrics / 'valid'} holds no validation of any source yet: let the run go on to its "
            "next validation, or choose the runs to report with --run."
        )

    train = {}
    for file in sorted(metrics.glob("train/*.jsonl")):
        if history := read_history(file):
            train[file.stem] = history[max(history)]

    mixed = None if _MIXED_CATEGORY in valid else train.pop(_MIXED_CATEGORY, None)

    config = read_config(directory / "config.yaml")

    return RunRecord(
        name,
        directory,
        valid,
        train,
        mixed,
        None if config is None else _pick_settings(config),
        _read_infos(directory / "sources.json"),
    )


def read_history(file: Path) -> dict[int, Row]:
    """Read a metric file written by fairseq2's JSON lines recorder.

    A step that comes again was repeated by a resumed run: its last line wins, and later steps of
    the run before are forgotten. fairseq2 writes display names; they are read as identifiers, so
    that "Plain Loss" is `plain_loss`.

    :returns: The lines by step, ascending; lines without a step are left out.

    :raises InputError: If a line other than the last is no JSON object.
    """
    history: dict[int, Row] = {}

    for row in _read_rows(file):
        step = row.get("step")
        if not isinstance(step, int):
            continue

        for stale in [s for s in history if s >= step]:
            del history[stale]

        history[step] = row

    return history


def get_number(row: Row, name: str) -> float | None:
    """Return a metric of a line, finite or not, or ``None`` if the line does not have it."""
    value = row.get(name)

    return float(value) if isinstance(value, (int, float)) else None


def _read_rows(file: Path) -> list[Row]:
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as ex:
        raise InputError(f"{file} cannot be read: {ex.strerror}; check its permissions.") from ex

    rows = []

    for nr, line in enumerate(lines, start=1):
        if not line.strip():
            continue

        row = _parse_row(line)
        if row is not None:
            rows.append(row)
        elif nr < len(lines):
            raise InputError(f"{file}:{nr} is not a JSON object: remove that line.")

    return rows


def _parse_row(line: str) -> Row | None:
    # What follows a torn line's half, where the recorder of a resumed run went on writing.
    for text in (line, line[max(line.rfind('{"Time"'), 0) :]):
        try:
            row = json.loads(text)
        except ValueError:
            continue

        if isinstance(row, dict):
            return {name.lower().replace(" ", "_"): value for name, value in row.items()}

    return None


def read_config(file: Path) -> Mapping[str, object] | None:
    """Read the configuration of a run.

    :returns: ``None`` if there is none.
    :raises InputError: If the file cannot be read.
    """
    if not file.exists():
        return None

    try:
        config = YAML(typ="safe", pure=True).load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, YAMLError) as ex:
        raise InputError(f"{file} is not readable YAML: restore or remove it.") from ex

    return config if isinstance(config, dict) else None


def _pick_settings(config: Mapping[str, object]) -> Mapping[str, object]:
    common = config.get("common")

    seed = common.get("seed") if isinstance(common, dict) else config.get("seed")

    return {"seed": seed, "equilibrium": config.get("equilibrium")}


def _read_infos(file: Path) -> dict[str, SourceInfo]:
    if not file.exists():
        return {}

    try:
        items = json.loads(file.read_text(encoding="utf-8"))

        return {
            str(item["name"]): SourceInfo(item.get("language"), item.get("domain"))
            for item in items
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as ex:
        raise InputError(
            f"{file} is not a JSON list of sources with a `name` each: restore or remove it."
        ) from ex
