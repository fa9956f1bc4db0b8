"""Plans what is emitted together, before anything is read.

Short recordings share batches; a long one has batches of its own windows. So a batch holds the same recordings whoever
works on it, on one process or on several, and the numbers are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias, final

from eqssl_speech.data.manifest import ManifestEntry
from eqssl_speech.error import InputError
from eqssl_speech.tasks.transcribe.windows import FrameGrid, Window, plan_windows

if TYPE_CHECKING:
    from eqssl_speech.tasks.recognizer import Recognizer

_MIN_SEGMENT_S: Final = 2.0


@final
@dataclass(frozen=True, kw_only=True)
class EmissionOptions:
    """How much is given to the model at a time."""

    max_segment_s: float = 20.0
    """A longer recording is cut into overlapping windows of this length, in seconds; at least 2."""

    batch_s: float = 20.0
    """The audio of a batch with its padding, in seconds; greater than 0. A batch has at least one recording."""

    num_readers: int = 2
    """How many files are read at once."""


@final
@dataclass(frozen=True)
class AudioItem:
    """A recording, or a part of one, that is to be recognised."""

    path: Path
    """The file."""

    entry: ManifestEntry
    """Which part; in samples of the file as stored."""

    num_samples: int
    """The length in samples at the model's rate."""


@final
@dataclass(frozen=True, slots=True)
class Piece:
    """What is emitted at once: a whole recording, or a window of it."""

    item: int
    """The index of the recording."""

    window: Window
    """Its frames."""

    num_samples: int
    """Its samples, from those of its first frame on."""

    is_last: bool
    """Whether the recording ends with it."""


Batch: TypeAlias = tuple[Piece, ...]


def make_grid(recognizer: Recognizer) -> FrameGrid:
    """Return how a recogniser's frames lie in the samples."""
    hop = round(recognizer.frame_shift_s * recognizer.sample_rate)

    return FrameGrid(hop, recognizer.receptive_field_samples)


def plan_batches(
    lengths: Sequence[int], recognizer: Recognizer, options: EmissionOptions
) -> list[list[Batch]]:
    """Plan what is emitted together.

    :param lengths: The samples of each recording at the model's rate, each enough for a frame.
    :param recognizer: The model.
    :param options: The bounds.
    :returns: Units of work in the order of the recordings. A unit is a list of batches that belong together: one batch
        of short recordings, or all batches of one long recording.
    :raises InputError: If an option is out of its range.
    """
    _validate(options)

    grid = make_grid(recognizer)
    max_num_frames = grid.count(round(options.max_segment_s * recognizer.sample_rate))
    budget = options.batch_s * recognizer.sample_rate

    units: list[list[Batch]] = []
    short: list[Piece] = []

    for index, length in enumerate(lengths):
        windows = plan_windows(grid.count(length), max_num_frames)

        if len(windows) > 1:
            units += [[tuple(short)]] if short else []
            short = []
            units.append(_plan_long(index, windows, grid, budget))
            continue

        piece = Piece(index, windows[0], length, is_last=True)

        if short and padded_num_samples([*short, piece]) > budget:
            units.append([tuple(short)])
            short = []

        short.append(piece)

    return [*units, [tuple(short)]] if short else units


def _validate(options: EmissionOptions) -> None:
    if not options.max_segment_s >= _MIN_SEGMENT_S:
        raise InputError(
            f"`max_segment_s` must be at least {_MIN_SEGMENT_S:g}, but is {options.max_segment_s:g} instead; "
            "the model needs some context."
        )
    if not options.batch_s > 0.0:
        raise InputError(f"`batch_s` must be greater than 0, but is {options.batch_s:g} instead.")


def _plan_long(index: int, windows: list[Window], grid: FrameGrid, budget: float) -> list[Batch]:
    num_samples = grid.extent(windows[0].num_frames)

    pieces = [Piece(index, w, num_samples, is_last=w is windows[-1]) for w in windows]

    size = max(1, int(budget // num_samples))

    return [tuple(pieces[i : i + size]) for i in range(0, len(pieces), size)]


def padded_num_samples(pieces: Sequence[Piece]) -> int:
    """Return the samples of a batch of pieces with their padding."""
    return len(pieces) * max(piece.num_samples for piece in pieces)
