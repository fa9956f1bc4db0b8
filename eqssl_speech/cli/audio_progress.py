"""A progress bar over audio: how many recordings and how much audio is done, and the time left."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import final

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


@final
class AudioProgress:
    """Shows a bar whose length is seconds of audio."""

    def __init__(
        self, progress: Progress, bar: TaskID, num_recordings: int, audio_s: float
    ) -> None:
        self._progress = progress
        self._bar = bar
        self._num_recordings = num_recordings
        self._audio_s = audio_s
        self._num_done = 0
        self._done_s = 0.0

    def advance(self, audio_s: float) -> None:
        """Tell that so many more seconds of audio are done."""
        self._done_s += audio_s

        self._show()

    def finish_recording(self) -> None:
        """Tell that one more recording is done."""
        self._num_done += 1

        self._show()

    def _show(self) -> None:
        done = f"{format_duration(self._done_s)}/{format_duration(self._audio_s)} of audio"

        self._progress.update(
            self._bar,
            description=f"{self._num_done}/{self._num_recordings} recordings",
            completed=self._done_s,
            audio=done,
        )


@contextmanager
def show_audio_progress(num_recordings: int, audio_s: float) -> Iterator[AudioProgress]:
    """Show progress on the error stream, so that what is printed can be piped.

    :param num_recordings: The recordings in all.
    :param audio_s: Their length together, in seconds.
    """
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[audio]}"),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        # Otherwise what is printed would go to the terminal, even if it is to go to a file.
        redirect_stdout=sys.stdout.isatty(),
    )

    with progress:
        bar = progress.add_task("", total=max(audio_s, 1e-3), audio="")

        shown = AudioProgress(progress, bar, num_recordings, audio_s)
        shown.advance(0.0)

        yield shown


def format_duration(duration_s: float) -> str:
    """Return hours, minutes and seconds, as ``1:02:03``."""
    return str(timedelta(seconds=round(duration_s)))
