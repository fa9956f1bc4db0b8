"""Checkpoints that can be trusted: whole or not there at all, compared with their checksums before they are loaded, and
loaded without running code."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar, final

from fairseq2.checkpoint import (
    CheckpointDir,
    CheckpointError,
    CheckpointManager,
    CheckpointReadyCallback,
    CheckpointSavedCallback,
    StandardCheckpointManager,
)
from fairseq2.error import OperationalError
from fairseq2.file_system import FileSystem
from fairseq2.gang import Gangs
from fairseq2.logging import log
from fairseq2.recipe.cli import register_cli_error
from fairseq2.runtime.dependency import DependencyContainer, DependencyResolver
from fairseq2.typing import Stateful
from fairseq2.utils.threading import ThreadPool
from typing_extensions import override

from eqssl_speech.error import InputError
from eqssl_speech.files import replace_file, sync_directory
from eqssl_speech.host import override_provider
from eqssl_speech.models.checksums import (
    DamagedFileError,
    FileChecksum,
    read_checksums,
    write_checksums,
)
from eqssl_speech.tasks.checkpoint_check import CheckpointChecker, exchange
from eqssl_speech.tasks.checkpoint_files import (
    Commit,
    SavingThread,
    StateFileDumper,
    StateFileLoader,
    explain_failure,
)
from eqssl_speech.tasks.errors import CheckpointSaveError, handle_save_error
from eqssl_speech.tasks.resharding import RankLayout, ReshardingLoader

T = TypeVar("T")


def use_trusted_checkpoints(container: DependencyContainer) -> None:
    """Have a recipe save and load its checkpoints through :class:`TrustedCheckpointManager`."""

    def create(resolver: DependencyResolver) -> CheckpointManager:
        directory = resolver.resolve(CheckpointDir).path
        if directory is None:
            directory = resolver.resolve(Path) / "checkpoints"

        file_system = resolver.resolve(FileSystem)
        if not file_system.is_local_path(directory):
            raise InputError(
                f"{directory}: checkpoints are written to file systems of this machine only; choose another "
                "`--checkpoint-dir`."
            )

        manager = TrustedCheckpointManager(
            directory, resolver.resolve(Gangs), file_system, resolver.resolve(ThreadPool)
        )

        # Before the model is made, because what is there decides how.
        manager.prepare()

        return manager

    override_provider(container, CheckpointManager, create, singleton=True)

    register_cli_error(container, CheckpointSaveError, handle_save_error)


@final
class TrustedCheckpointManager(CheckpointManager):
    """Saves and loads checkpoints through the host's manager, and makes sure of what that takes for granted.

    Saving: each file is on the disk and its checksum known before the list of checksums is written, and that before the
    checkpoint gets its name; where a file cannot be written on any rank, all ranks end with the same sentence.
    Loading: the ranks share the work of comparing all files before the first is loaded, and none is loaded in a way
    that could run code. What other ranks have written is put together and dealt out anew.

    All methods that save or load are called by all ranks.
    """

    def __init__(
        self, directory: Path, gangs: Gangs, file_system: FileSystem, thread_pool: ThreadPool
    ) -> None:
        """
        :param directory: Holds a directory per checkpoint.
        :param gangs: The ranks of the run.
        :param file_system: The host's.
        :param thread_pool: Writes while the training goes on.
        """
        self._directory = directory
        self._gangs = gangs
        self._dumper = StateFileDumper()
        self._step_nr = 0

        self._manager = StandardCheckpointManager(
            directory.parent,
            gangs,
            file_system,
            StateFileLoader(),
            self._dumper,
            SavingThread(thread_pool, self._finish),
            checkpoint_dir=directory,
        )

        self._layout = RankLayout.of_gangs(gangs)
        self._resharding = ReshardingLoader(directory, gangs)

        self._checker = CheckpointChecker(directory, gangs.root, self._manager.get_step_numbers)

    def prepare(self) -> None:
        """Remove what a kill has left half written, and compare the last checkpoint with its checksums.

        :raises InputError: If it is damaged; names the file, and how to go on from the checkpoint before it.
        """
        if self._is_first:
            for leftover in sorted(self._directory.glob("step_*.tmp")):
                log.info("Removing {}, which was not written to its end.", leftover)

                shutil.rmtree(leftover, ignore_errors=True)

        self._exchange(None)

        self._checker.check_last()

    @override
    def save_checkpoint(
        self,
        step_nr: int,
        trainer: Stateful,
        model: Stateful,
        optimizer: Stateful,
        data_reader: Stateful,
        *,
        ready_callback: CheckpointReadyCallback | None = None,
        saved_callback: CheckpointSavedCallback | None = None,
        blocking: bool = False,
    ) -> None:
        parts = (trainer, model, optimizer, data_reader)
        save = partial(self._manager.save_checkpoint, step_nr, *parts)

        self._save(step_nr, save, ready_callback, saved_callback, blocking)

    @override
    def save_model_only(
        self,
        step_nr: int,
        model: Stateful,
        *,
        ready_callback: CheckpointReadyCallback | None = None,
        saved_callback: CheckpointSavedCallback | None = None,
        blocking: bool = False,
    ) -> None:
        save = partial(self._manager.save_model_only, step_nr, model)

        self._save(step_nr, save, ready_callback, saved_callback, blocking)

    def _save(
        self,
        step_nr: int,
        save: Callable[..., None],
        ready_callback: CheckpointReadyCallback | None,
        saved_callback: CheckpointSavedCallback | None,
        blocking: bool,
    ) -> None:
        self.maybe_complete_save_operation(blocking=True)

        self._step_nr = step_nr

        def ready(step_nr: int, _: bool) -> None:
            if ready_callback is not None:
                ready_callback(step_nr, blocking)

        def saved(step_nr: int, _: bool) -> None:
            # The name has to be on the disk before older checkpoints are deleted.
            self._on_first(partial(sync_directory, self._directory))

            if saved_callback is not None:
                saved_callback(step_nr, blocking)

        # Most of what can be wrong with a directory is found here, where all ranks can be told.
        self._on_first(partial(self._tmp_dir(step_nr).mkdir, parents=True, exist_ok=True))

        try:
            # Never as the host's blocking operation, which leaves the other ranks waiting for one that fails.
            save(ready_callback=ready, saved_callback=saved)
        except OperationalError as ex:
            if isinstance(ex.__cause__, OSError):
                self._raise_first([explain_failure(ex)])

            raise

        if blocking:
            self.maybe_complete_save_operation(blocking=True)

    @override
    def maybe_complete_save_operation(self, *, blocking: bool = False) -> bool | None:
        return self._manager.maybe_complete_save_operation(blocking=blocking)

    @property
    @override
    def is_saving(self) -> bool:
        return self._manager.is_saving

    def _finish(self, outcome: Commit | Exception) -> None:
        """Let the host give the checkpoint its name, if the files of all ranks are on the disk."""
        tmp_dir = self._tmp_dir(self._step_nr)

        checksums = {
            file.relative_to(tmp_dir).as_posix(): checksum
            for file, checksum in self._dumper.take_checksums().items()
        }

        failure = explain_failure(outcome) if isinstance(outcome, Exception) else None

        results = self._exchange((failure, checksums))

        try:
            self._raise_first([failure for failure, _ in results])

            self._on_first(partial(self._seal, [checksums for _, checksums in results]))
        except CheckpointSaveError:
            if self._is_first:
                shutil.rmtree(tmp_dir, ignore_errors=True)

            if isinstance(outcome, Exception) and not isinstance(outcome.__cause__, OSError):
                raise outcome from None

            raise

        assert not isinstance(outcome, Exception)

        outcome()

    def _seal(self, parts: Sequence[dict[str, FileChecksum]]) -> None:
        directory = self._tmp_dir(self._step_nr)
        write_checksums(directory, {name: c for part in parts for name, c in part.items()})

        for path in (directory.parent, directory, *directory.rglob("*")):
            if path.is_dir():
                sync_directory(path)

    @override
    def save_score(self, step_nr: int, score: float) -> None:
        self._on_first(partial(self._write_score, step_nr, score))

    def _write_score(self, step_nr: int, score: float) -> None:
        # Where the host looks for it, but never half of it.
        file = self._score_file(step_nr)
        file.parent.mkdir(parents=True, exist_ok=True)

        replace_file(file, f"{score}\n".encode(), durable=True)

    @override
    def load_trainer_state(self, step_nr: int, trainer: Stateful) -> None:
        self._load(step_nr, lambda loader: loader.load_trainer_state(step_nr, trainer))

    @override
    def load_model_state(self, step_nr: int, model: Stateful) -> None:
        self._load(step_nr, lambda loader: loader.load_model_state(step_nr, model))

    @override
    def load_optimizer_state(self, step_nr: int, optimizer: Stateful) -> None:
        self._load(step_nr, lambda loader: loader.load_optimizer_state(step_nr, optimizer))

    @override
    def load_data_reader_state(self, step_nr: int, data_reader: Stateful) -> None:
        # It says what has changed, even if the layout has not.
        self._load(step_nr, lambda _: self._resharding.load_data_reader_state(step_nr, data_reader))

    def _load(
        self, step_nr: int, load: Callable[[CheckpointManager | ReshardingLoader], None]
    ) -> None:
        failure: Exception | None = None
        try:
            is_same = RankLayout.of_checkpoint(self._step_dir(step_nr)) == self._layout
            load(self._manager if is_same else self._resharding)
        except Exception as ex:
            failure = ex

        # All ranks have to take the same way.
        is_damaged = isinstance(failure, DamagedFileError)
        results = self._exchange(None if failure is None else (is_damaged, str(failure)))

        failures = sorted(r for r in results if r is not None)
        if not failures:
            return

        is_damaged, message = failures[0]

        if is_damaged:
            message = f"{message}; {self._checker.offer_earlier(step_nr)}"
        elif failure is not None:
            raise failure

        raise InputError(message) from None

    @override
    def load_scores(self) -> list[tuple[float, int]]:
        try:
            return self._manager.load_scores()
        except CheckpointError as ex:
            raise InputError(
                f"{self._score_file(ex.step_nr)}: holds no number; write the score of step {ex.step_nr} into it, "
                "or remove it."
            ) from None

    @override
    def delete_checkpoint(self, step_nr: int, *, keep_model: bool = False) -> None:
        step_dir, checksums = self._step_dir(step_nr), None

        if self._is_first and keep_model:
            with suppress(DamagedFileError):
                checksums = read_checksums(step_dir)
        elif self._is_first:
            # A deletion that a kill cuts short leaves nothing that looks like a checkpoint.
            with suppress(OSError):
                step_dir.rename(self._tmp_dir(step_nr))

        self._manager.delete_checkpoint(step_nr, keep_model=keep_model)

        if checksums is not None:
            # Without room for its list, the model is still there.
            with suppress(OSError):
                write_checksums(step_dir, {n: c for n, c in checksums.items() if n.startswith("model/")})  # fmt: skip

    @override
    def has_checkpoint(self, *, exclude_model_only: bool = False) -> bool:
        return self._manager.has_checkpoint(exclude_model_only=exclude_model_only)

    @override
    def get_step_numbers(self, *, exclude_model_only: bool = False) -> list[int]:
        return self._manager.get_step_numbers(exclude_model_only=exclude_model_only)

    @override
    def maybe_get_last_step_number(self, *, exclude_model_only: bool = False) -> int | None:
        return self._manager.maybe_get_last_step_number(exclude_model_only=exclude_model_only)

    @override
    def get_stale_step_numbers(
        self,
        keep_last_n: int | None,
        keep_best_n: int | None,
        keep_every_n_steps: int | None,
    ) -> list[int]:
        return self._manager.get_stale_step_numbers(keep_last_n, keep_best_n, keep_every_n_steps)

    @override
    def close(self) -> None:
        self._manager.close()

    @property
    def _is_first(self) -> bool:
        return self._gangs.root.rank == 0

    def _step_dir(self, step_nr: int) -> Path:
        return self._directory / f"step_{step_nr}"

    def _tmp_dir(self, step_nr: int) -> Path:
        return self._directory / f"step_{step_nr}.tmp"

    def _score_file(self, step_nr: int) -> Path:
        return self._directory / "scores" / f"step_{step_nr}.txt"

    def _exchange(self, item: T) -> list[T]:
        return exchange(self._gangs.root, item)

    def _on_first(self, write: Callable[[], None]) -> None:
        failure = None

        if self._is_first:
            try:
                write()
            except OSError as ex:
                failure = explain_failure(ex)

        self._raise_first(self._exchange(failure))

    def _raise_first(self, failures: Sequence[str | None]) -> None:
        failure = next((f for f in failures if f is not None), None)
        if failure is None:
            return

        steps = self._checker.list_resumable()
        where = f"resumes from step {steps[-1]}" if steps else "starts from the beginning"

        raise CheckpointSaveError(f"{failure} and run the same command again, which {where}.")
