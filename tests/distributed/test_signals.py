"""All ranks stop at one step when one of them is asked to, and none hangs when one of them has gone."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from signal import Signals

import pytest
from recipe_runs import ENV, SMALL, list_command
from signalled_runs import find_rank, run_and_signal

SETTINGS = SMALL | {
    "regime.num_steps": 1000,
    "regime.validate_every_n_steps": 1000,
    "regime.checkpoint_every_n_steps": 1000,
}


def test_ranks_stop_together_and_notice_when_one_is_killed(tmp_path, torchrun):
    directory = tmp_path / "out"
    command = list_command("pretrain", directory, SETTINGS, launcher=torchrun)

    run = run_and_signal(
        command, directory, Signals.SIGTERM, "Train Metrics (step 2)", find_rank(1)
    )

    # Torchrun's own status is 1 whatever that of its processes is.
    assert run.returncode == 1
    assert run.output.count("exitcode  : 75") >= 1, run.output
    assert "Lost contact" not in run.output

    (step_dir,) = (directory / "checkpoints").glob("step_*")
    step_nr = step_dir.name.removeprefix("step_")
    sentence = f"Stopped by SIGTERM to rank 1 after step {step_nr}, with a checkpoint"

    for rank in (0, 1):
        assert sentence in (directory / "logs" / f"rank_{rank}.log").read_text()
        assert (step_dir / "trainer" / f"rank_0{rank}.pt").exists()

    next_metrics = f"Train Metrics (step {int(step_nr) // 2 * 2 + 2})"
    started_at = time.monotonic()

    run = run_and_signal(command, directory, Signals.SIGKILL, next_metrics, find_rank(1))

    # Who waits for a rank waits 15 minutes; a busy machine is not taken for one that does.
    assert time.monotonic() - started_at < 450
    assert f"Resuming from step {step_nr}" in run.output
    assert "rank      : 1" in run.output
    assert "Signal 9 (SIGKILL)" in run.output

    lines = [text for text in run.output.splitlines() if "Lost contact" in text]

    assert len(lines) == 1, run.output
    assert "rank 1 does not answer" in lines[0]
    assert "file a bug report" not in run.output


@pytest.mark.slow
def test_rank_that_raises_says_why_and_the_other_does_not_wait_for_it(tmp_path, torchrun):
    command = list_command("pretrain", tmp_path / "out", SETTINGS, launcher=torchrun)

    worker = Path(__file__).with_name("failing_worker.py")
    i = command.index("eqssl_speech")
    command[i - 1 : i + 1] = [str(worker)]

    result = subprocess.run(command, capture_output=True, text=True, env=ENV, timeout=300)

    output = result.stdout + result.stderr

    assert result.returncode == 1

    lines = [text for text in output.splitlines() if "Lost contact" in text]

    assert len(lines) == 1, output
    assert "at step 3" in lines[0]
    assert "rank 1 ended with OSError: disk 7 is on fire (see logs/rank_1.log)" in lines[0]

    # Torchrun's summary.
    assert "rank      : 1" in output
    assert "  OSError: disk 7 is on fire" in output
