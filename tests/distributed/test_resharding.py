"""A run goes on with another number of processes, or shards the model in another way, and loses nothing but bits."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES
from recipe_runs import ENV, Run, choose_family, label_sample, run_pretrain
from torch.distributed.tensor import DTensor

from eqssl_speech.models.checkpoint import merge_shards
from eqssl_speech.tasks.checkpoint_files import StateFileLoader

WORKER = Path(__file__).with_name("resharding_worker.py")

SETTINGS = {
    "regime.num_steps": 10,
    "regime.validate_every_n_steps": 5,
    "regime.checkpoint_every_n_steps": 5,
    "regime.publish_metrics_every_n_steps": 5,
    "equilibrium.inner_lr": 0.1,
    # As in test_ddp.py.
    "optimizer.config.eps": 0.001,
}


def list_launcher(num_processes: int) -> list[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]

    return [*torchrun, "--nproc-per-node", str(num_processes)]


def reload(directory: Path, family: str, mode: str, num_processes: int) -> str:
    launcher = [sys.executable] if num_processes == 1 else list_launcher(num_processes)

    result = subprocess.run(
        [*launcher, str(WORKER), family, mode, str(directory)],
        capture_output=True,
        text=True,
        timeout=300,
        env=ENV,
    )
    assert result.returncode == 0, result.stderr

    return result.stderr


def load(step_dir: Path, kind: str) -> list[dict[str, Any]]:
    return [StateFileLoader().load(file) for file in sorted((step_dir / kind).rglob("*.pt"))]


def read_moments(step_dir: Path) -> dict[str, torch.Tensor]:
    shards = load(step_dir, "optimizer")

    return merge_shards(
        [
            {
                f"{number}.{name}": value.to_local() if isinstance(value, DTensor) else value
                for number, values in shard["state"].items()
                for name, value in values.items()
            }
            for shard in shards
        ]
    )


def assert_nothing_lost(directory: Path, step_nr: int) -> None:
    first, present = directory / "step_1", directory / f"step_{step_nr}"

    for read in (lambda d: merge_shards(load(d, "model")), read_moments):
        torch.testing.assert_close(read(present), read(first), rtol=0, atol=0)

    assert (
        load(present, "optimizer")[0]["param_groups"] == load(first, "optimizer")[0]["param_groups"]
    )

    states = load(present, "trainer")
    bags = [state["_metric_bag"] for state in states]

    # What the two ranks of the first checkpoint have counted.
    assert sum(float(bag["total_seconds"]["weighted_sum"]) for bag in bags) == 11.0
    assert sum(bag["total_lost"]["exploded"] for bag in bags) == 3
    assert [bag["total_lost"]["num_lowered"] for bag in bags] == [1] * len(bags)

    generators = {bytes(state["_rng_bag"].numpy()) for state in states}
    assert len(generators) == len(states), "two ranks draw the same numbers"


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_the_same_however_they_are_dealt_out(tmp_path, family):
    layouts = [("ddp", 2), ("fsdp", 3), ("one", 1), ("hybrid", 4), ("ddp", 3), ("fsdp", 2)]

    for number, (mode, num_processes) in enumerate(layouts, start=1):
        output = reload(tmp_path, family, mode, num_processes)

        if number > 1:
            assert f"; {num_processes} process(es) (" in output
            assert_nothing_lost(tmp_path, number)


def run_to_step_10(
    directory: Path, num_processes: int, overrides: dict[str, Any] | None = None
) -> Run:
    """Run, or resume, the training."""
    launcher = list_launcher(num_processes) if num_processes > 1 else ()

    run = run_pretrain(directory, SETTINGS | (overrides or {}), launcher=launcher)
    assert run.returncode == 0, run.output

    return run


def read_last(run: Run) -> dict[str, Any]:
    """Return the last line of the metrics of training."""
    lines = (run.directory / "metrics" / "train.jsonl").read_text().splitlines()

    return dict(json.loads(lines[-1]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "before", "after"), [("wav2vec2", 2, 1), ("wav2vec2", 1, 2), ("hubert", 2, 1)]
)
def test_a_run_goes_on_with_the_same_episodes(tmp_path, family, before, after):
    settings = choose_family(family, lambda: label_sample(tmp_path / "labels"))
    whole = run_to_step_10(tmp_path / "whole", 1, settings)

    run_to_step_10(tmp_path / "run", before, settings)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step_10")
    resumed = run_to_step_10(tmp_path / "run", after, settings)

    assert f"Step 5 was written by {before} process(es)" in resumed.output
    assert "sums over ranks are rounded in another order." in resumed.output
    assert "samples instead of" not in resumed.output

    torch.testing.assert_close(
        resumed.state("model", 10), whole.state("model", 10), rtol=1e-6, atol=1e-6
    )

    # Counted over all steps and all ranks.
    assert read_last(resumed)["total_audio_seconds"] == read_last(whole)["total_audio_seconds"]


@pytest.mark.slow
def test_a_run_goes_on_with_batches_of_another_size(tmp_path):
    run_to_step_10(tmp_path / "run", 2, {"trainer.data_parallelism": "fsdp"})
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step_10")
    one = run_to_step_10(tmp_path / "run", 1)

    assert "Step 5 was written by 2 process(es) (1 replica(s) of 2); 1 process(es)" in one.output
    assert "from the same part of each pass on" in one.output
