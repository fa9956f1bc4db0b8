"""The task of a run: the host's trainer, and an orderly end of the threads that read for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from fairseq2.runtime.closable import Closable
from fairseq2.task import Task
from typing_extensions import override


@final
class TrainingTask(Task):
    """Runs the host's trainer and closes the readers after it.

    A reader that reads ahead without end would otherwise still be running Python code while the interpreter shuts down.
    """

    def __init__(self, trainer: Task, readers: Sequence[Closable]) -> None:
        """
        :param trainer: The host's trainer.
        :param readers: Closed together with it.
        """
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
