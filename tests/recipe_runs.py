"""Runs of the training recipes, as a user starts them, on the sample that ships with the repository."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from started import start

from eqssl_speech.cli import main

REPOSITORY = Path(__file__).parents[1]

SAMPLE = REPOSITORY / "recipes" / "quickstart" / "corpus"

# A run of seconds: the smallest architecture, two sources, five batches of 2 s.
SMALL = {
    "model.arch": "micro",
    "dataset.corpus": SAMPLE,
    "dataset.sources": "[ru-festvox, es-drascula]",
    "dataset.audio_seconds_per_update": 12,
    "validation.num_adaptation_steps": 1,
    "validation.max_num_batches": 1,
    "validation.audio_seconds_per_batch": 8,
    "optimizer.config.lr": 0.001,
    "lr_scheduler.config.num_warmup_steps": 2,
    "trainer.max_grad_norm": 1.0,
    "regime.num_steps": 6,
    "regime.validate_every_n_steps": 6,
    "regime.checkpoint_every_n_steps": 6,
    "regime.publish_metrics_every_n_steps": 2,
    "common.torch.num_threads": 1,
    "common.metric_recorders.tensorboard.enabled": "false",
}


# Fine-tuning in seconds; a tokenizer has to be added.
SMALL_FINETUNE = {
    "model.arch": "micro",
    "dataset.corpus": SAMPLE,
    "dataset.sources": "[ru-festvox, es-drascula]",
    "dataset.audio_seconds_per_update": 16,
    "dataset.max_minutes_per_source": 1,
    "validation.max_num_utterances": 4,
    "optimizer.config.lr": 0.001,
    "trainer.max_grad_norm": 1.0,
    "regime.num_steps": 6,
    "regime.validate_every_n_steps": 6,
    "regime.checkpoint_every_n_steps": 6,
    "regime.publish_metrics_every_n_steps": 2,
    "common.torch.num_threads": 1,
    "common.metric_recorders.tensorboard.enabled": "false",
}


# What makes a recipe's configuration a run of seconds.
FEW_STEPS = {
    "model.arch": "micro",
    "regime.num_steps": 4,
    "regime.validate_every_n_steps": 4,
    "regime.checkpoint_every_n_steps": 4,
    "regime.publish_metrics_every_n_steps": 2,
    "lr_scheduler.config.num_warmup_steps": 2,
    "validation.max_num_batches": 1,
    "common.torch.num_threads": 1,
}


# Not every corpus of a recipe ships with the repository.
ON_THE_SAMPLE = {"dataset.corpus": SAMPLE, "dataset.sources": "[ru-festvox, es-drascula]"}


# Two steps on a corpus of a few seconds; the corpus has to be added.
TWO_STEPS = {
    "model.arch": "micro",
    "dataset.audio_seconds_per_update": 8,
    "dataset.num_workers": 1,
    "regime.num_steps": 2,
    "regime.validate_every_n_steps": 2,
    "regime.checkpoint_every_n_steps": 2,
    "regime.publish_metrics_every_n_steps": 1,
    "lr_scheduler.config.num_warmup_steps": 1,
    "validation.audio_seconds_per_batch": 4,
    "common.metric_recorders.tensorboard.enabled": "false",
    "common.torch.num_threads": 1,
}


ENV = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@dataclass(frozen=True)
class Run:
    """A finished run."""

    returncode: int
    output: str
    directory: Path

    def rows(self, category: str) -> list[dict[str, Any]]:
        file = self.directory / "metrics" / f"{category}.jsonl"

        return [json.loads(line) for line in file.read_text().splitlines()]

    def state(self, kind: str, step_nr: int) -> Any:
        (file,) = (self.directory / "checkpoints" / f"step_{step_nr}" / kind).rglob("*.pt")

        return torch.load(file, weights_only=False)


def make_labels(corpus: Path, directory: Path, *arguments: str) -> Path:
    """Cluster MFCCs of a corpus in this process, as a user does; return the directory of the labels.

    :param corpus: The corpus.
    :param directory: Where the labels go.
    :param arguments: Further arguments of ``eqssl labels``.
    """
    command = ["labels", str(corpus), str(directory), "--clusters", "8", "--jobs", "1"]

    assert main([*command, *arguments]) == 0

    return directory


def label_sample(directory: Path, *arguments: str) -> Path:
    """Label the two sources of :data:`SMALL` by clusters of 36 s of each; see :func:`make_labels`."""
    sources = ["--source", "ru-festvox", "--source", "es-drascula"]

    return make_labels(SAMPLE, directory, *sources, "--hours-for-clustering", "0.02", *arguments)


def choose_family(family: str, label: Callable[[], Path]) -> dict[str, Any]:
    """Return what of a run's settings chooses the family of the model.

    :param family: The family.
    :param label: Called for the directory of labels if it predicts some.
    """
    return {"model.family": family} | ({"dataset.labels": label()} if family == "hubert" else {})


def run_pretrain(
    directory: Path,
    overrides: dict[str, Any] | None = None,
    *,
    base: dict[str, Any] = SMALL,
    **kwargs: Any,
) -> Run:
    """Run ``eqssl pretrain`` to its end; for the keywords see :func:`list_command`."""
    return run_recipe("pretrain", directory, base | (overrides or {}), **kwargs)


def run_finetune(
    directory: Path,
    tokenizer: Path,
    overrides: dict[str, Any] | None = None,
    *,
    base: dict[str, Any] = SMALL_FINETUNE,
    **kwargs: Any,
) -> Run:
    """Run ``eqssl finetune`` to its end; for the keywords see :func:`list_command`."""
    settings = base | {"tokenizer": tokenizer} | (overrides or {})

    return run_recipe("finetune", directory, settings, **kwargs)


def run_recipe(
    name: str, directory: Path, settings: dict[str, Any], *, anew: bool = False, **kwargs: Any
) -> Run:
    """Run a recipe to its end; for the arguments see :func:`list_command`.

    :param anew: Whether in a Python of its own, as a user does.
    """
    command = list_command(name, directory, settings, **kwargs)

    if anew or kwargs.get("launcher"):
        result = subprocess.run(command, capture_output=True, text=True, env=ENV, timeout=600)

        return Run(result.returncode, result.stdout + result.stderr, directory)

    _, _, _, *arguments = command  # python -m eqssl_speech

    status, output = start(arguments, ENV, timeout_s=600)

    return Run(status, output, directory)


def list_command(
    name: str,
    directory: Path,
    settings: dict[str, Any],
    *,
    config_file: Path | None = None,
    launcher: Sequence[str] = (),
    extra: Sequence[str] = (),
) -> list[str]:
    """List the words of the command that runs a recipe.

    :param name: The subcommand of ``eqssl``.
    :param directory: The output directory.
    :param settings: Given to ``--config``.
    :param config_file: Given to ``--config-file``.
    :param launcher: What starts Python, such as torchrun.
    :param extra: Further arguments.
    """
    command = [*(launcher or [sys.executable]), "-m", "eqssl_speech", name]

    if config_file is not None:
        command += ["--config-file", str(config_file)]

    if settings:
        command += ["--config", *(f"{key}={value}" for key, value in settings.items())]

    return [*command, "--no-rich", *extra, str(directory)]


def copy_as_killed(whole: Path, killed: Path) -> None:
    """Copy a run of six steps, with a checkpoint at every second, as a kill after the fourth leaves it at the worst:
    with the checkpoint of the second step and half of that of the fourth."""
    shutil.copytree(whole, killed)

    checkpoints = killed / "checkpoints"

    shutil.rmtree(checkpoints / "step_6")
    (checkpoints / "step_4").rename(checkpoints / "step_4.tmp")
    shutil.rmtree(checkpoints / "step_4.tmp" / "model")


def require_time_left(whole: Run, again: Run) -> None:
    """Require that a run of six steps, and one that went on from the second, say how long they still take."""
    times = [row.get("time_left") for row in whole.rows("train")]

    assert times[0] is None
    assert times[1] > 0.0
    assert times[2] == again.rows("train")[-1]["time_left"] == 0.0

    for run in (whole, again):
        lines = re.findall(r"Train Metrics \(step 6\) - .*", run.output)

        # Those of the sources do not repeat it.
        assert ["time_left: 0s" in line for line in lines].count(True) == 1 < len(lines)


def assert_refused(result: tuple[int, str], directory: Path, *words: str) -> None:
    """Require exit status 2 and one sentence, and that nothing was written.

    :param result: The exit status and the output.
    :param directory: The output directory.
    :param words: What the sentence has to say.
    """
    status, output = result

    assert status == 2, output
    assert "Traceback" not in output

    (line,) = [line for line in output.splitlines() if "ERROR" in line or line.startswith("eqssl:")]

    for word in words:
        assert word in line

    assert not directory.exists(), "something was written"


def assert_same(left: Any, right: Any, where: str = "") -> None:
    """Compare two states to the last bit."""
    assert type(left) is type(right), where

    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right), where
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), where

        for key in left:
            assert_same(left[key], right[key], f"{where}.{key}")
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right), where

        for i, (a, b) in enumerate(zip(left, right)):
            assert_same(a, b, f"{where}[{i}]")
    else:
        assert left == right, where
