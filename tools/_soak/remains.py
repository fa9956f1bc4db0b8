"""What a finished run leaves: the states of its last checkpoint and its metrics, value by value."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from eqssl_speech.report.runs import read_history

from .process import SoakError

PARTS: Final = {
    "model": "parameters",
    "optimizer": "optimizer state",
    "trainer": "trainer state",
    "data_reader": "reader state",
}
"""The directories of a checkpoint, and what they hold."""

METRICS: Final = "metrics"

TIMES_OF_METRICS: Final = (
    "time",
    "data_time",
    "compute_time",
    "lapse_time",
    "total_time",
    "wall_time",
    "audio_seconds_per_second",
    "time_left",
)
"""What tells the time in the metrics, and is not compared."""

TIMES_OF_STATES: Final = ("_base_wall_time",)
"""The same in the trainer's state."""


@dataclass(frozen=True)
class Remains:
    """What a run left: for each part, the digest of each value under the place where it is."""

    parts: dict[str, dict[str, str]]

    num_repeated_lines: int
    """Lines of metrics of an update that a later life has written again."""

    def digest(self, part: str) -> str:
        """Return the SHA-256 of a part."""
        lines = (f"{place}\t{value}\n" for place, value in sorted(self.parts[part].items()))

        return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_remains(directory: Path, step_nr: int) -> Remains:
    """Read what a run left.

    :param directory: The output directory.
    :param step_nr: The last update.
    :raises SoakError: If there is no checkpoint of that update, or there are no metrics.
    :raises InputError: If a line of metrics is no JSON object.
    """
    checkpoints = directory / "checkpoints"
    parts = {
        title: _read_states(checkpoints / f"step_{step_nr}", name) for name, title in PARTS.items()
    }

    parts[METRICS], num_repeated_lines = _read_metrics(directory / "metrics")

    # Which checkpoints are kept, and their scores.
    parts["checkpoints"] = {p.name: "" for p in checkpoints.glob("step_*")} | {
        str(p.relative_to(checkpoints)): _digest(p.read_bytes())
        for p in checkpoints.glob("scores/*")
    }

    return Remains(parts, num_repeated_lines)


def find_differences(whole: Remains, killed: Remains) -> list[str]:
    """Return a sentence for each value in which two runs differ."""
    differences = []

    for part, values in whole.parts.items():
        others = killed.parts[part]

        for place in sorted(values.keys() | others.keys()):
            if place not in others:
                differences.append(f"{part}: {place} is only in the uninterrupted run.")
            elif place not in values:
                differences.append(f"{part}: {place} is only in the killed run.")
            elif values[place] != others[place]:
                differences.append(f"{part}: {place} differs.")

    return differences


def _read_states(directory: Path, name: str) -> dict[str, str]:
    files = sorted((directory / name).rglob("*.pt"))
    if not files:
        raise SoakError(f"{directory / name} holds no file.")

    values = {}

    for file in files:
        state = torch.load(file, map_location="cpu", weights_only=False)

        for place, value in _walk(state, str(file.relative_to(directory))):
            if not place.endswith(TIMES_OF_STATES):
                values[place] = _digest(value)

    return values


def _read_metrics(directory: Path) -> tuple[dict[str, str], int]:
    values: dict[str, str] = {}
    num_repeated_lines = 0

    for file in sorted(directory.rglob("*.jsonl")):
        history = read_history(file)  # The last line of a step counts.

        num_repeated_lines += len(file.read_bytes().splitlines()) - len(history)

        for step_nr, row in history.items():
            for name, value in row.items():
                if name not in TIMES_OF_METRICS:
                    place = f"{file.relative_to(directory)}, step {step_nr}: {name}"

                    values[place] = _digest(repr(value).encode())

    if not values:
        raise SoakError(f"{directory} holds no metrics.")

    return values, num_repeated_lines


def _walk(value: object, place: str) -> Iterator[tuple[str, bytes]]:
    """Yield the leaves of a state: where each is, and its type and bits."""
    if isinstance(value, Tensor):
        bits = value.detach().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()

        yield place, f"{value.dtype} {tuple(value.shape)} ".encode() + bits
    elif isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _walk(item, f"{place}: {key}" if place.endswith(".pt") else f"{place}.{key}")
    elif isinstance(value, (list, tuple)) and value:
        for index, item in enumerate(value):
            yield from _walk(item, f"{place}[{index}]")
    elif value is None or isinstance(value, (bool, int, float, str, bytes, Mapping, list, tuple)):
        yield place, f"{type(value).__name__} {value!r}".encode()
    else:
        raise SoakError(f"{place} is a {type(value).__qualname__}, which cannot be compared.")


def _digest(value: bytes) -> str:
    return hashlib.sha256(value).hexdigest()
