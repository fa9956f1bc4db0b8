"""Fine-tuning as a user runs it: it resumes to the last bit, refuses early, and says what it sees."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from recipe_runs import (
    SAMPLE,
    SMALL,
    Run,
    assert_same,
    copy_as_killed,
    require_time_left,
    run_finetune,
    run_pretrain,
)

from eqssl_speech.cli import main
from eqssl_speech.tasks.recognizer import load_recognizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Characters of two sources of the sample."""
    directory = tmp_path_factory.mktemp("tokenizer") / "chars"

    sources = ["--source", "ru-festvox", "--source", "es-drascula"]

    assert main(["tokenizer", str(SAMPLE), str(directory), *sources]) == 0

    return directory


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few steps of pre-training."""
    directory = tmp_path_factory.mktemp("pretrained") / "run"

    run = run_pretrain(
        directory, {"regime.num_steps": 3, "regime.validate_every_n_steps": "null"}, base=SMALL
    )

    assert run.returncode == 0, run.output

    return directory


@pytest.fixture
def finetune(tmp_path: Path, tokenizer: Path) -> Callable[..., Run]:
    def run(name: str, overrides: dict[str, object] | None = None, **kwargs: object) -> Run:
        return run_finetune(tmp_path / name, tokenizer, overrides, **kwargs)  # type: ignore[arg-type]

    return run


def resume_from_step_2(
    finetune: Callable[..., Run], settings: dict[str, object], tmp_path: Path
) -> None:
    settings = settings | {
        "regime.checkpoint_every_n_steps": 2,
        "regime.keep_last_n_checkpoints": "null",
        "regime.keep_best_n_checkpoints": "null",
    }

    whole = finetune("whole", settings)

    assert whole.returncode == 0, whole.output

    copy_as_killed(tmp_path / "whole", tmp_path / "killed")

    again = finetune("killed", settings)

    assert again.returncode == 0, again.output
    assert "Resuming from step 2" in again.output

    for kind in ("model", "optimizer", "data_reader"):
        assert_same(whole.state(kind, 6), again.state(kind, 6), kind)

    for name in ("train", "valid"):
        assert whole.rows(name)[-1]["ctc_loss"] == again.rows(name)[-1]["ctc_loss"]

    names = [r.rows("valid/es-drascula")[-1]["cer"] for r in (whole, again)]

    assert names[0] == names[1]

    require_time_left(whole, again)


def test_run_that_was_killed_ends_bitwise_where_it_would_have_ended(
    finetune: Callable[..., Run], pretrained: Path, tmp_path: Path
) -> None:
    resume_from_step_2(
        finetune, {"pretrained": pretrained, "freeze.num_encoder_steps": 3}, tmp_path
    )


def test_run_with_group_weights_resumes_bitwise(
    finetune: Callable[..., Run], tmp_path: Path
) -> None:
    resume_from_step_2(
        finetune, {"weighting.method": "ctc_dro", "weighting.step_size": 0.01}, tmp_path
    )

    for name in ("whole", "killed"):
        run = Run(0, "", tmp_path / name)
        weights = [
            run.rows(f"train/{s}")[-1]["group_weight"] for s in ("ru-festvox", "es-drascula")
        ]

        assert sum(weights) == pytest.approx(1.0)
        assert weights[0] != pytest.approx(weights[1])


def test_what_is_loaded_is_said_and_frozen_parameters_stay(
    finetune: Callable[..., Run], pretrained: Path
) -> None:
    settings = {
        "pretrained": pretrained,
        "freeze.num_encoder_steps": 3,
        "regime.checkpoint_every_n_steps": 3,
        "regime.publish_metrics_every_n_steps": 3,
        "regime.keep_last_n_checkpoints": "null",
        "regime.keep_best_n_checkpoints": "null",
    }

    run = finetune("out", settings)

    assert run.returncode == 0, run.output
    assert "final_proj" in run.output

    start = Run(0, "", pretrained).state("model", 3)
    half, end = run.state("model", 3), run.state("model", 6)

    for name in half:
        if not name.startswith("encoder"):
            continue

        assert_same(start[name], half[name], name)

        if name.startswith("encoder_frontend.feature_extractor"):
            assert_same(start[name], end[name], name)

    changed = [n for n in half if n.startswith("encoder.") and not half[n].equal(end[n])]

    assert changed


def test_model_of_a_run_recognises(finetune: Callable[..., Run], tokenizer: Path) -> None:
    run = finetune(
        "out",
        {
            "regime.num_steps": 2,
            "regime.validate_every_n_steps": 2,
            "regime.checkpoint_every_n_steps": 2,
        },
    )

    assert run.returncode == 0, run.output

    recognizer = load_recognizer(run.directory)

    assert recognizer.sources == (("ru-festvox", "ru"), ("es-drascula", "es"))
    assert recognizer.receptive_field_samples == 400
    assert recognizer.frame_shift_s == 0.02
    assert (run.directory / "tokenizer" / "tokenizer.model").read_bytes() == (
        tokenizer / "tokenizer.model"
    ).read_bytes()


def test_validations_between_checkpoints_leave_no_score_without_one(
    finetune: Callable[..., Run],
) -> None:
    run = finetune(
        "out", {"regime.validate_every_n_steps": 2, "regime.checkpoint_every_n_steps": 4}
    )

    assert run.returncode == 0, run.output
    assert [row["Step"] for row in run.rows("valid")] == [2, 4, 6]

    checkpoints = run.directory / "checkpoints"

    steps = {path.name for path in checkpoints.glob("step_*")}
    scored = {path.stem for path in (checkpoints / "scores").iterdir()}

    assert scored == steps
    assert steps <= {"step_4", "step_6"}

    load_recognizer(run.directory)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"tokenizer": "null"}, "`tokenizer` is not set.*eqssl tokenizer"),
        ({"dataset.corpus": "null"}, "`dataset.corpus` is not set"),
        (
            {"dataset.sources": "[ru-festvox, es-drasula]"},
            "`es-drasula` is unknown; the known ones.*closest",
        ),
        ({"dataset.sources": "[it-drascula]"}, "does not know the language `it`.*knows.*`es`"),
        ({"pretrained": "/nowhere/run"}, "/nowhere/run"),
        ({"model.family": "wav2vec2"}, "supports 'wav2vec2_asr' only"),
        ({"regime.score_metric": "wer"}, "chosen by 'macro_cer'"),
        ({"model.config_overrides.max_temporal_mask_prob": 0}, "use_masking` to false"),
        ({"model.config_overrides.temporal_mask_span_len": 64}, "temporal_mask_span_len"),
        ({"dataset.train_split": "training"}, "training"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_mistake_is_named_before_anything_is_written(
    finetune: Callable[..., Run], overrides: dict[str, object], message: str
) -> None:
    run = finetune("out", overrides)

    assert run.returncode == 2, run.output
    assert re.search(message, run.output), run.output
    assert not run.directory.exists()


def test_an_encoder_that_is_frozen_to_the_end_is_pointed_out(
    finetune: Callable[..., Run], pretrained: Path
) -> None:
    settings = {
        "pretrained": pretrained,
        "freeze.num_encoder_steps": 9,
        "regime.num_steps": 2,
        "regime.validate_every_n_steps": 2,
    }

    run = finetune("frozen", settings)

    assert run.returncode == 0, run.output
    assert "frozen for 9 updates, but the run has 2" in run.output
