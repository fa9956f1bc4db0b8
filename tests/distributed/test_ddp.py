"""Data parallelism: two processes make the update that one makes of the same episodes."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from families import FAMILIES
from recipe_runs import choose_family, label_sample, run_pretrain

NUM_STEPS = 10

SETTINGS = {
    "regime.num_steps": NUM_STEPS,
    "regime.validate_every_n_steps": NUM_STEPS,
    "regime.checkpoint_every_n_steps": NUM_STEPS // 2,
    "regime.publish_metrics_every_n_steps": NUM_STEPS // 2,
    "equilibrium.inner_lr": 0.1,
    # Plain gradient descent would hide an error in the scale of a gradient less than AdamW does, but AdamW turns
    # rounding noise in entries that are nearly zero into whole steps; a larger epsilon does not.
    "optimizer.config.eps": 0.001,
}


@pytest.mark.parametrize(
    ("family", "num_inner_steps", "outer_weights"),
    [
        # The same without the trainer is in test_replicas.py.
        pytest.param("wav2vec2", 0, "last", marks=pytest.mark.slow),
        pytest.param("wav2vec2", 1, "last", marks=pytest.mark.slow),
        ("wav2vec2", 1, "uniform"),
        pytest.param("hubert", 0, "last", marks=pytest.mark.slow),
        pytest.param("hubert", 1, "last", marks=pytest.mark.slow),
        pytest.param("hubert", 1, "uniform", marks=pytest.mark.slow),
    ],
)
def test_two_processes_equal_one_on_the_same_episodes(
    tmp_path, torchrun, family, num_inner_steps, outer_weights
):
    settings = SETTINGS | {
        "equilibrium.num_inner_steps": num_inner_steps,
        "equilibrium.outer_weights": outer_weights,
    }
    settings |= choose_family(family, lambda: label_sample(tmp_path / "labels"))

    one = run_pretrain(tmp_path / "one", settings)
    two = run_pretrain(tmp_path / "two", settings, launcher=torchrun)

    assert one.returncode == 0, one.output
    assert two.returncode == 0, two.output

    ours, theirs = one.state("model", NUM_STEPS), two.state("model", NUM_STEPS)
    halfway = one.state("model", NUM_STEPS // 2)

    for name, value in ours.items():
        # Sums over two processes are taken in another order; ten steps of that in float32.
        torch.testing.assert_close(theirs[name], value, rtol=1e-6, atol=1e-6, msg=name)

    moved = max((ours[n] - v).abs().max() for n, v in halfway.items() if v.is_floating_point())

    assert moved > 1e-3, "the parameters hardly moved, so the comparison says nothing"


# The same is counted for all ways of sharing the work in test_replicas.py.
@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_inner_steps_send_nothing(tmp_path, torchrun, family):
    worker = Path(__file__).with_name("collectives_worker.py")
    output = tmp_path / "counts.json"

    subprocess.run(
        [*torchrun, str(worker), family, str(output)],
        check=True,
        capture_output=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )

    counts = json.loads(output.read_text())

    assert counts["inner"] == 0
    assert counts["outer"] > 0
