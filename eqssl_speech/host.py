"""Where fairseq2 0.8 has no public way in: the private names that this package relies on, in one place."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, final

from fairseq2.datasets import DataReader
from fairseq2.gang import Gang, broadcast_flag
from fairseq2.logging import log
from fairseq2.metrics import MetricBag
from fairseq2.metrics.recorders import MetricRecorder
from fairseq2.recipe.error import RecipeError
from fairseq2.runtime.dependency import DependencyContainer, DependencyProvider
from fairseq2.trainer import Trainer, TrainStepHookArgs, _TrainerState
from fairseq2.typing import Stateful
from fairseq2.validator import StandardValidator

from eqssl_speech.tasks.errors import DivergenceError

if TYPE_CHECKING:
    from fairseq2.evaluator import EvalUnit

T = TypeVar("T")


def override_provider(
    container: DependencyContainer,
    kls: type[T],
    provider: DependencyProvider[object],
    *,
    singleton: bool = False,
) -> None:
    """Register a provider in place of the host's.

    A recipe is asked for its registrations after the host has made its own, and the host refuses a second one.

    :param container: The host's container, before its first use.
    :param kls: The type to provide.
    :param provider: Creates an object that serves as one.
    :param singleton: Whether it is created once.
    """
    del container._registrations[(kls, None)]

    container._keys[kls].remove(None)

    container.register(kls, provider, singleton=singleton)


def wrap_metric_recorder(
    trainer: Trainer, wrap: Callable[[MetricRecorder, int], MetricRecorder]
) -> None:
    """Have a trainer record its own metrics through another recorder, if it is told a number of updates.

    :param trainer: The host's trainer, before it runs.
    :param wrap: Takes the recorder and the number of updates; returns the other recorder, which closes the first.
    """
    if trainer._max_num_steps is not None:
        trainer._metric_recorder = wrap(trainer._metric_recorder, trainer._max_num_steps)


class _ValidationGivenUp(Exception):  # noqa: N818
    """Leaves a validation."""


def get_metric_bag(trainer: Stateful) -> MetricBag:
    """Return the metrics of a training.

    :param trainer: What the trainer gives to a checkpoint manager to load its state into.
    """
    bag: MetricBag = trainer._trainer._metric_bag  # type: ignore[attr-defined]

    return bag


@final
class TrainerStop:
    """Ends a trainer's run between two steps, in order and with a checkpoint.

    The host's own way, ``request_stop()``, does nothing where the number of steps is set, validates first, and does not
    ask the other ranks. A validation is given up; one that was not finished, for whatever reason, is made up for when
    the run goes on from that step.
    """

    def __init__(
        self, trainer: Trainer, is_wanted: Callable[[Gang], bool], unfinished_validation: Path
    ) -> None:
        """
        :param trainer: The host's trainer, before it runs.
        :param is_wanted: Asked before each step and each batch of a validation, by all ranks at once; they must all get
            the same answer.
        :param unfinished_validation: A file that is there during a validation and holds the number of the step.
        """
        self._trainer = trainer
        self._is_wanted = is_wanted
        self._unfinished_validation = unfinished_validation
        self._saved_step_nr = 0

        self._restore, trainer._maybe_restore_state = trainer._maybe_restore_state, self._resume  # type: ignore[method-assign]
        self._read, trainer._read_next_batches = trainer._read_next_batches, self._read_or_stop  # type: ignore[method-assign]
        self._validate, trainer._validate = trainer._validate, self._validate_or_stop  # type: ignore[method-assign]

        validator = trainer._validator

        if isinstance(validator, StandardValidator):
            self._read_valid: Any = validator._read_next_batches

            validator._read_next_batches = self._read_valid_or_stop  # type: ignore[method-assign]

        def take_note(args: TrainStepHookArgs) -> None:
            self._saved_step_nr = args.step_nr

        trainer.register_checkpoint_save_hook(take_note)

    def finish_saving(self) -> None:
        """Let a checkpoint that is being written come to its end, where that takes no other process."""
        if self._trainer._gangs.root.size == 1:
            self._trainer._maybe_complete_checkpoint_save_operation()

    def _stops(self) -> bool:
        trainer = self._trainer

        if not trainer._stop_requested:
            trainer._stop_requested = self._is_wanted(trainer._gangs.root)

        return trainer._stop_requested

    def _resume(self) -> _TrainerState:
        trainer = self._trainer
        state = self._restore()

        self._saved_step_nr = trainer.step_nr

        if trainer.step_nr > 0 and self._was_validating(trainer.step_nr):
            log.info(
                "The validation after step {} was not finished; it is made up for.", trainer.step_nr
            )

            # So that its score is kept as that of the first attempt would have been.
            is_over = state == _TrainerState.STOPPED
            trainer._state = _TrainerState.END_OF_TRAINING if is_over else _TrainerState.POST_STEP

            trainer._validate()

        return state

    def _was_validating(self, step_nr: int) -> bool:
        gang = self._trainer._gangs.root
        file = self._unfinished_validation

        return broadcast_flag(
            gang, gang.rank == 0 and file.exists() and file.read_text().strip() == str(step_nr)
        )

    def _read_or_stop(self) -> _TrainerState:
        if not self._stops():
            return self._read()

        trainer = self._trainer

        trainer._maybe_complete_checkpoint_save_operation()

        if trainer.step_nr > self._saved_step_nr:
            trainer._save_checkpoint(blocking=True)

        trainer._maybe_complete_hg_export_operation()

        if trainer._num_batches_read > 0:
            trainer._publish_metrics()

        return _TrainerState.STOPPED

    def _validate_or_stop(self) -> float | None:
        trainer = self._trainer

        # A disk that is full is reported by what has to be written.
        with suppress(OSError):
            self._note_validation(f"{trainer.step_nr}\n")

        try:
            score = self._validate()
        except _ValidationGivenUp:
            trainer._validator.reset()
            trainer._model.train()

            return None
        except (RecipeError, DivergenceError):
            # It ends the run for what it has found, and is over.
            self._note_validation(None)

            raise

        self._note_validation(None)

        return score

    def _note_validation(self, text: str | None) -> None:
        if self._trainer._gangs.root.rank != 0:
            return

        if text is None:
            self._unfinished_validation.unlink(missing_ok=True)
        else:
            self._unfinished_validation.write_text(text)

    def _read_valid_or_stop(
        self, unit: EvalUnit[Any], data_reader: DataReader[Any]
    ) -> list[Any] | None:
        if self._stops():
            raise _ValidationGivenUp

        batches: list[Any] | None = self._read_valid(unit, data_reader)

        return batches
