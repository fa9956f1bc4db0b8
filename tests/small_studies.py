"""Studies of few jobs, whose results are written as if these had been run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from eqssl_speech.study.planner import Planner
from eqssl_speech.study.study_file import read_study

TUNING: dict[str, Any] = {
    "values": {"optimizer.config.lr": [0.001, 0.01]},
    "num_steps": {"optimizer.config.lr": 150},
}

BASE: dict[str, Any] = {
    "dataset": {"audio_seconds_per_update": 48},
    "regime": {
        "num_steps": 300,
        "validate_every_n_steps": 150,
        "checkpoint_every_n_steps": 50,
        "publish_metrics_every_n_steps": 25,
    },
    "lr_scheduler": {"config": {"num_warmup_steps": 4}},
    "equilibrium": {"num_inner_steps": 1, "inner_lr": 0.03},
}


def write_study(directory: Path, **changes: Any) -> Path:
    """Write a study of two regimes."""
    content = {
        "sources": ["a", "b"],
        "pretraining": {
            "wav2vec2": {"config": "w.yaml"},
            "hubert": {"config": "w.yaml", "labels": []},
        },
        "regimes": {
            "plain": {"settings": {"equilibrium": None}},
            "last-3": {
                "settings": {
                    "equilibrium.num_inner_steps": 3,
                    "equilibrium.start_after_num_steps": 40,
                },
                "tune": {"equilibrium.inner_lr": [0.1, 1.0]},
            },
            "random": {"is_random": True},
        },
        "tuning": TUNING,
        "finetuning": {
            "config": "w.yaml",
            "seen": ["a"],
            "unseen": ["c"],
            "labels": {"few": {"dataset.max_minutes_per_source": 1}},
        },
        "adaptation": {"seen": ["a"], "unseen": ["c"]},
        "cells": [
            {
                "families": ["hubert"],
                "regimes": ["plain", "last-3", "random"],
                "seeds": [1],
                "labels": ["few"],
            }
        ],
    }
    file = directory / "study.yaml"
    YAML(typ="safe", pure=True).dump({**content, **changes}, file)
    YAML(typ="safe", pure=True).dump(BASE, directory / "w.yaml")

    return file


def make_planner(directory: Path, **changes: Any) -> Planner:
    study = read_study(write_study(directory, **changes))

    return Planner(study, directory, directory / "corpus", directory / "out")


def write_loss(directory: Path, job: str, *, step: int = 150, **losses: float) -> Path:
    metrics = directory / "out" / job / "metrics"
    (metrics / "valid").mkdir(parents=True)

    for name in ("valid", "valid/a"):
        (metrics / f"{name}.jsonl").write_text(json.dumps({"Step": step, **losses}) + "\n")

    return metrics
