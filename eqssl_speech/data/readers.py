"""The data readers that the host's trainer and validator take batches from."""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NoReturn, TypeVar, final

from fairseq2.data.data_pipeline import (
    DataPipeline,
    DataPipelineError,
    read_iterator,
    read_sequence,
)
from fairseq2.datasets import DataReader, DataReadError
from fairseq2.runtime.closable import Closable
from typing_extensions import Self, override

from eqssl_speech.data.episodes import EpisodePlan, EpisodePlanner, PlannerState
from eqssl_speech.error import InputError

T = TypeVar("T")

BATCH_NUM_SAMPLES: Final = "batch_num_samples"
"""In the state of an :class:`EpisodeReader`: the budget of a batch, on which the make-up of batches depends."""

_LABELS_DIGEST: Final = "labels_digest"

NUM_UTTERANCES: Final = "num_utterances"
"""In the state of an :class:`EpisodeReader`: the utterances of each source."""


@final
class EpisodeReader(DataReader[T], Closable):
    """Reads the episodes of one outer step at a time, ahead of their use and in parallel. It never ends.

    Its state is where the next outer step begins, whatever has been read ahead.
    """

    def __init__(
        self,
        planner: EpisodePlanner,
        load: Callable[[EpisodePlan], T],
        *,
        num_workers: int,
        num_prefetch: int,
        labels_digest: str | None = None,
    ) -> None:
        """
        :param planner: Says what to read.
        :param load: Reads it, in any thread.
        :param num_workers: How many episodes are decoded at once.
        :param num_prefetch: How many episodes are held ready.
        :param labels_digest: What tells the labels of the frames from others, if they have some.
        """
        self._labels_digest = labels_digest
        self._planner = planner
        self._load = load
        self._num_workers = num_workers
        self._num_prefetch = num_prefetch
        self._initial_state = planner.state
        self._state = planner.state
        self._iterator: Iterator[tuple[T, PlannerState | None]] | None = None

        _close_at_exit(self)

    @override
    def __iter__(self) -> Self:
        return self

    @override
    def __next__(self) -> list[T]:
        if self._iterator is None:
            self._iterator = iter(self._build())

        episodes = []

        while True:
            try:
                episode, end_of_step = next(self._iterator)
            except DataPipelineError as ex:
                raise_cause(ex)

            episodes.append(episode)

            if end_of_step is not None:
                self._state = end_of_step

                return episodes

    @override
    def reset(self) -> None:
        self._set_state(self._initial_state)

    @override
    def state_dict(self) -> dict[str, object]:
        return {
            "step_nr": self._state.step_nr,
            "positions": [list(p) for p in self._state.positions],
            "batches_per_pass": list(self._state.batches_per_pass),
            BATCH_NUM_SAMPLES: self._planner.batch_num_samples,
            NUM_UTTERANCES: list(self._planner.num_utterances),
            **({} if self._labels_digest is None else {_LABELS_DIGEST: self._labels_digest}),
        }

    @override
    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        """Go on where another reader was; if its batches were of another size, at the same part of each pass.

        :raises InputError: If it read another number of sources, or other labels.
        """
        if state_dict.get(_LABELS_DIGEST, self._labels_digest) != self._labels_digest:
            raise InputError(
                "The labels of `dataset.labels` are not those that the checkpoint was trained with, whose numbers mean "
                "something else: put them back, or choose another output directory."
            )

        step_nr, positions = state_dict["step_nr"], state_dict["positions"]

        assert isinstance(step_nr, int)
        assert isinstance(positions, list)

        if len(positions) != len(self._initial_state.positions):
            raise InputError(
                f"The checkpoint was made with {len(positions)} data source(s), but the configuration names "
                f"{len(self._initial_state.positions)}; resume with the same `dataset.sources`."
            )

        num_samples = state_dict.get(BATCH_NUM_SAMPLES, self._planner.batch_num_samples)
        # Older versions did not save these.
        batches_per_pass = state_dict.get("batches_per_pass", self._initial_state.batches_per_pass)

        assert isinstance(batches_per_pass, (list, tuple))

        state = PlannerState(
            step_nr, tuple((int(p), int(i)) for p, i in positions), tuple(batches_per_pass)
        )

        if num_samples != self._planner.batch_num_samples:
            state = self._planner.convert(state)

        self._set_state(state)

    @override
    def close(self) -> None:
        """Stop reading ahead; the next batch would start anew from the present state."""
        self._iterator = None

    @property
    @override
    def num_accumulate(self) -> int:
        return self._planner.num_episodes

    def _set_state(self, state: PlannerState) -> None:
        self._state = state

        self.close()

    def _build(self) -> DataPipeline:
        # Only now, so that a state loaded before the first batch costs no read.
        self._planner.state = self._state

        builder = read_iterator(
            self._planner, reset_fn=lambda it: it, infinite=True, skip_pickling_check=True
        )

        return (
            builder.map(self._load_plan, num_parallel_calls=self._num_workers)
            .prefetch(self._num_prefetch)
            .and_return()
        )

    def _load_plan(self, plan: EpisodePlan) -> tuple[T, PlannerState | None]:
        return self._load(plan), plan.end_of_step


@final
class ValidationReader(DataReader[T], Closable):
    """Reads the same batches in each validation."""

    def __init__(
        self,
        plans: Sequence[Any],
        load: Callable[[Any], T],
        *,
        num_steps: int,
        num_workers: int,
    ) -> None:
        """
        :param plans: What this rank reads.
        :param load: Reads what one of them says, in any thread.
        :param num_steps: How many lists of batches there are, the last of them empty where the plans are fewer. The
            same on all ranks, because the host talks to the others between two of them.
        :param num_workers: How many batches are decoded at once.
        """
        self._plans = list(plans)
        self._load = load
        self._num_steps = num_steps
        self._step_nr = 0
        self._num_workers = num_workers
        self._iterator: Iterator[T] | None = None

        _close_at_exit(self)

    @override
    def __iter__(self) -> Self:
        return self

    @override
    def __next__(self) -> list[T]:
        if self._step_nr >= self._num_steps:
            raise StopIteration

        self._step_nr += 1

        if self._step_nr > len(self._plans):
            return []

        if self._iterator is None:
            self._iterator = iter(self._build())

        try:
            return [next(self._iterator)]
        except DataPipelineError as ex:
            raise_cause(ex)

    @override
    def reset(self) -> None:
        self._step_nr = 0

        self.close()

    @override
    def close(self) -> None:
        """Stop reading ahead."""
        self._iterator = None

    @override
    def state_dict(self) -> dict[str, object]:
        return {}

    @override
    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        pass

    @property
    @override
    def num_accumulate(self) -> int:
        return 1

    def _build(self) -> DataPipeline:
        pipeline = read_sequence(self._plans).map(self._load, num_parallel_calls=self._num_workers)

        return pipeline.prefetch(2).and_return()


def _close_at_exit(reader: Closable) -> None:
    # The pipeline holds the reader that holds it, so only this ends its threads where nobody closed it.
    reference = weakref.ref(reader)

    def close() -> None:
        alive = reference()
        if alive is not None:
            alive.close()

    atexit.register(close)


def raise_cause(ex: DataPipelineError) -> NoReturn:
    """Raise what went wrong in a worker: a user's mistake as it is, anything else as a failure to read."""
    cause: BaseException | None = ex

    while cause is not None:
        if isinstance(cause, InputError):
            raise cause

        cause = cause.__cause__

    raise DataReadError("The next batch cannot be read.") from ex
