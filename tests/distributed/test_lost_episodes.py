"""A bad episode of one process keeps no other waiting, and what lasts of it is the same on all."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from recipe_runs import ENV, SMALL, Run, list_command

WORKER = Path(__file__).with_name("lost_episodes_worker.py")

SETTINGS = SMALL | {
    "dataset.episodes_per_source": 2,
    "dataset.audio_seconds_per_update": 24,
    "dataset.on_dead_source": "skip",
    "equilibrium.max_inner_loss_rise": 3,
    "equilibrium.on_divergence": "lower_inner_lr",
    "regime.num_steps": 4,
    "regime.validate_every_n_steps": 4,
    "regime.checkpoint_every_n_steps": 4,
}


def start(directory: Path, torchrun: list[str], kind: str, **settings: Any) -> Run:
    overrides = SETTINGS | {key.replace("__", "."): value for key, value in settings.items()}
    command = list_command("pretrain", directory, overrides, launcher=torchrun)
    place = command.index("-m", len(torchrun))
    command[place : place + 2] = [str(WORKER), kind]

    result = subprocess.run(command, capture_output=True, text=True, env=ENV, timeout=300)

    return Run(result.returncode, result.stdout + result.stderr, directory)


def read_lost(run: Run) -> list[dict[str, dict[str, int]]]:
    """Return of each process what its checkpoint says of lost episodes, by source."""
    files = sorted((run.directory / "checkpoints" / "step_4" / "trainer").rglob("*.pt"))
    prefix = "total_non_finite@"

    return [
        {name.removeprefix(prefix): state for name, state in bag.items() if name.startswith(prefix)}
        for bag in (torch.load(file, weights_only=False)["_metric_bag"] for file in files)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("parallelism", ["ddp", "fsdp"])
def test_numbers_gone_wrong_on_one_process(tmp_path, torchrun, parallelism):
    run = start(tmp_path / "out", torchrun, "numbers", trainer__data_parallelism=parallelism)

    assert run.returncode == 0, run.output

    lost_of_both = read_lost(run)

    for rank, lost in enumerate(lost_of_both):
        # A sharded replica loses an episode as a whole.
        is_hit = rank == 1 or parallelism == "fsdp"

        for reason, count in (("exploded", 1), ("non_finite", 2)):
            assert sum(s[reason] for s in lost.values()) == is_hit * count

        # Of the one that went wrong at theta it is not.
        assert {name: s["num_lowered"] for name, s in lost.items()} == {
            "ru-festvox": 1,
            "es-drascula": 1,
        }

    assert len(lost_of_both) == 2


@pytest.mark.slow
@pytest.mark.parametrize("parallelism", ["ddp", "fsdp"])
def test_source_that_one_process_cannot_read(tmp_path, torchrun, parallelism):
    run = start(tmp_path / "out", torchrun, "dead", trainer__data_parallelism=parallelism)

    assert run.returncode == 0, run.output

    first, second = read_lost(run)
    assert second["ru-festvox"]["dead"] > 0
    assert second["es-drascula"]["dead"] == 0
    assert first["ru-festvox"]["dead"] == (
        second["ru-festvox"]["dead"] if parallelism == "fsdp" else 0
    )
