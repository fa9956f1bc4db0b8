"""SIGTERM and SIGUSR1, with which a cluster asks a run to end: received here, heeded between two steps."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from signal import Signals
from types import FrameType
from typing import Any, Final, final

STOPPED: Final = 75
"""The exit status of a run that was asked to stop and can go on: ``EX_TEMPFAIL`` of sysexits.h, "try again later"."""

STOP_SIGNALS: Final = (Signals.SIGTERM, Signals.SIGUSR1)
"""What ends a run in order: a cluster's end, and its warning before the end."""


class _Phase(Enum):
    STARTING = 0
    RUNNING = 1
    ENDED = 2


@final
class StopRequest:
    """The first signal that asked this process to stop, if one has.

    Before the first step there is nothing to lose, so the process ends at once; afterwards the signal is only kept, for
    the trainer to look at. Nothing is logged here: a handler may run in the middle of another line of the log.
    """

    def __init__(self) -> None:
        self.received: Signals | None = None
        """The signal."""

        self.obeyed = False
        """Whether the run was ended for it, or for that of another rank."""

        self._phase = _Phase.STARTING
        self._originals: dict[Signals, Any] = {}

    def install(self) -> None:
        """Receive the signals from now on."""
        self._phase = _Phase.STARTING

        for number in STOP_SIGNALS:
            original = signal.signal(number, self._receive)

            self._originals.setdefault(number, original)

    def restore(self) -> None:
        """Give the signals back to whoever had them before :meth:`install`."""
        for number, original in self._originals.items():
            signal.signal(number, original)

        self._originals = {}

    def ignore(self) -> None:
        """Ignore the signals until the process has ended, so that its exit status stands.

        A launcher signals the other processes as soon as the first has ended, and Python gives handlers up early.
        """
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep what is received, for the time of a run; afterwards it means nothing any more."""
        self._phase, self.received, self.obeyed = _Phase.RUNNING, None, False

        # The host has just taken one of them for a handler that logs.
        originals = {number: signal.signal(number, self._receive) for number in STOP_SIGNALS}

        try:
            yield
        finally:
            self._phase = _Phase.ENDED

            for number, original in originals.items():
                signal.signal(number, original)

    def add(self, number: Signals) -> None:
        """Take a request that came another way."""
        if self._phase is _Phase.RUNNING and self.received is None:
            self.received = number

    def _receive(self, number: int, frame: FrameType | None) -> None:
        name = Signals(number).name

        if self._phase is _Phase.STARTING:
            _say(f"eqssl: {name}: stopped before the first step; the same command goes on.\n")

            os._exit(STOPPED)

        if self._phase is _Phase.RUNNING and self.received is None:
            self.received = Signals(number)

            _say(f"eqssl: {name}: stopping after this step, with a checkpoint.\n")


stop_request: Final = StopRequest()
"""That of this process; signals belong to the process."""


def _say(line: str) -> None:
    # Not through a buffered stream, which may be in use just now.
    os.write(2, line.encode())
