"""A study lists its jobs from one file, runs them, goes on where it was stopped, and compares with intervals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from fairseq2.utils.structured import StandardValueConverter
from fairseq2.utils.validation import StandardObjectValidator
from ruamel.yaml import YAML

from eqssl_speech.error import InputError
from eqssl_speech.study.cells import Cell, list_cells, make_settings, read_base
from eqssl_speech.study.jobs import Job, Planner
from eqssl_speech.study.runner import StudyRunner, find_log, read_record
from eqssl_speech.study.statistics import Resampler, count_utterances
from eqssl_speech.study.study_file import Counting, Study, read_study
from eqssl_speech.tasks.evaluate.scores import ScoredUtterance
from eqssl_speech.tasks.pretrain.config import PretrainConfig

RECIPE = Path(__file__).parents[2] / "recipes" / "equilibrium_study" / "study.yaml"

BASE = {
    "dataset": {"audio_seconds_per_update": 48},
    "regime": {
        "num_steps": 300,
        "validate_every_n_steps": 150,
        "checkpoint_every_n_steps": 50,
        "publish_metrics_every_n_steps": 25,
    },
    "lr_scheduler": {"config": {"num_warmup_steps": 2}},
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
                "settings": {"equilibrium.num_inner_steps": 3},
                "tune": {"equilibrium.inner_lr": [0.1, 1.0]},
            },
            "random": {"is_random": True},
        },
        "tuning": {"values": {"optimizer.config.lr": [0.001, 0.01]}},
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

    return Planner(study, directory, Path("/corpus"), directory / "out")


def write_loss(directory: Path, job: str, **losses: float) -> None:
    metrics = directory / "out" / job / "metrics"
    metrics.mkdir(parents=True)
    (metrics / "valid.jsonl").write_text(json.dumps({"Step": 1, **losses}) + "\n")


def test_the_recipe_is_a_study() -> None:
    cells = list_cells(read_study(RECIPE))

    # The least of it comes first: both families, six regimes, three seeds, and random weights.
    first = [planned.cell for planned in cells[: 2 * 6 * 3 + 3]]
    assert {c.family for c in first} == {"hubert", "wav2vec2"}
    assert {c.seed for c in first} == {1, 2, 3}
    assert {c.counting for c in first} == {"audio"}
    assert len({c.regime for c in first}) == 7


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"cells": []}, "`cells` is empty"),
        ({"baseline": "best"}, "`baseline` names `best`, which `regimes` does not define"),
        ({"sources": ["a", "c"]}, "`c` is listed as unseen, but `sources` names it"),
        ({"colour": 1}, "colour"),
        ({"pretraining": {"hubert": {"config": "x.yaml"}}}, "there is no file `.*x.yaml`"),
        (
            {"cells": [{"families": ["hubert"], "regimes": ["plain"], "seeds": [1000]}]},
            "has 1000, the seed of `tuning`",
        ),
        (
            {
                "cells": [
                    {"families": ["hubert"], "regimes": ["plain"], "seeds": [1], "counting": "x"}
                ]
            },
            "counting",
        ),
        (
            {
                "cells": [
                    {"families": ["hubert"], "regimes": ["plain"], "seeds": [1], "labels": ["all"]}
                ]
            },
            r"`cells\[0\].labels` names `all`, which `finetuning.labels` does not define \(it has few\)",
        ),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(tmp_path: Path, changes: Any, error: str) -> None:
    with pytest.raises(InputError, match=error):
        read_study(write_study(tmp_path, **changes))


def test_regimes_are_counted_in_three_ways() -> None:
    study = read_study(RECIPE)

    def make(counting: Any, regime: str = "last-3") -> dict[str, Any]:
        return make_settings(study, BASE, study.regimes[regime], counting)

    assert "dataset.audio_seconds_per_update" not in make("audio")
    assert make("updates")["dataset.audio_seconds_per_update"] == 4 * 48
    assert "regime.num_steps" not in make("updates")

    by_gradients = make("gradients")
    assert by_gradients["dataset.audio_seconds_per_update"] == 4 * 48
    assert by_gradients["regime.num_steps"] == 75
    assert by_gradients["lr_scheduler.config.num_warmup_steps"] == 1
    # The last update is validated, and all are multiples of what is published.
    assert by_gradients["regime.validate_every_n_steps"] == 75
    assert by_gradients["regime.publish_metrics_every_n_steps"] == 3
    assert by_gradients["regime.checkpoint_every_n_steps"] == 12

    assert make("gradients", "per_source") == make("audio", "per_source")

    with pytest.raises(InputError, match=r"`dataset.audio_seconds_per_update` is not a number"):
        make_settings(study, {}, study.regimes["last-3"], "updates")


def test_cells_come_once_whatever_names_them(tmp_path: Path) -> None:
    cells = [
        {"families": ["hubert"], "regimes": ["plain"], "seeds": [1], "adapt": False},
        {
            "families": ["hubert"],
            "regimes": ["plain", "last-3"],
            "seeds": [1],
            "counting": "updates",
            "labels": ["few"],
        },
    ]
    plain, last = list_cells(read_study(write_study(tmp_path, cells=cells)))

    assert plain.cell == Cell("hubert", "plain", "audio", 1)
    assert (plain.labels, plain.adapt) == (("few",), True)
    assert last.cell == Cell("hubert", "last-3", "updates", 1)


def test_jobs_come_after_those_that_they_need(tmp_path: Path) -> None:
    jobs = make_planner(tmp_path).list_jobs()
    names = [job.name for job in jobs]

    for index, job in enumerate(jobs):
        assert all(need in names[:index] for need in job.needs), job.name

    assert len(set(names)) == len(names)
    assert "pretrain/hubert/random/audio/seed-1" not in names
    assert "finetune/hubert/random/audio/seed-1/few/c" in names

    (labels,) = (job for job in jobs if job.name == "labels/hubert/unseen")
    command = labels.make_command()
    # Clusters of what is pre-trained on only.
    assert command[command.index("--codebook") + 1].endswith("labels/hubert/seen")
    assert command[command.index("--source") + 1] == "c"


def test_what_was_tuned_is_what_is_trained_with(tmp_path: Path) -> None:
    planner = make_planner(tmp_path)
    jobs = {job.name: job for job in planner.list_jobs()}

    write_loss(tmp_path, "tune/hubert/last-3/optimizer.config.lr=0.001", plain_loss=4.0)
    # At theta or after adaptation, whichever is lower.
    write_loss(tmp_path, "tune/hubert/last-3/optimizer.config.lr=0.01", plain_loss=6.0, adapted_loss=3.0)  # fmt: skip

    inner = jobs["tune/hubert/last-3/equilibrium.inner_lr=1"]
    assert "optimizer.config.lr=0.01" in inner.make_command()
    assert "common.seed=1000" in inner.make_command()
    assert set(inner.needs) >= {"tune/hubert/last-3/optimizer.config.lr=0.01"}

    write_loss(tmp_path, "tune/hubert/last-3/equilibrium.inner_lr=0.1", plain_loss=3.5)

    # The run of 1.0 diverged and has no loss.
    command = jobs["pretrain/hubert/last-3/audio/seed-1"].make_command()
    assert {"optimizer.config.lr=0.01", "equilibrium.inner_lr=0.1", "common.seed=1"} <= set(command)

    with pytest.raises(InputError, match=r"no run with `optimizer.config.lr` of .* has a loss"):
        jobs["pretrain/hubert/plain/audio/seed-1"].make_command()


def make_job(name: str, *command: str, needs: tuple[str, ...] = (), may_fail: bool = False) -> Job:
    return Job(name, lambda: list(command), needs, may_fail)


def run_jobs(out: Path, jobs: list[Job]) -> list[str]:
    runner = StudyRunner(out, num_workers=2, commit="abc", environment=[{}])

    return runner.run(jobs)


def test_a_failure_is_named_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    popen = subprocess.Popen

    def start(command: list[str], **kwargs: Any) -> subprocess.Popen[bytes]:
        if "broken-off" not in command:
            return popen(command, **kwargs)

        # A training that diverges has written something by then.
        (tmp_path / "a" / "3").mkdir(parents=True)

        return popen(["/bin/sh", "-c", "exit 2"], **kwargs)

    monkeypatch.setattr("eqssl_speech.study.runner.subprocess.Popen", start)

    jobs = [
        make_job("a/1", "no-such-command"),
        make_job("b/1", "--help", needs=("a/1",)),
        make_job("a/2", "--help"),
        make_job("a/3", "broken-off", may_fail=True),
        make_job("a/4", "no-such-command", may_fail=True),
        make_job("b/3", "--help", needs=("a/3", "a/2")),
    ]

    # What cannot begin is no result.
    assert run_jobs(tmp_path, jobs) == ["a/1", "a/4"]
    assert "no-such-command" in find_log(tmp_path, "a/1").read_text()
    assert read_record(tmp_path, "b/1") is None
    assert read_record(tmp_path, "b/3") is not None

    record = read_record(tmp_path, "a/3")
    assert record is not None
    assert (record["status"], record["commit"]) == (2, "abc")

    # What is done is not done again; what failed is tried again.
    find_log(tmp_path, "a/2").unlink()
    again = [make_job(name, "--help") for name in ("a/1", "a/4")]
    assert run_jobs(tmp_path, [again[0], *jobs[1:4], again[1], jobs[5]]) == []
    assert not find_log(tmp_path, "a/2").exists()

    with pytest.raises(InputError, match="was made with `--help`, but the study says `lm` now"):
        run_jobs(tmp_path, [make_job("a/2", "lm")])


def test_a_study_that_is_asked_to_stop_stops_its_jobs(tmp_path: Path) -> None:
    (tmp_path / "sleep.py").write_text(
        "import signal, sys, time\n"
        "import eqssl_speech.study.runner as runner\n"
        "from eqssl_speech.study.jobs import Job\n"
        "from pathlib import Path\n"
        "original = runner.subprocess.Popen\n"
        "runner.subprocess.Popen = lambda command, **kw: original(['/bin/sleep', '600'], **kw)\n"
        "r = runner.StudyRunner(Path(sys.argv[1]), num_workers=2, commit=None, environment=[{}],\n"
        "    on_progress=lambda p: print(*p.running, flush=True))\n"
        "r.run([Job('a/1', lambda: []), Job('a/2', lambda: [])])\n"
    )
    process = subprocess.Popen(
        [sys.executable, tmp_path / "sleep.py", tmp_path / "out"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().split() == ["a/1", "a/2"]

    start = time.monotonic()
    os.kill(process.pid, signal.SIGTERM)
    _, error = process.communicate(timeout=60)

    assert "KeyboardInterrupt" in error
    assert time.monotonic() - start < 30
    assert read_record(tmp_path / "out", "a/1") is None


def make_counts(rng: np.random.Generator, errors: float, source: str) -> Any:
    words = [" ".join("ab" for _ in range(5)) for _ in range(40)]
    utterances = [
        ScoredUtterance.score(
            str(i),
            source,
            1.0,
            text,
            " ".join("ab" if rng.random() > errors else "x" for _ in range(5)),
        )
        for i, text in enumerate(words)
    ]

    return count_utterances(utterances)


def test_differences_have_intervals_that_are_theirs() -> None:
    rng = np.random.default_rng(1)

    def make(errors: float) -> Any:
        return {s: {x: make_counts(rng, errors, x) for x in ("a", "b")} for s in (1, 2, 3)}

    low, high, same = make(0.2), make(0.4), make(0.2)
    resampler = Resampler(500)

    rate = resampler.rate(low, ["a", "b"], 0)
    # The mean over seeds of the mean over sources.
    expected = np.mean(
        [[low[s][x][:, 0, 0].sum() / low[s][x][:, 0, 1].sum() for x in ("a", "b")] for s in low]
    )
    assert rate.value == pytest.approx(float(expected))
    assert rate.low < rate.value < rate.high

    assert resampler.difference(high, low, ["a", "b"], 0).is_certain
    assert not resampler.difference(same, low, ["a", "b"], 0).is_certain

    nothing = resampler.difference(low, low, ["a"], 1)
    assert (nothing.value, nothing.low, nothing.high) == (0.0, 0.0, 0.0)

    # Of the seeds that both have.
    fewer = {1: low[1]}
    assert resampler.difference(fewer, low, ["a"], 0).value == 0.0


def test_a_study_is_read_as_it_is_written(tmp_path: Path) -> None:
    study = read_study(write_study(tmp_path))

    assert isinstance(study, Study)
    assert study.regimes["last-3"].num_inner_steps == 3
    assert study.regimes["plain"].num_inner_steps == 0


@pytest.mark.parametrize("counting", get_args(Counting))
@pytest.mark.parametrize(
    "regime", [n for n, r in read_study(RECIPE).regimes.items() if not r.is_random]
)
def test_the_settings_of_the_recipe_are_those_that_pre_training_takes(
    regime: str, counting: Any
) -> None:
    study = read_study(RECIPE)

    for section in study.pretraining.values():
        content = dict(read_base(RECIPE.parent / section.config))
        settings = make_settings(study, content, study.regimes[regime], counting)
        tuned = {key: values[0] for key, values in study.regimes[regime].tune.items()}

        for name, value in (settings | tuned).items():
            *parents, key = name.split(".")
            target = content
            for parent in parents:
                target[parent] = dict(target[parent])
                target = target[parent]
            target[key] = value

        config = StandardValueConverter().structure(content, PretrainConfig)
        StandardObjectValidator().validate(config)
