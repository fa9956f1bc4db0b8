"""From recordings to frame-wise log-probabilities, part by part, with a bounded amount of audio in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eqssl_speech.data.audio import AudioError, AudioFormat, read_audio
from eqssl_speech.error import InputError
from eqssl_speech.tasks.transcribe.planning import (
    AudioItem,
    Batch,
    EmissionOptions,
    Piece,
    make_grid,
    padded_num_samples,
    plan_batches,
)
from eqssl_speech.tasks.transcribe.windows import EmissionJoiner

if TYPE_CHECKING:
    from eqssl_speech.tasks.recognizer import Recognizer

_Samples: TypeAlias = "npt.NDArray[np.float32] | AudioError"


@final
@dataclass(frozen=True)
class EmissionPart:
    """The next frames of a recording."""

    item: int
    """The index of the recording."""

    start: int
    """The first frame, counted from the start of the recording."""

    log_probs: Tensor
    """*Shape:* ``(T, V)``."""

    is_last: bool
    """Whether the recording ends with them."""


@final
@dataclass(frozen=True)
class ReadFailure:
    """A recording that could not be read; no part of it follows."""

    item: int
    error: AudioError


@final
class Emitter:
    """Emits planned batches with a model, one after the other."""

    def __init__(
        self, recognizer: Recognizer, items: Sequence[AudioItem], options: EmissionOptions
    ) -> None:
        """
        :param recognizer: The model.
        :param items: The recordings that the batches' indices mean.
        :param options: As planned with.
        """
        self._recognizer = recognizer
        self._items = items
        self._num_readers = options.num_readers
        self._format = AudioFormat(sample_rate=recognizer.sample_rate, resample=True, downmix=True)
        self._hop = make_grid(recognizer).hop
        self._joiners: dict[int, EmissionJoiner] = {}
        self._failed: set[int] = set()
        self._reported: set[int] = set()

    def emit(self, batches: Iterable[Batch]) -> Iterator[EmissionPart | ReadFailure]:
        """Read and emit.

        :param batches: The batches, in order; those of a long recording follow each other.
        :returns: The parts of each recording in their order, whose frames follow each other without gap or overlap.
        :raises InputError: If the device's memory does not hold a batch, or the model gives what are not numbers.
        """
        for batch in _read_ahead(batches, self._read, self._num_readers):
            self._failed.update(p.item for p, samples in batch if isinstance(samples, AudioError))

            # The other windows of a recording that failed are of no use.
            good = [
                (piece, samples)
                for piece, samples in batch
                if not isinstance(samples, AudioError) and piece.item not in self._failed
            ]

            emissions = iter(self._emit_batch(good))

            for piece, samples in batch:
                if piece.item not in self._failed:
                    yield from self._join(piece, next(emissions))
                elif isinstance(samples, AudioError) and piece.item not in self._reported:
                    self._reported.add(piece.item)
                    self._joiners.pop(piece.item, None)

                    yield ReadFailure(piece.item, samples)

    def _read(self, piece: Piece) -> _Samples:
        item = self._items[piece.item]

        start = piece.window.start * self._hop

        try:
            return read_audio(
                item.path, item.entry, self._format, start=start, num_samples=piece.num_samples
            )
        except AudioError as ex:
            return ex

    def _emit_batch(self, batch: Sequence[tuple[Piece, npt.NDArray[np.float32]]]) -> list[Tensor]:
        if not batch:
            return []

        try:
            emissions = self._recognizer.emit([samples for _, samples in batch])
        except torch.OutOfMemoryError:
            padded_s = padded_num_samples([p for p, _ in batch]) / self._recognizer.sample_rate
            raise InputError(
                f"the device's memory does not hold a batch of {len(batch)} recordings, {padded_s:.0f} s with padding; "
                "lower `--batch-seconds` or `--max-segment-s`."
            ) from None

        for (piece, _), emission in zip(batch, emissions, strict=True):
            self._check(piece, emission)

        return emissions

    def _check(self, piece: Piece, emission: Tensor) -> None:
        if emission.size(0) != piece.window.num_frames:
            raise ValueError(
                f"The model must give {piece.window.num_frames} frames for {piece.num_samples} samples, but gives "
                f"{emission.size(0)} instead."
            )
        if torch.isnan(emission).any():
            raise InputError(
                f"{self._recognizer.description}: gives what is not a number for {self._items[piece.item].path}; the "
                "training has diverged, so take an earlier checkpoint."
            )

    def _join(self, piece: Piece, emission: Tensor) -> Iterator[EmissionPart]:
        joiner = self._joiners.setdefault(piece.item, EmissionJoiner())

        start = joiner.start
        joined = joiner.push(piece.window, emission)

        if joined is not None:
            yield EmissionPart(piece.item, start, joined, is_last=False)

        if piece.is_last:
            yield EmissionPart(piece.item, joiner.start, joiner.finish(), is_last=True)

            del self._joiners[piece.item]


def emit_recordings(
    recognizer: Recognizer, items: Sequence[AudioItem], options: EmissionOptions
) -> Iterator[tuple[int, Tensor | AudioError]]:
    """Read and emit whole recordings; the parts of a long one are put together.

    :param recognizer: The model.
    :param items: The recordings, each long enough for a frame; neighbours of about one length share batches best.
    :param options: How much is given to the model at a time.
    :returns: The index of each recording with its log-probabilities, *Shape:* ``(T, V)``, or with why it cannot be
        read, as soon as they are known.
    :raises InputError: As :func:`plan_batches` and :meth:`Emitter.emit`.
    """
    units = plan_batches([item.num_samples for item in items], recognizer, options)

    parts: dict[int, list[Tensor]] = {}

    for event in Emitter(recognizer, items, options).emit(b for unit in units for b in unit):
        if isinstance(event, ReadFailure):
            parts.pop(event.item, None)

            yield event.item, event.error
            continue

        parts.setdefault(event.item, []).append(event.log_probs)

        if event.is_last:
            yield event.item, torch.cat(parts.pop(event.item))


def _read_ahead(
    batches: Iterable[Batch], read: Callable[[Piece], _Samples], num_readers: int
) -> Iterator[list[tuple[Piece, _Samples]]]:
    # The next batch is read while this one is emitted; of many short recordings, as many as there are readers.
    pending: deque[list[tuple[Piece, Future[_Samples]]]] = deque()

    pool = ThreadPoolExecutor(max(1, num_readers), thread_name_prefix="eqssl-read")
    try:
        for batch in batches:
            pending.append([(piece, pool.submit(read, piece)) for piece in batch])

            if len(pending) > 1:
                yield [(piece, future.result()) for piece, future in pending.popleft()]

        while pending:
            yield [(piece, future.result()) for piece, future in pending.popleft()]
    finally:
        pool.shutdown(cancel_futures=True)
