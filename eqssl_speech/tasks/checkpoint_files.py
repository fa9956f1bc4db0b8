"""How the states of a run get into files and out of them: with checksums, and without running code."""

from __future__ import annotations

import errno
import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from pickle import PickleError, UnpicklingError
from types import SimpleNamespace
from typing import Any, Final, ParamSpec, TypeAlias, TypeVar, cast, final

import torch
from fairseq2.error import OperationalError
from fairseq2.io import (
    DataNotPicklableError,
    TensorFileDumper,
    TensorFileDumpOptions,
    TensorFileLoader,
    TensorFileLoadOptions,
)
from fairseq2.utils.threading import Action, ThreadPool
from typing_extensions import override

from eqssl_speech.models.checksums import ChecksumWriter, DamagedFileError, FileChecksum

P = ParamSpec("P")
R = TypeVar("R")

Commit: TypeAlias = Callable[[], None]
"""What gives a checkpoint its name."""

_OLD_GLOBALS: Final = {("collections", "OrderedDict"), ("torch._utils", "_rebuild_tensor_v2")}
"""All that a state of an older version holds besides numbers, text, lists, dictionaries and kinds of tensors."""


@final
class StateFileDumper(TensorFileDumper):
    """Writes states so that they are on the disk when it returns, and remembers their checksums."""

    def __init__(self) -> None:
        self._checksums: dict[Path, FileChecksum] = {}

    @override
    def dump(
        self, data: Mapping[str, object], file: Path, options: TensorFileDumpOptions | None = None
    ) -> None:
        """
        :param options: Ignored: of the pickle protocols, only 2 can be read without running code.
        :raises OSError: If the file cannot be written; its beginning is removed, as it may have filled the disk.
        """
        try:
            with file.open("wb") as stream:
                self._checksums[file] = _save(data, ChecksumWriter(stream))
        except OSError as ex:
            file.unlink(missing_ok=True)

            raise OSError(ex.errno, ex.strerror, str(file)) from None

    def take_checksums(self) -> dict[Path, FileChecksum]:
        """Return the checksums of the files written since the last call."""
        checksums, self._checksums = self._checksums, {}

        return checksums


@final
class StateFileLoader(TensorFileLoader):
    """Reads states without running code, whatever is asked for."""

    @override
    def load(self, file: Path, options: TensorFileLoadOptions | None = None) -> dict[str, object]:
        """
        :param options: Ignored but for where tensors go.
        :raises DamagedFileError: If the file is missing, damaged, or holds more than data.
        """
        map_location = "cpu" if options is None else options.map_location

        try:
            with file.open("rb"):
                pass
        except FileNotFoundError:
            raise DamagedFileError(f"{file}: is missing") from None
        except OSError as ex:
            raise DamagedFileError(f"{file}: cannot be read ({ex.strerror})") from None

        try:
            state = _load(file, map_location)
        except Exception as ex:  # Damaged bytes can raise anything.
            raise DamagedFileError(f"{file}: {_explain(ex)}") from None

        if not isinstance(state, dict):
            raise DamagedFileError(f"{file}: holds no state of a run")

        return state


@final
class SavingThread(ThreadPool):
    """Has the host's files written in another thread, where nothing gets lost that goes wrong."""

    def __init__(self, pool: ThreadPool, finish: Callable[[Commit | Exception], None]) -> None:
        """
        :param pool: Has the thread.
        :param finish: Called in the host's thread at the time of its commit, with that or with what went wrong.
        """
        self._pool = pool
        self._finish = finish

    @override
    def queue(self, callback: Action[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        def write() -> Commit:
            outcome: Commit | Exception

            try:
                outcome = cast(Commit, callback(*args, **kwargs))
            except Exception as ex:
                outcome = ex

            return lambda: self._finish(outcome)

        return cast("Future[R]", self._pool.queue(write))


def explain_failure(ex: Exception) -> str:
    """Say what could not be written, and what to do before the run is started again.

    :param ex: An error of the system, or the host's that comes of one.
    """
    cause = ex.__cause__ if isinstance(ex, OperationalError) else ex

    if not isinstance(cause, OSError):
        return f"The checkpoint cannot be written ({cause or ex}); mend that"

    remedy = "free space" if cause.errno in (errno.ENOSPC, errno.EDQUOT) else "mend that"

    return f"{cause.filename or 'The checkpoint'}: cannot be written ({cause.strerror}); {remedy}"


def _save(data: Mapping[str, object], writer: ChecksumWriter) -> FileChecksum:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*Please use DTensor instead.*")

            torch.save(data, writer, pickle_protocol=2)  # type: ignore[arg-type]
    except (RuntimeError, PickleError) as ex:
        if writer.error is not None:
            raise writer.error from None

        raise DataNotPicklableError() from ex

    return writer.finish()


def _load(file: Path, map_location: Any) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # What it would say is said below.

            return torch.load(file, map_location, weights_only=True)
    except UnpicklingError as ex:
        # Older versions wrote another pickle protocol.
        if "Unsupported operand" not in str(ex):
            raise

    return _load_old(file, map_location)


def _load_old(file: Path, map_location: Any) -> object:
    # Not an archive of a program, which would be handed to another reader: `weights_only` has refused those.
    module = SimpleNamespace(__name__=__name__, Unpickler=_OldUnpickler)

    return torch.load(file, map_location, pickle_module=module, weights_only=False)


class _OldUnpickler(pickle.Unpickler):
    @override
    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) not in _OLD_GLOBALS:
            raise UnpicklingError(f"Unsupported global: GLOBAL {module_name}.{global_name}")

        return super().find_class(module_name, global_name)


def _explain(ex: Exception) -> str:
    if isinstance(ex, UnpicklingError) and re.search("Unsupported|GLOBAL|blocked", str(ex)):
        match = re.search(r"GLOBAL ([\w.]+)", str(ex))
        what = f"`{match[1]}`" if match else "more than data"

        return f"holds {what}, and reading that could run code of the file"

    return "is damaged, or not a file of a checkpoint"
