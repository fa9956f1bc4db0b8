"""Fine-tuning on two processes: the validation numbers of one process to the last bit, and the same updates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from recipe_runs import SAMPLE, Run, run_finetune

from eqssl_speech.cli import main

VALUES = ("ctc_loss", "wer", "cer", "blank_share", "length_ratio")

SOURCES = ("ru-festvox", "es-drascula")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tokenizer") / "chars"

    names = [argument for name in SOURCES for argument in ("--source", name)]

    assert main(["tokenizer", str(SAMPLE), str(directory), *names]) == 0

    return directory


def list_validations(run: Run) -> dict[str, list[dict[str, Any]]]:
    return {
        source: [{name: row[name] for name in VALUES} for row in run.rows(f"valid/{source}")]
        for source in SOURCES
    }


@pytest.mark.slow
def test_two_processes_give_the_validation_of_one(
    tmp_path: Path, tokenizer: Path, torchrun: list[str]
) -> None:
    # A learning rate of nearly nothing: both runs validate the same model.
    settings = {
        "regime.num_steps": 2,
        "regime.validate_at_start": "true",
        "regime.validate_every_n_steps": 2,
        "regime.checkpoint_every_n_steps": 2,
        "optimizer.config.lr": 1e-30,
        "validation.max_num_utterances": 7,
    }

    one = run_finetune(tmp_path / "one", tokenizer, settings)
    two = run_finetune(tmp_path / "two", tokenizer, settings, launcher=torchrun)

    assert one.returncode == 0, one.output
    assert two.returncode == 0, two.output

    assert list_validations(one) == list_validations(two)
    assert one.rows("valid")[-1]["macro_cer"] == two.rows("valid")[-1]["macro_cer"]
    assert len(list_validations(one)["es-drascula"]) == 2


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param({}, marks=pytest.mark.slow),
        {"weighting.method": "ctc_dro", "weighting.step_size": 0.01},
    ],
    ids=["average", "ctc_dro"],
)
def test_two_processes_make_the_updates_of_one(
    tmp_path: Path, tokenizer: Path, torchrun: list[str], overrides: dict[str, Any]
) -> None:
    # The larger epsilon keeps AdamW from turning rounding noise into whole steps.
    settings = {"optimizer.config.eps": 0.001, **overrides}

    one = run_finetune(tmp_path / "one", tokenizer, settings)
    two = run_finetune(tmp_path / "two", tokenizer, settings, launcher=torchrun)

    assert one.returncode == 0, one.output
    assert two.returncode == 0, two.output

    ours, theirs = one.state("model", 6), two.state("model", 6)

    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-5, atol=1e-6, msg=name)

    if overrides:
        weights = [[r.rows(f"train/{s}")[-1]["group_weight"] for s in SOURCES] for r in (one, two)]

        assert weights[0][0] != pytest.approx(0.5)

        assert weights[0] == pytest.approx(weights[1], abs=1e-6)
