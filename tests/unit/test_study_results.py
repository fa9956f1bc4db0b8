"""What a study has come to is gathered by family and way of counting."""

from __future__ import annotations

from pathlib import Path

from ruamel.yaml import YAML

from eqssl_speech.study.planner import Planner
from eqssl_speech.study.results import write_results
from eqssl_speech.study.state import Attempt, StudyState
from eqssl_speech.study.study_file import read_study


def write_study(directory: Path) -> Path:
    file = directory / "study.yaml"
    content = {
        "sources": ["a"],
        "pretraining": {"wav2vec2": {"config": "w.yaml"}},
        "regimes": {"plain": {"settings": {"equilibrium": None}}, "last-1": {}},
        "cells": [
            {"families": ["wav2vec2"], "regimes": ["plain", "last-1"], "seeds": [1]},
            {
                "families": ["wav2vec2"],
                "regimes": ["last-1"],
                "seeds": [1],
                "counting": "updates",
            },
        ],
    }
    YAML(typ="safe", pure=True).dump(content, file)
    YAML(typ="safe", pure=True).dump(
        {
            "dataset": {"audio_seconds_per_update": 48},
            "regime": {"num_steps": 300},
            "equilibrium": {"num_inner_steps": 1},
        },
        directory / "w.yaml",
    )

    return file


def test_a_way_of_counting_is_there_once_it_says_something_else(tmp_path: Path) -> None:
    study = read_study(write_study(tmp_path))
    corpus, out = tmp_path / "corpus", tmp_path / "out"
    planner, state = Planner(study, tmp_path, corpus, out), StudyState(tmp_path, corpus, out)
    jobs = {job.name: job for job in planner.list_jobs()}
    rows = {}

    for name in ("plain/audio", "last-1/audio", "last-1/updates"):
        job = jobs[f"pretrain/wav2vec2/{name}/seed-1"]
        state.find(job.name, "log").parent.mkdir(parents=True)
        metrics = out / job.name / "metrics"
        metrics.mkdir(parents=True)
        for split in ("train", "valid"):
            (metrics / f"{split}.jsonl").write_text('{"Step": 300, "plain_loss": 4.0}\n')
        state.begin(job, job.make_command())
        state.add_attempt(job, Attempt(commit=None, status=0, wall_s=60.0))
        state.finish(job, 0)

        groups = write_results(study, planner, state, out)["groups"]
        rows[name] = {group["counting"]: set(group["pretraining"]) for group in groups}

    assert rows == {
        "plain/audio": {"audio": {"plain"}},
        "last-1/audio": {"audio": {"plain", "last-1"}},
        "last-1/updates": {"audio": {"plain", "last-1"}, "updates": {"plain", "last-1"}},
    }
