"""The task of a run: the host's trainer, the time that it has left, and an orderly end, whatever ends it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from signal import Signals
from typing import Final, final

from fairseq2.logging import log
from fairseq2.runtime.closable import Closable
from fairseq2.task import Task, TaskStopException
from fairseq2.trainer import Trainer
from typing_extensions import override

from eqssl_speech.host import TrainerStop, wrap_metric_recorder
from eqssl_speech.tasks.ranks import LostContactError, is_lost_contact, write_for_launcher
from eqssl_speech.tasks.signals import stop_request
from eqssl_speech.tasks.stopping import StopVote
from eqssl_speech.tasks.time_left import TimeLeftRecorder

UNFINISHED_VALIDATION: Final = "unfinished_validation"
"""The file in the output directory that is there during a validation."""


@final
class TrainingTask(Task):
    """Runs the host's trainer and closes the readers after it.

    A reader that reads ahead without end would otherwise still be running Python code while the interpreter shuts down.

    SIGTERM and SIGUSR1, to any of the ranks, end it after the step in hand and with a checkpoint.
    """

    def __init__(self, trainer: Trainer, readers: Sequence[Closable], output_dir: Path) -> None:
        """
        :param trainer: The host's trainer.
        :param readers: Closed together with it.
        :param output_dir: That of the run.
        """
        wrap_metric_recorder(trainer, TimeLeftRecorder)

        self._trainer = trainer
        self._readers = readers
        self._vote = StopVote(stop_request)
        self._stop = TrainerStop(trainer, self._vote, output_dir / UNFINISHED_VALIDATION)

    @override
    def run(self) -> None:
        with stop_request.kept():
            try:
                self._trainer.run()
            except TaskStopException:
                self._report_stop()

                raise
            except BaseException as ex:
                self._finish_saving(ex)

                if is_lost_contact(ex):
                    raise LostContactError(self.step_nr) from ex

                raise

    def _report_stop(self) -> None:
        stop_request.obeyed = True

        step_nr = self.step_nr
        where = f"after step {step_nr}, with a checkpoint" if step_nr else "before the first step"
        message = f"Stopped by {self._vote.reason} {where}; the same command goes on from there."

        log.info(message)

        write_for_launcher(message)

    def _finish_saving(self, ex: BaseException) -> None:
        try:
            self._stop.finish_saving()
        except Exception as another:
            if another is not ex:
                log.warning("The checkpoint that was being written is lost: {}", another)

    @override
    def request_stop(self) -> None:
        stop_request.add(Signals.SIGUSR1)

    @override
    def close(self) -> None:
        for reader in self._readers:
            reader.close()

        self._trainer.close()

    @property
    @override
    def step_nr(self) -> int:
        return self._trainer.step_nr
