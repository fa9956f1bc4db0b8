"""What tuning chooses is trained with; cells are done again if it comes to another choice, and only then."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from small_studies import BASE, TUNING, make_planner, write_loss

from eqssl_speech.cli import main
from eqssl_speech.error import InputError
from eqssl_speech.study.jobs import Job, NothingToChooseError, list_after, list_before

POPEN = subprocess.Popen

LR = "optimizer.config.lr"

CONVENTIONAL: dict[str, Any] = {"settings": {"equilibrium": None}}

Run = Callable[..., list[str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a study whose trainings come to given losses; returns the trainings that were started, in order."""
    losses: dict[str, float] = {}
    started: list[str] = []
    out = tmp_path / "out"

    def start(command: list[str], **kwargs: Any) -> subprocess.Popen[bytes]:
        if command[0] == "git":
            return POPEN(command, **kwargs)

        values = dict(word.split("=", 1) for word in command if "=" in word)
        (directory,) = (Path(word) for word in command if word.startswith(f"{out}/"))

        started.append(f"{directory.relative_to(out)} {values[LR]}")
        row = {"Step": int(values.get("regime.num_steps", 300)), "plain_loss": losses[values[LR]]}
        (directory / "metrics").mkdir(parents=True)
        for split in ("train", "valid"):
            (directory / "metrics" / f"{split}.jsonl").write_text(json.dumps(row) + "\n")

        return POPEN(["true"], **kwargs)

    monkeypatch.setattr("eqssl_speech.study.runner.subprocess.Popen", start)
    (tmp_path / "corpus" / "a").mkdir(parents=True)
    (tmp_path / "corpus" / "a" / "train.tsv").touch()
    YAML(typ="safe", pure=True).dump(BASE, tmp_path / "w.yaml")

    def run_study(
        num_steps: int,
        found: dict[str, float],
        *options: str,
        status: int = 0,
        regime: dict[str, Any] = CONVENTIONAL,
    ) -> list[str]:
        content = {
            "sources": ["a"],
            "pretraining": {"wav2vec2": {"config": "w.yaml"}},
            "regimes": {"plain": regime},
            "tuning": {"values": {LR: [0.001, 0.01]}, "num_steps": {LR: num_steps}},
            "cells": [{"families": ["wav2vec2"], "regimes": ["plain"], "seeds": [1, 2]}],
        }
        YAML(typ="safe", pure=True).dump(content, tmp_path / "study.yaml")
        losses.update(found)
        started.clear()

        arguments = [str(tmp_path / "study.yaml"), str(tmp_path / "corpus"), str(out)]
        assert main(["study", *arguments, "--workers", "1", *options]) == status

        return list(started)

    return run_study


def test_cells_of_the_same_choice_are_kept(run: Run, tmp_path: Path) -> None:
    small_is_best = {"0.001": 4.0, "0.01": 5.0}
    tune = [f"tune/wav2vec2/plain/{LR}={lr} {lr}" for lr in small_is_best]
    cells = [f"pretrain/wav2vec2/plain/audio/seed-{seed} " for seed in (1, 2)]

    assert run(100, small_is_best) == [*tune, *(f"{cell}0.001" for cell in cells)]
    assert run(100, small_is_best) == []

    assert run(200, small_is_best, status=2) == []
    assert run(200, small_is_best, "--redo") == tune

    # Of another choice, they are done again, once it is known.
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["groups"][0]["pretraining"]["plain"]["num_seeds"] == 2

    assert run(250, {"0.001": 4.0, "0.01": 3.0}, "--redo") == [
        *tune,
        *(f"{cell}0.01" for cell in cells),
    ]


def test_cells_that_may_be_of_another_choice_are_in_no_table(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = {"0.001": 4.0, "0.01": 5.0}
    run(100, losses)

    record = tmp_path / "out" / "state" / "tune" / "wav2vec2" / "plain" / f"{LR}=0.01.json"
    content = record.read_text()
    record.unlink()
    capsys.readouterr()

    assert run(100, losses, "--tables") == []
    output = capsys.readouterr().out
    assert "Pre-training" not in output
    assert "Failed" not in output

    assert run(100, losses, "--list") == []
    statuses = [line[:5].strip() for line in capsys.readouterr().out.splitlines()]
    assert statuses == ["done", "", "done?", "done?"]

    record.write_text(content)
    assert run(100, losses, "--tables") == []
    assert "Pre-training" in capsys.readouterr().out


def test_without_leave_cells_of_another_choice_are_kept_and_named(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = {"0.001": 4.0, "0.01": 5.0}
    cells = [f"pretrain/wav2vec2/plain/audio/seed-{seed} " for seed in (1, 2)]
    run(100, losses)

    record = tmp_path / "out" / "state" / "tune" / "wav2vec2" / "plain" / f"{LR}=0.01.json"
    record.unlink()
    shutil.rmtree(tmp_path / "out" / "tune" / "wav2vec2" / "plain" / f"{LR}=0.01")

    changed = {"0.001": 4.0, "0.01": 3.0}
    assert run(100, changed, status=1) == [f"tune/wav2vec2/plain/{LR}=0.01 0.01"]
    assert "In no table: 2 of the jobs" in capsys.readouterr().err
    assert run(100, changed, "--redo") == [f"{cell}0.01" for cell in cells]


def test_cells_wait_for_what_is_chosen_before_what_is_chosen(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = {"0.001": 4.0, "0.01": 5.0}
    regime = {"tune": {"equilibrium.inner_lr": [0.1]}}
    inner = "tune/wav2vec2/plain/equilibrium.inner_lr=0.1"
    cells = [f"pretrain/wav2vec2/plain/audio/seed-{seed}" for seed in (1, 2)]
    first = run(100, losses, regime=regime)
    assert first[2:] == [f"{name} 0.001" for name in (inner, *cells)]

    # Another number of updates makes all runs of the first setting stale, and may so the rest.
    capsys.readouterr()
    run(200, losses, "--list", regime=regime)
    statuses = [line[:5].strip() for line in capsys.readouterr().out.splitlines()]
    assert statuses == ["stale", "stale", "done?", "done?", "done?"]

    # Once they have chosen another, so are the runs of the second, which make the cells wait. Nothing may be done again
    # without leave.
    for lr in losses:
        (tmp_path / "out" / "state" / f"tune/wav2vec2/plain/{LR}={lr}.json").unlink()
        shutil.rmtree(tmp_path / "out" / "tune" / "wav2vec2" / "plain" / f"{LR}={lr}")

    other = {"0.001": 4.0, "0.01": 3.0}
    assert run(100, other, status=1, regime=regime) == first[:2]
    told = capsys.readouterr()
    assert "Pre-training" not in told.out
    assert (
        f"In no table: 1 of the jobs that are done or begun, the first of them {inner}" in told.err
    )

    assert run(100, other, "--redo", regime=regime) == [f"{name} 0.01" for name in (inner, *cells)]


def test_where_all_values_diverge_only_their_cells_fail(run: Run, tmp_path: Path) -> None:
    run(100, {"0.001": 4.0, "0.01": 5.0})

    nothing = {"0.001": math.inf, "0.01": math.inf}
    assert len(run(200, nothing, "--redo", status=1)) == 2

    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["groups"] == []
    assert set(results["failed"].values()) == {2}


def test_what_comes_before_is_found_through_all_that_it_needs() -> None:
    def job(name: str, *needs: str, after: tuple[str, ...] = ()) -> Job:
        return Job(name, list, needs, after)

    jobs = [
        job("labels"),
        job("start", "labels"),
        job("lr", "start"),
        job("inner", "start", after=("lr",)),
        job("other", "start"),
        job("cell", "start", after=("inner",)),
        job("test", "cell"),
    ]

    assert [j.name for j in list_before(jobs, ["cell"])] == ["labels", "start", "lr", "inner"]
    assert [j.name for j in list_before(jobs, ["inner"])] == ["labels", "start", "lr"]
    assert list_before(jobs, ["start"]) == []
    assert list_after(jobs, ["lr"]) == {"lr", "inner", "cell", "test"}


def test_what_was_tuned_is_what_is_trained_with(tmp_path: Path) -> None:
    num_steps = {"optimizer.config.lr": 150, "equilibrium.inner_lr": 150}
    planner = make_planner(tmp_path, tuning=TUNING | {"num_steps": num_steps})
    jobs = {job.name: job for job in planner.list_jobs()}
    tune = "tune/hubert/last-3"

    # The first half of a run that has half as many updates is the first half of the other.
    first = jobs[f"{tune}/optimizer.config.lr=0.001"].make_command()
    assert {
        "regime.num_steps=150",
        "common.seed=1000",
        "equilibrium.start_after_num_steps=20",
    } <= set(first)

    write_loss(tmp_path, f"{tune}/optimizer.config.lr=0.001", plain_loss=4.0)

    # At theta or after adaptation, whichever is lower.
    write_loss(tmp_path, f"{tune}/optimizer.config.lr=0.01", plain_loss=6.0, adapted_loss=3.0)

    inner = jobs[f"{tune}/equilibrium.inner_lr=1"]
    assert {
        "optimizer.config.lr=0.01",
        "equilibrium.inner_lr=1.0",
        # Judged by the steps that it is trained for.
        "validation.adaptation_lr=1.0",
        "validation.num_adaptation_steps=3",
    } <= set(inner.make_command())
    assert set(inner.after) == {f"{tune}/optimizer.config.lr={x:g}" for x in (0.001, 0.01)}

    write_loss(tmp_path, f"{tune}/equilibrium.inner_lr=0.1", plain_loss=3.5)
    # The run of 1.0 was better before it diverged.
    write_loss(tmp_path, f"{tune}/equilibrium.inner_lr=1", step=100, plain_loss=1.0)

    command = jobs["pretrain/hubert/last-3/audio/seed-1"].make_command()
    assert {"optimizer.config.lr=0.01", "equilibrium.inner_lr=0.1", "common.seed=1"} <= set(command)
    assert not any(word.startswith("validation.") for word in command)

    cell = jobs["pretrain/hubert/plain/audio/seed-1"]

    with pytest.raises(
        InputError, match=r"lr=0.001: is gone, and with it what its setting came to"
    ):
        cell.make_command()

    for lr in (0.001, 0.01):
        write_loss(tmp_path, f"tune/hubert/plain/optimizer.config.lr={lr:g}", plain_loss=math.nan)

    with pytest.raises(NothingToChooseError, match=r"`optimizer.config.lr` of .* has a loss"):
        cell.make_command()


def test_an_average_without_sources_that_diverge_chooses_nothing(tmp_path: Path) -> None:
    planner = make_planner(tmp_path)
    regime, tune = ("hubert", "last-3", "optimizer.config.lr"), "tune/hubert/last-3"
    metrics = write_loss(
        tmp_path, f"{tune}/optimizer.config.lr=0.001", plain_loss=4.0, adapted_loss=3.0
    )

    for source, losses in (("a", {"adapted_loss": 3.0}), ("b", {})):
        row = {"Step": 150, "plain_loss": 4.0, **losses}
        (metrics / "valid" / f"{source}.jsonl").write_text(json.dumps(row) + "\n")
        expected = 3.0 if losses else 4.0

        assert planner.read_tuning(*regime, 0.001) == expected
