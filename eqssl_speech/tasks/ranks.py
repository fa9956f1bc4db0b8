"""What the ranks of a run tell one another, the launcher and the user when one of them ends before the others."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Final, final

from fairseq2.gang import GangError
from torch.distributed import DistError, PrefixStore, TCPStore

_ANSWER_S: Final = 3.0
"""How long ranks that lost contact wait for one another's answer."""

_EXIT_S: Final = 30
"""How long a process may take to end once it has failed: until then, the others wait for it."""


class LostContactError(Exception):
    """Raised from what a rank meets that another one has left, with the number of the step."""

    def __init__(self, step_nr: int) -> None:
        """
        :param step_nr: The step that could not be made.
        """
        super().__init__(f"Lost contact to another process at step {step_nr}.")

        self.step_nr = step_nr


def is_lost_contact(ex: BaseException) -> bool:
    """Return whether an exception comes of communication with another rank."""
    return any(
        isinstance(e, (GangError, DistError))
        # Gloo has no class of its own.
        or (isinstance(e, RuntimeError) and "/gloo/transport/" in str(e))
        for e in _list_causes(ex)
    )


def explain_lost_contact(ex: BaseException) -> str:
    """Find out with the other ranks which one has left, and say so in a sentence.

    :param ex: Of which :func:`is_lost_contact` is true.
    """
    *_, cause = _list_causes(ex)

    steps = [e.step_nr for e in _list_causes(ex) if isinstance(e, LostContactError)]
    when = f"at step {steps[0]}" if steps else "during start-up"
    what = str(cause).partition("\n")[0].rpartition("] ")[2] or type(cause).__name__

    rank = _get_rank()
    who, spokesman = _ask_others()

    message = (
        f"Lost contact with another process {when} ({what}): {who}. Once the reason is gone, the same command goes on "
        "from the last checkpoint."
    )

    if rank == spokesman != 0:  # The first rank, whose log is on the terminal, has gone.
        sys.stderr.write(f"eqssl: rank {rank}: {message}\n")

    return message


def report_failure(ex: BaseException, status: int) -> None:
    """Tell the other ranks and the launcher why this one ends, and end for certain.

    :param ex: What the host has logged.
    :param status: The exit status.
    """
    if _get_size() == 1:
        return

    # Whatever still runs or waits: the others hang until the sockets of this process are closed.
    signal.alarm(_EXIT_S)

    if is_lost_contact(ex):
        return

    *_, cause = _list_causes(ex)

    with suppress(DistError):
        _Board.open().write("failed", f"{type(cause).__name__}: {' '.join(str(cause).split())}")

    if status == 2:  # The user's to mend, and said in a sentence.
        write_for_launcher(str(ex))
    else:
        write_for_launcher("".join(traceback.format_exception(type(ex), ex, ex.__traceback__)))


def write_for_launcher(message: str) -> None:
    """Have torchrun's summary say why this process ended.

    :param message: Stands where torchrun would say that it knows no reason.
    """
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not file:
        return

    # The format of torch.distributed.elastic.multiprocessing.errors, which shows what it takes for a traceback.
    extra = {"py_callstack": message, "timestamp": str(int(time.time()))}

    Path(file).write_text(json.dumps({"message": {"message": message, "extraInfo": extra}}))


def _list_causes(ex: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = ex

    while cause is not None:
        yield cause

        cause = cause.__cause__


def _get_rank() -> int:
    return int(os.environ.get("RANK", 0))


def _get_size() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def _ask_others() -> tuple[str, int]:
    """Return which rank has left and why, and the lowest of those that are there."""
    try:
        board = _Board.open()

        board.write("there", "")

        # Even if the answer is known at once: a launcher takes the first process that ends for the one that failed.
        time.sleep(_ANSWER_S)

        failed, there = board.read("failed"), board.read("there")
    except DistError:
        return "most likely rank 0 has ended, by which the others find one another", _get_rank()

    silent = [rank for rank in range(_get_size()) if rank not in there]

    if failed:
        first, reason = next(iter(failed.items()))

        who = f"rank {first} ended with {reason.rstrip('.')} (see logs/rank_{first}.log)"
    elif silent:
        numbers = ", ".join(str(rank) for rank in silent[:8])
        subject = f"rank {numbers} does" if len(silent) == 1 else f"ranks {numbers} do"

        who = (
            f"{subject} not answer, most likely killed from outside or for want of memory (see the end of "
            f"logs/rank_{silent[0]}.log)"
        )
    else:
        who = "all ranks are still there, so the network between them has failed"

    return who, min(there)


@final
class _Board:
    """A few lines that outlive the rank that wrote them, in the store by which the ranks have found one another."""

    def __init__(self, store: PrefixStore) -> None:
        self._store = store

    @staticmethod
    def open() -> _Board:
        """Join the store.

        :raises DistError: If it is not there.
        """
        store = TCPStore(
            os.environ.get("MASTER_ADDR", "localhost"),
            int(os.environ.get("MASTER_PORT", 0)),
            timeout=timedelta(seconds=_ANSWER_S),
            wait_for_workers=False,
        )

        # Torchrun may have started the processes anew.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")

        return _Board(PrefixStore(f"eqssl_speech/{attempt}", store))

    def write(self, kind: str, text: str) -> None:
        """Write what this rank has to say."""
        self._store.set(f"{kind}/{_get_rank()}", text)

    def read(self, kind: str) -> dict[int, str]:
        """Return what each rank has said."""
        keys = {rank: f"{kind}/{rank}" for rank in range(_get_size())}

        return {
            rank: bytes(self._store.get(key)).decode()
            for rank, key in keys.items()
            if self._store.check([key])
        }
