"""Model cards: their numbers are those of the run, and the code in them works."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from described_runs import EVALUATION, make_finetuning, make_pretraining, write_evaluation
from recipe_runs import SAMPLE
from ruamel.yaml import YAML

from eqssl_speech.error import InputError
from eqssl_speech.export import TARGETS, Target
from eqssl_speech.export.job import export_model
from eqssl_speech.export.loading import load_export_source
from eqssl_speech.export.parity import read_recordings
from eqssl_speech.models.origin import write_origin
from eqssl_speech.report.evaluation_facts import read_evaluation


def export_card(
    run: Path, out: Path, target: Target = "hf", **kwargs: Any
) -> tuple[dict[str, Any], str]:
    """Export a run, and return the metadata and the text of its card."""
    export_model(load_export_source(run), target, out, read_recordings(None, 16_000)[:1], **kwargs)

    _, metadata, text = (out / "README.md").read_text().split("---\n", 2)

    return dict(YAML(typ="safe", pure=True).load(metadata)), text


def test_a_card_has_the_numbers_of_the_run(tmp_path: Path) -> None:
    run = make_pretraining(tmp_path / "first", pretrained="/home/me/models/xls-r-300m")

    metadata, text = export_card(run, tmp_path / "my-model")

    assert metadata["language"] == ["cs", "ru"]
    assert metadata["library_name"] == "transformers"
    assert metadata["pipeline_tag"] == "feature-extraction"
    assert "wav2vec2" in metadata["tags"]

    assert text.startswith("\n# my-model\n")
    assert "of step 500 of the run `first`" in text
    assert "2 gradient step(s) from the model" in text
    assert "`inner_lr` 0.04, outer weights `uniform`, order `first`." in text
    assert (
        "500 of 1000 updates, 2.00 hours of audio with repeats; an update has at most 48 s" in text
    )
    assert "`adamw`, learning rate 0.0015, schedule `polynomial_decay`, seed 7" in text
    assert "It started from `xls-r-300m`." in text
    assert "/home" not in text

    # The run has gone half-way through what it was to go through.
    assert (
        "| ru-festvox | ru | reading | 1.25 | 321 | 50.0 % | 4.75 | BSD-like \\| festvox |" in text
    )

    # The last validation before the checkpoint.
    assert "step 450:" in text
    assert "| cs-fillets | 4.625 | 4.375 |" in text
    assert "| ru-festvox | 4.750 | 4.500 |" in text
    assert "| macro average | 4.500 | 4.250 |" in text

    assert "- GPL-2+: cs-fillets\n" in text
    assert re.search(r"\| alone \| [0-9.]+ \| [0-9.]+e[+-][0-9]+ \|", text)


def test_a_conventional_run_is_said_to_be_one(tmp_path: Path) -> None:
    _, text = export_card(make_pretraining(tmp_path / "run", equilibrium=None), tmp_path / "out")

    assert "Conventional training" in text
    assert "started from random weights" in text
    assert "Equilibrium" not in text


def test_the_method_may_be_a_component_around_the_optimizer(tmp_path: Path) -> None:
    config = {
        "num_inner_steps": 3,
        "inner_lr": 0.5,
        "outer_weights": "last",
        "order": "first",
        "normalize_inner_grad": True,
        "base": {"name": "sgd", "config": {"lr": 0.25}},
    }
    optimizer = {"name": "equilibrium", "config": config}

    run = make_pretraining(tmp_path / "run", equilibrium=None, optimizer=optimizer)

    _, text = export_card(run, tmp_path / "out")

    assert "3 gradient step(s)" in text
    assert (
        "`inner_lr` 0.5, outer weights `last`, order `first`, `normalize_inner_grad` True." in text
    )
    assert "Optimizer `sgd`, learning rate 0.25" in text


@pytest.mark.parametrize(
    ("start", "words"), [(100, "after 100 updates of conv"), (500, "Conventional")]
)
def test_what_comes_before_the_method_is_said(tmp_path: Path, start: int, words: str) -> None:
    section = {"num_inner_steps": 1, "inner_lr": 0.1, "start_after_num_steps": start}

    run = make_pretraining(tmp_path / "run", equilibrium=section)

    assert words in export_card(run, tmp_path / "out")[1]


def test_the_card_of_a_recogniser_tells_of_its_pre_training_and_evaluations(tmp_path: Path) -> None:
    first = make_pretraining(tmp_path / "first")
    run = make_finetuning(
        tmp_path / "second", pretrained=str(first), weighting={"method": "ctc_dro"}
    )
    write_origin(run, str(first))  # Where checkpoints are, it stands.
    assert not (run / "origin.json").exists()
    (run / "origin.json").write_text(json.dumps({"name": "first", "path": str(first), "step": 500}))
    write_evaluation(tmp_path / "evaluation")

    metadata, text = export_card(
        run, tmp_path / "out", evaluations=[read_evaluation(tmp_path / "evaluation")]
    )

    assert metadata["pipeline_tag"] == "automatic-speech-recognition"
    assert metadata["language"] == ["ru"]
    (result,) = metadata["model-index"][0]["results"]
    assert result["dataset"] == {"name": "fleurs (ru)", "type": "fleurs", "split": "test"}
    assert {m["type"]: m["value"] for m in result["metrics"]} == {"cer": 12.35, "wer": 50.0}

    assert "weighted by `ctc_dro`" in text
    assert "It started from step 500 of `first` (below)." in text
    assert text.index("## Fine-tuning: `second`") < text.index(
        "## Pre-training (wav2vec 2.0): `first`"
    )
    assert "| ru-festvox | 32.0 | 1.625 |" in text
    assert "| macro average | 31.0 | 1.500 |" in text
    assert "| ru | 41 | 1.5 | 12.3 (10.0 to 15.0) | 50.0 |" in text
    assert "/somewhere" not in text
    assert "- GPL-2+: cs-fillets\n" in text
    assert "is not known here" not in text


def test_a_run_that_has_gone_elsewhere_is_named_only(tmp_path: Path) -> None:
    first = make_pretraining(tmp_path / "first")
    run = make_finetuning(tmp_path / "second")
    (run / "origin.json").write_text(json.dumps({"name": "first", "path": str(first), "step": 400}))

    _, text = export_card(run, tmp_path / "out")

    assert "It started from `first`." in text
    assert "What `first`, from which this started, was trained on is not known here" in text


def test_runs_that_say_to_have_started_from_each_other_are_an_end(tmp_path: Path) -> None:
    first, second = (make_pretraining(tmp_path / name) for name in ("first", "second"))
    for run, other in ((first, second), (second, first)):
        origin = {"name": other.name, "path": str(other), "step": 500}
        (run / "origin.json").write_text(json.dumps(origin))

    assert "It started from `first`." in export_card(first, tmp_path / "out")[1]


@pytest.mark.parametrize("key", ["name", "path"])
def test_a_model_that_the_host_has_loaded_is_named(tmp_path: Path, key: str) -> None:
    run = make_pretraining(tmp_path / "run", model={key: "/models/wav2vec2_base"})

    assert "It started from `wav2vec2_base`." in export_card(run, tmp_path / "out")[1]


def test_a_source_that_is_being_validated_again_has_its_line(tmp_path: Path) -> None:
    run = make_pretraining(tmp_path / "run")
    with (run / "metrics" / "valid" / "cs-fillets.jsonl").open("w") as file:
        file.write(json.dumps({"Step": 450, "plain_loss": 4.625}) + "\n")
        file.write(json.dumps({"Step": 500, "plain_loss": 1.0}) + "\n")

    _, text = export_card(run, tmp_path / "out")

    assert "step 450:" in text
    assert "| cs-fillets | 4.625 |" in text


@pytest.mark.parametrize(
    ("model", "is_finetuning"),
    [
        ("runs/second, step 400", True),
        ("runs/third, step 500", True),
        ("runs/second, step 500", False),
    ],
    ids=["step", "run", "encoder"],
)
def test_an_evaluation_of_another_model_is_refused(
    tmp_path: Path, model: str, is_finetuning: bool
) -> None:
    run = (make_finetuning if is_finetuning else make_pretraining)(tmp_path / "second")
    write_evaluation(tmp_path / "evaluation", model=model)

    with pytest.raises(
        InputError, match=f"is an evaluation of {model}, and this is .*second, step"
    ):
        export_card(run, tmp_path / "out", evaluations=[read_evaluation(tmp_path / "evaluation")])

    assert not (tmp_path / "out").exists()


def test_a_damaged_file_of_the_run_is_named_before_anything_is_computed(tmp_path: Path) -> None:
    run = make_pretraining(tmp_path / "run")
    (run / "sources.json").write_text("[{}]")

    with pytest.raises(InputError, match=r"sources\.json: cannot be read as a list of sources"):
        export_card(run, tmp_path / "out")


def test_a_recogniser_from_a_hubert_is_called_so(tmp_path: Path) -> None:
    run = make_finetuning(tmp_path / "run", encoder_type="hubert")

    metadata, text = export_card(run, tmp_path / "out")

    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == [
        "HubertForCTC"
    ]
    assert "hubert" in metadata["tags"]
    assert "A HuBERT speech recogniser (CTC)" in text


def test_without_its_run_a_model_has_a_card_too(tmp_path: Path) -> None:
    run = make_pretraining(tmp_path / "run")
    export_card(run, tmp_path / "first")

    metadata, text = export_card(tmp_path / "first", tmp_path / "second")

    assert "language" not in metadata
    assert "It was converted from first;" in text


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        json.dumps(EVALUATION | {"format_version": 2}),
        json.dumps(EVALUATION | {"languages": {"ru": {"utterances": 1}}}),
        json.dumps(EVALUATION).replace("0.123456", "null"),
    ],
)
def test_what_is_no_evaluation_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "summary.json").write_text(content)

    with pytest.raises(InputError, match=r"summary\.json: cannot be read as an evaluation"):
        read_evaluation(tmp_path)


@pytest.mark.parametrize(
    "is_recognizer",
    [
        pytest.param(False, marks=pytest.mark.slow, id="encoder"),
        pytest.param(True, id="recogniser"),
    ],
)
@pytest.mark.parametrize("target", TARGETS)
def test_the_code_in_a_card_runs(tmp_path: Path, target: Target, is_recognizer: bool) -> None:
    run = (make_finetuning if is_recognizer else make_pretraining)(tmp_path / "run")
    directory = tmp_path / "here"
    directory.mkdir()

    _, text = export_card(run, directory / "mine", target)

    recording = next(SAMPLE.rglob("*.flac"), None) or next(SAMPLE.rglob("*.ogg"))
    waveform, sample_rate = soundfile.read(recording, dtype="float32")
    assert (sample_rate, waveform.ndim) == (16_000, 1)
    soundfile.write(directory / "speech.flac", np.asarray(waveform), sample_rate)

    snippets = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(snippets) == (2 if target == "onnx" and is_recognizer else 1)

    # Makes libsndfile findable on machines that have none.
    program = "\n".join(["import eqssl_speech", *snippets])

    output = subprocess.run(
        [sys.executable, "-c", program],
        cwd=directory,
        env={
            "FAIRSEQ2_ASSET_DIR": str(directory),
            "PATH": "",
            "HF_HUB_OFFLINE": "1",
            "HOME": str(tmp_path),
        },
        capture_output=True,
        text=True,
        check=False,
    )

    assert output.returncode == 0, output.stderr
