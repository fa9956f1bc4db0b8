"""How long a run still takes, on the log line of its training metrics; a progress bar shows it only on a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final, final

from fairseq2.metrics.recorders import MetricDescriptor, MetricRecorder
from typing_extensions import override


def format_time_left(value: object) -> str:
    """Return seconds as ``40s``, ``12m`` or ``2h05m``."""
    seconds = round(float(value))  # type: ignore[arg-type]
    if seconds < 60:
        return f"{seconds}s"

    hours, minutes = divmod(round(seconds / 60), 60)

    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m"


TIME_LEFT: Final = MetricDescriptor("time_left", "time_left", 302, format_time_left)
"""The seconds until the last update."""


@final
class TimeLeftRecorder(MetricRecorder):
    """Adds :data:`TIME_LEFT` to the training metrics from the second time on that they are recorded.

    It is ``regime.num_steps`` at the pace of this process since the first time, validations and checkpoints included;
    what an earlier process did before a resumption does not count. A run that stops early ends before.
    """

    def __init__(
        self,
        recorder: MetricRecorder,
        num_steps: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        :param recorder: Records the values.
        :param num_steps: The updates of the run.
        :param clock: Tells the time, in seconds.
        """
        self._recorder = recorder
        self._num_steps = num_steps
        self._clock = clock
        self._start: tuple[int, float] | None = None

    @override
    def record_metric_values(
        self, category: str, values: Mapping[str, object], step_nr: int | None = None
    ) -> None:
        if category == "train" and step_nr is not None:
            now = self._clock()
            first_step_nr, started_at = self._start = self._start or (step_nr, now)

            if step_nr > first_step_nr:
                step_s = (now - started_at) / (step_nr - first_step_nr)
                values = {**values, TIME_LEFT.name: step_s * max(self._num_steps - step_nr, 0)}

        self._recorder.record_metric_values(category, values, step_nr)

    @override
    def close(self) -> None:
        self._recorder.close()
