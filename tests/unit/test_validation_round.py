"""What a validation of all sources says of a model that emits nothing."""

from __future__ import annotations

from typing import Any

import pytest

from eqssl_speech.tasks.errors import BlankOutputError
from eqssl_speech.tasks.finetune import valid_unit
from eqssl_speech.tasks.finetune.valid_unit import CtcValidationRound

ROW = {"ctc_loss": 3.0, "wer": 100.0, "cer": 100.0, "length_ratio": 0.0}


class Recorder:
    def record_metric_values(self, category: str, values: object, step_nr: int) -> None:
        pass


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []

    monkeypatch.setattr(valid_unit.log, "warning", lambda message, *args: found.append(message))

    return found


def create_round(*, stop_on_blanks: bool) -> CtcValidationRound:
    recorder: Any = Recorder()

    return CtcValidationRound(
        ["a"], recorder, lambda rows, step_nr: "Only blanks: go on.", stop_on_blanks=stop_on_blanks
    )


def test_blanks_are_explained_and_the_run_goes_on(warnings: list[str]) -> None:
    assert create_round(stop_on_blanks=False).add("a", 4, ROW) == 100.0
    assert warnings == ["Only blanks: go on."]


def test_a_run_that_stops_on_blanks_says_once_that_it_does_and_by_which_setting(
    warnings: list[str],
) -> None:
    with pytest.raises(BlankOutputError, match=r"^The run stops here"):  # fmt: skip
        create_round(stop_on_blanks=True).add("a", 4, ROW)

    assert warnings == []
