"""The time left of a run, on the log line of its training metrics."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from fairseq2.metrics.recorders import MetricRecorder
from typing_extensions import override

from eqssl_speech.tasks.time_left import TIME_LEFT, TimeLeftRecorder, format_time_left


class Kept(MetricRecorder):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, int | None, dict[str, object]]] = []
        self.is_closed = False

    @override
    def record_metric_values(
        self, category: str, values: Mapping[str, object], step_nr: int | None = None
    ) -> None:
        self.rows.append((category, step_nr, dict(values)))

    @override
    def close(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize("first_step_nr", [10, 50])  # Of a new run, and of one that goes on.
def test_time_left_is_that_of_the_pace_of_this_process(first_step_nr: int) -> None:
    kept, times = Kept(), iter([1000.0, 1030.0, 1130.0, 1200.0])
    recorder = TimeLeftRecorder(kept, first_step_nr + 50, clock=lambda: next(times))

    for steps in (0, 10, 20, 50):
        recorder.record_metric_values("train", {"ctc_loss": 1.0 + steps}, first_step_nr + steps)

    # 3 s an update, then 6.5 s on average.
    assert [row.get("time_left") for _, _, row in kept.rows] == [
        None,
        pytest.approx(40 * 3.0),
        pytest.approx(30 * 6.5),
        0.0,
    ]
    assert [row["ctc_loss"] for _, _, row in kept.rows] == [1.0, 11.0, 21.0, 51.0]


def test_other_metrics_are_passed_on_as_they_are() -> None:
    kept = Kept()
    recorder = TimeLeftRecorder(kept, 100)

    recorder.record_metric_values("train", {}, 10)
    for category, step_nr in (("valid", 20), ("train/de", 20), ("train", None), ("train", 10)):
        recorder.record_metric_values(category, {"cer": 7.0}, step_nr)

    assert kept.rows[1:] == [
        ("valid", 20, {"cer": 7.0}),
        ("train/de", 20, {"cer": 7.0}),
        ("train", None, {"cer": 7.0}),
        ("train", 10, {"cer": 7.0}),
    ]

    recorder.close()
    assert kept.is_closed


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.0, "0s"),
        (59.4, "59s"),
        (59.6, "1m"),
        (725.0, "12m"),
        (3599.0, "1h00m"),
        (7500, "2h05m"),
        (100_000.0, "27h47m"),
    ],
)
def test_time_is_shown_in_the_unit_that_matters(seconds: float, shown: str) -> None:
    assert format_time_left(seconds) == TIME_LEFT.formatter(seconds) == shown
