"""Checkpoints of several ranks: what one of them finds damaged, or cannot write, ends all with the same sentence."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from families import FAMILIES
from recipe_runs import Run, choose_family, label_sample, run_pretrain

# Sharded, so that each rank has a part of the model and of the optimizer's states.
SETTINGS = {
    "equilibrium": "null",
    "trainer.data_parallelism": "fsdp",
    "regime.num_steps": 4,
    "regime.validate_every_n_steps": 4,
    "regime.checkpoint_every_n_steps": 2,
}


def get_error(run: Run) -> str:
    """Return the last error that each rank has logged, which has to be the same."""
    assert run.returncode != 0, run.output

    errors = []
    for rank in range(2):
        lines = (run.directory / "logs" / f"rank_{rank}.log").read_text().splitlines()
        errors.append([line.split(" - ", 1)[1] for line in lines if " ERROR " in line][-1])

    assert errors[0] == errors[1], run.output

    return errors[0]


def list_shards(step_dir: Path) -> dict[str, bytes]:
    return {str(f.relative_to(step_dir)): f.read_bytes() for f in step_dir.rglob("model/*/*/*.pt")}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_ranks_end_with_the_same_sentence_and_lose_nothing(tmp_path, torchrun, family):
    settings = SETTINGS | choose_family(family, lambda: label_sample(tmp_path / "labels"))

    def start() -> Run:
        return run_pretrain(tmp_path / "run", settings, launcher=torchrun)

    whole = start()
    assert whole.returncode == 0, whole.output

    step_dir = tmp_path / "run" / "checkpoints" / "step_4"
    shards = list_shards(step_dir)
    assert len(shards) == 2

    # Of the second rank.
    file = step_dir / "optimizer" / "pp_00" / "tp_00" / "sdp_01.pt"
    file.write_bytes(file.read_bytes()[:-1])

    refused = start()
    error = get_error(refused)
    assert f"{file}: is cut off" in error
    assert "resume from step 2, which is whole." in error

    shutil.rmtree(step_dir)

    # Only the second rank has too little room for its part.
    limited = 'if [ "$RANK" = 1 ]; then ulimit -f 200; fi; exec "$0" "$@"'
    launcher = [*torchrun, "--no-python", "bash", "-c", limited, sys.executable]

    full = run_pretrain(tmp_path / "run", settings, launcher=launcher)
    error = get_error(full)
    assert "sdp_01.pt: cannot be written (File too large)" in error
    assert error.endswith("which resumes from step 2.")
    assert sorted(p.name for p in step_dir.parent.glob("step_*")) == ["step_2"]

    again = start()
    assert again.returncode == 0, again.output
    assert "Resuming from step 2" in again.output
    assert list_shards(step_dir) == shards
