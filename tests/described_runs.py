"""Runs that say what they were made of and what came of them, and evaluations of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from random_encoders import make_tensors, randomize
from ruamel.yaml import YAML
from written_runs import write_run

from eqssl_speech.models.formats.transformers_config import ModelType
from eqssl_speech.models.opening import make_model
from eqssl_speech.models.wav2vec2.asr import fit_asr_config, micro_asr_config
from eqssl_speech.models.wav2vec2.config import micro_config
from eqssl_speech.tasks.recognizer import save_recognizer
from eqssl_speech.text.languages import make_rules
from eqssl_speech.text.tokenizer import CtcTokenizer
from eqssl_speech.text.tokenizer_info import TrainedSource
from eqssl_speech.text.training import train_tokenizer

LICENCES = {"cs-fillets": "GPL-2+", "ru-festvox": "BSD-like | festvox"}

EVALUATION: dict[str, Any] = {
    "format_version": 1,
    "model": "/somewhere/runs/second, step 500",
    "corpus": "/somewhere/corpora/fleurs",
    "split": "test",
    "decoding": "greedy",
    "languages": {
        "ru": {
            "utterances": 41,
            "audio_s": 90.0,
            "cer": {"value": 0.123456, "low": 0.1, "high": 0.15},
            "wer": {"value": 0.5, "low": None, "high": None},
        }
    },
}


def write_yaml(file: Path, content: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)

    YAML(typ="safe", pure=True).dump(content, file)


def write_lines(file: Path, *rows: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)

    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_facts(run: Path, *, is_finetuning: bool, **settings: Any) -> None:
    """Write what a run says besides its model: 500 of 1,000 updates."""
    # A recogniser is taught fewer languages than its encoder has heard.
    licences = {"ru-festvox": LICENCES["ru-festvox"]} if is_finetuning else LICENCES

    config = {
        "dataset": {"audio_seconds_per_update": 48.0},
        "optimizer": {"name": "adamw", "config": {"lr": 0.0015}},
        "lr_scheduler": {"name": "polynomial_decay"},
        "regime": {"num_steps": 1000},
        "common": {"seed": 7},
        "trainer": {"mixed_precision": {"mode": "off"}},
    }
    write_yaml(run / "config.yaml", config | settings)

    rows = [
        {
            "name": name,
            "language": name[:2],
            "domain": "reading",
            "licence": licence,
            "hours": 1.25,
            "utterances": 321,
            "num_bad": 0,
            "share": 0.5,
            "expected_passes": 9.5,
        }
        for name, licence in licences.items()
    ]
    (run / "sources.json").write_text(json.dumps(rows))

    write_lines(
        run / "metrics" / "train.jsonl",
        {"Step": 400, "total_audio_seconds": 3600.0},
        {"Step": 500, "total_audio_seconds": 7200.0},
        {"Step": 600, "total_audio_seconds": 9999.0},
    )

    for nr, name in enumerate(["valid", *(f"valid/{name}" for name in licences)]):
        if is_finetuning:
            row = {"ctc_loss": 1.5 + nr / 8, "macro_cer" if nr == 0 else "cer": 31.0 + nr}
        else:
            row = {"plain_loss": 4.5 + nr / 8, "adapted_loss": 4.25 + nr / 8}

        # Of these the checkpoint is between.
        write_lines(
            run / "metrics" / f"{name}.jsonl",
            {"Step": 450, **row},
            {"Step": 600, **{key: value + 1.0 for key, value in row.items()}},
        )


def write_evaluation(directory: Path, **changes: Any) -> None:
    directory.mkdir()
    (directory / "summary.json").write_text(json.dumps(EVALUATION | changes))


def make_pretraining(run: Path, **settings: Any) -> Path:
    equilibrium = {
        "num_inner_steps": 2,
        "inner_lr": 0.04,
        "outer_weights": "uniform",
        "order": "first",
    }
    write_run(run, make_tensors(), micro_config())
    write_facts(run, is_finetuning=False, **({"equilibrium": equilibrium} | settings))

    return run


def make_tokenizer() -> CtcTokenizer:
    lines = ["съешь ещё этих мягких булок"] * 4

    return train_tokenizer({TrainedSource("ru", "ru", 4): lines}, {"ru": make_rules("ru")})


def make_finetuning(run: Path, encoder_type: ModelType = "wav2vec2", **settings: Any) -> Path:
    tokenizer = make_tokenizer()
    config = fit_asr_config(micro_asr_config(), micro_config().encoder_config, tokenizer.vocab_size)
    tensors = randomize(dict(make_model("wav2vec2_asr", config).state_dict()), seed=3)
    write_run(run, tensors, config, family="wav2vec2_asr")
    save_recognizer(
        run, tokenizer, sources=[("ru", "ru")], sample_rate=16_000, encoder_type=encoder_type
    )
    write_facts(run, is_finetuning=True, **settings)

    return run
