"""A study from its file to its tables, on the sample; stopped on the way, and gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from recipe_runs import ENV, SAMPLE, SMALL, SMALL_FINETUNE
from ruamel.yaml import YAML

from eqssl_speech.cli import main

_DATA = ("dataset.corpus", "dataset.sources")

_STEPS = {
    "regime.num_steps": 2,
    "regime.validate_every_n_steps": 2,
    "regime.checkpoint_every_n_steps": 2,
    "regime.publish_metrics_every_n_steps": 1,
}


def nest(settings: dict[str, Any]) -> dict[str, Any]:
    """Make the content of a configuration file of settings with dots."""
    content: dict[str, Any] = {}

    for name, value in settings.items():
        *parents, key = name.split(".")
        section = content
        for parent in parents:
            section = section.setdefault(parent, {})
        section[key] = {"true": True, "false": False}.get(value, value)

    return content


def write_study(directory: Path, family: str) -> Path:
    pretrain = {**SMALL, **_STEPS, "lr_scheduler.config.num_warmup_steps": 1}
    finetune = {**SMALL_FINETUNE, **_STEPS}

    for name, settings in (("pretrain", pretrain), ("finetune", finetune)):
        kept = {k: v for k, v in settings.items() if k not in _DATA}
        YAML(typ="safe", pure=True).dump(nest(kept), directory / f"{name}.yaml")

    labels = ["--clusters", "8", "--hours-for-clustering", "0.02"]
    is_small = family == "wav2vec2"

    content = {
        "sources": ["ru-festvox", "es-drascula"],
        "pretraining": {
            "hubert": {
                "config": "pretrain.yaml",
                "labels": labels,
                "start": {"equilibrium": None},
            },
            "wav2vec2": {"config": "pretrain.yaml"},
        },
        "settings": {"model.family": family},
        "baselines": ["plain"],
        "regimes": {
            "plain": {"settings": {"equilibrium": None, "dataset.episodes_per_source": 2}},
            "last-1": {
                "settings": {"equilibrium.num_inner_steps": 1},
                "tune": {"equilibrium.inner_lr": [0.01, 0.1]},
            },
            "random": {"is_random": True},
            **({} if is_small else {"start": {"is_start": True}}),
        },
        "tuning": {"num_steps": {"equilibrium.inner_lr": 2}},
        "finetuning": {
            "config": "finetune.yaml",
            "seen": ["es-drascula"],
            "unseen": [] if is_small else ["it-drascula"],
            "labels": {"few": {"dataset.max_minutes_per_source": 1}},
            "split": "valid",
        },
        "adaptation": {
            "seen": ["es-drascula"],
            "unseen": [] if is_small else ["it-drascula"],
            "arguments": ["--steps", "2", "--batches", "1", "--batch-seconds", "4"],
        },
        **(
            {}
            if is_small
            else {"phones": {"source": "ru-festvox", "layers": [1], "arguments": labels}}
        ),
        "cells": [
            *([] if is_small else [{"families": [family], "regimes": ["start"], "seeds": [1]}]),
            {
                "families": [family],
                "regimes": ["plain", "last-1"] + ["random"] * (not is_small),
                "seeds": [1],
                "labels": ["few"],
            },
        ],
    }
    YAML(typ="safe", pure=True).dump(content, directory / "study.yaml")

    return directory / "study.yaml"


@pytest.mark.parametrize("family", ["wav2vec2", pytest.param("hubert", marks=pytest.mark.slow)])
def test_a_study_is_stopped_and_comes_to_its_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], family: str
) -> None:
    file, out = write_study(tmp_path, family), tmp_path / "out"
    command = ["study", str(file), str(SAMPLE), str(out), "--workers", "2"]

    process = subprocess.Popen([sys.executable, "-m", "eqssl_speech", *command], env=ENV)
    try:
        deadline = time.monotonic() + 300
        while not list(out.glob("state/**/*.json")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        os.kill(process.pid, signal.SIGTERM)

    assert process.wait(timeout=300) == 130

    done = sorted(out.glob("state/**/*.json"))
    times = [path.stat().st_mtime_ns for path in done]
    assert done

    assert main([*command, "--list"]) == 0
    assert capsys.readouterr().out.count("done  ") == len(done)

    assert main(command) == 0

    assert [path.stat().st_mtime_ns for path in done] == times
    output = capsys.readouterr().out
    assert "| last-1 | 1 |" in output
    assert "**CER against plain, few: " in output

    results = json.loads((out / "results.json").read_text())
    (group,) = results["groups"]
    rows = group["finetuning"]["few"]["regimes"]

    if family == "hubert":
        assert set(rows) == {"plain", "last-1", "random"}
        assert set(rows["last-1"]["cer"]) == {"es-drascula", "it-drascula", "seen", "unseen", "all"}
        assert {"seen", "unseen"} <= set(group["adaptation"]["plain"]["0.03"])

    # The rate of one seed is that of its evaluation.
    test = out / "test" / family / "last-1" / "audio" / "seed-1" / "few" / "es-drascula"
    (language,) = json.loads((test / "summary.json").read_text())["languages"].values()
    assert rows["last-1"]["cer"]["es-drascula"]["value"] == pytest.approx(language["cer"]["value"])

    assert len(group["adaptation"]["plain"]["0.03"]["seen"]) == 3
    assert group["pretraining"]["last-1"]["total_audio_seconds"]["mean"] == pytest.approx(24, abs=1)

    assert set(group["adaptation"]) == set(group["pretraining"])

    if family == "hubert":
        # Of one seed, a difference is no more than that.
        phones = group["phones"]
        pnmi = {regime: found["1"]["pnmi"]["mean"] for regime, found in phones.items()}
        assert 0.0 < pnmi["last-1"] < 1.0
        assert phones["last-1"]["1"]["difference"]["plain"]["value"] == pytest.approx(
            pnmi["last-1"] - pnmi["plain"]
        )
        assert set(phones) == set(group["adaptation"])
        assert "start" in phones

        log = (out / f"state/pretrain/{family}/plain/audio/seed-1.log").read_text()
        assert str(out / "start" / family / "seed-1") in log

    # The record says how to make a number again.
    record = json.loads((out / f"state/pretrain/{family}/last-1/audio/seed-1.json").read_text())
    chosen = results["tuning"][0]["chosen"]
    assert f"equilibrium.inner_lr={chosen:g}" in record["command"]
    assert record["attempts"][-1]["commit"]

    # What was made with other settings is not mixed with the rest: two fine-tunings and their evaluations.
    with (tmp_path / "finetune.yaml").open("a") as stream:
        stream.write("# another\n")

    capsys.readouterr()
    assert main([*command, "--tables"]) == 0

    told = capsys.readouterr()
    assert "**CER against plain" not in told.out

    if family == "wav2vec2":
        assert "4 of the jobs that are done or begun, the first of them finetune/" in told.err

    assert main(command) == 2
