"""A run is told that its model emits blanks only, when, and why that may be."""

from __future__ import annotations

import math
import re

import pytest

from eqssl_speech.tasks.finetune.blanks import BlankDetector, TrainingState


def state(step_nr: int = 900, **kwargs: float) -> TrainingState:
    values: dict[str, float] = {
        "num_encoder_frozen_steps": 0,
        "unigram_loss": 2.9,
        "labels_per_frame": 0.3,
    }

    return TrainingState(step_nr=step_nr, **(values | kwargs))  # type: ignore[arg-type]


def rows(*losses: float, length_ratio: float = 0.0) -> dict[str, dict[str, float]]:
    return {
        f"source-{i}": {"ctc_loss": loss, "length_ratio": length_ratio}
        for i, loss in enumerate(losses)
    }


def test_is_silent_until_the_given_validation_in_a_row() -> None:
    detector = BlankDetector(3)

    said = [detector.observe(rows(3.1, 3.3), state(n)) for n in (100, 200, 300, 400)]

    assert said[:2] == [None, None]
    assert said[2] is not None
    assert "the last 3 validations (step 300)" in said[2]
    assert said[3] is not None
    assert "the last 4 validations (step 400)" in said[3]


def test_one_source_that_emits_starts_the_count_anew() -> None:
    detector = BlankDetector(2)

    assert detector.observe(rows(3.0, 3.0), state()) is None
    assert detector.observe(rows(3.0) | {"other": {"ctc_loss": 2.0, "length_ratio": 0.4}}, state()) is None  # fmt: skip
    assert detector.observe(rows(3.0, 3.0), state()) is None
    assert detector.observe(rows(3.0, 3.0), state()) is not None


@pytest.mark.parametrize(
    ("losses", "kwargs", "reason"),
    [
        ((3.2, 3.0), {}, "still falling: go on"),
        ((2.95, 2.94), {}, "Label frequencies alone give 2.900.*`eqssl check --ctc`"),
        ((6.0, 5.99), {}, "above 2.900.*raise the learning rate"),
        ((6.0, 5.99), {"num_encoder_frozen_steps": 1000}, "frozen until step 1000.*lower"),
        ((3.2, 3.0), {"labels_per_frame": 0.9}, "0.90 labels a frame.*--kind unigram"),
        ((3.2, math.nan), {"labels_per_frame": 0.9}, "has diverged: lower the learning rate"),
    ],
)
def test_names_the_likely_reason(
    losses: tuple[float, float], kwargs: dict[str, float], reason: str
) -> None:
    detector = BlankDetector(2)

    detector.observe(rows(losses[0]), state())
    message = detector.observe(rows(losses[1]), state(**kwargs))

    assert message is not None
    assert f"from {losses[0]:.3f} to {losses[1]:.3f}" in message

    assert re.search(reason, message), message
