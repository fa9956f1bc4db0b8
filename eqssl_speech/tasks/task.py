"""The task of a run: the host's trainer, the time that it has left, and an orderly end of the threads that read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from fairseq2.runtime.closable import Closable
from fairseq2.task import Task
from fairseq2.trainer import Trainer
from typing_extensions import override

from eqssl_speech.host import wrap_metric_recorder
from eqssl_speech.tasks.time_left import TimeLeftRecorder


@final
class TrainingTask(Task):
    """Runs the host's trainer and closes the readers after it.

    A reader that reads ahead without end would otherwise still be running Python code while the interpreter shuts down.
    """

    def __init__(self, trainer: Trainer, readers: Sequence[Closable]) -> None:
        """
        :param trainer: The host's trainer.
        :param readers: Closed together with it.
        """
        wrap_metric_recorder(trainer, TimeLeftRecorder)

        self._trainer = trainer
        self._readers = readers

    @override
    def run(self) -> None:
        self._trainer.run()

    @override
    def request_stop(self) -> None:
        self._trainer.request_stop()

    @override
    def close(self) -> None:
        for reader in self._readers:
            reader.close()

        self._trainer.close()

    @property
    @override
    def step_nr(self) -> int:
        return self._trainer.step_nr
