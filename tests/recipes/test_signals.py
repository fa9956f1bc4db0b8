"""A run that is asked to stop ends after the step in hand, says so by its status, and loses nothing."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from signal import Signals

import pytest
from recipe_runs import SMALL, assert_same, list_command, run_pretrain
from signalled_runs import run_and_signal

from eqssl_speech.tasks.signals import STOPPED

NUM_STEPS = 20

SETTINGS = SMALL | {
    "regime.num_steps": NUM_STEPS,
    "regime.validate_every_n_steps": NUM_STEPS,
    "regime.checkpoint_every_n_steps": NUM_STEPS // 2,
    "regime.keep_last_n_checkpoints": 1,
}


def test_run_stopped_twice_ends_bitwise_where_it_would_have_ended(tmp_path):
    # Anywhere in the run, then in its last validation.
    moments = random.Random()
    seed = moments.randrange(1000)
    moments.seed(seed)

    whole = run_pretrain(tmp_path / "whole", SETTINGS, base={})

    assert whole.returncode == 0, whole.output

    command = list_command("pretrain", tmp_path / "stopped", SETTINGS)

    for number, line in (
        (Signals.SIGTERM, f"Train Metrics (step {2 * moments.randrange(1, NUM_STEPS // 2)}) - es"),
        (Signals.SIGUSR1, "Validating es-drascula."),
    ):
        run = run_and_signal(command, tmp_path / "stopped", number, line)

        assert run.returncode == STOPPED, (seed, run.output)
        assert "Traceback" not in run.output, (seed, run.output)

        (step_dir,) = (tmp_path / "stopped" / "checkpoints").glob("step_*")
        step_nr = step_dir.name.removeprefix("step_")

        assert f"Stopped by {number.name} after step {step_nr}" in run.output, (seed, run.output)
        assert run.output.count(f"Preparing checkpoint at step {step_nr}.") == 1, seed

    assert run.output.count("Validation Metrics") < whole.output.count("Validation Metrics")

    again = run_pretrain(tmp_path / "stopped", SETTINGS, base={})

    assert again.returncode == 0, (seed, again.output)

    for kind in ("model", "optimizer", "data_reader", "trainer"):
        theirs, ours = whole.state(kind, NUM_STEPS), again.state(kind, NUM_STEPS)

        if kind == "trainer":
            del theirs["_base_wall_time"], ours["_base_wall_time"]

        assert_same(theirs, ours, f"{seed}: {kind}")

    # The validation that was given up is made up for.
    for category in ("valid", "valid/ru-festvox", "valid/es-drascula"):
        assert whole.rows(category)[-1]["plain_loss"] == again.rows(category)[-1]["plain_loss"]


@pytest.mark.parametrize("number", [Signals.SIGTERM, Signals.SIGUSR1])
def test_process_that_has_not_begun_ends_at_once(number):
    program = (
        "import os, signal\n"
        "from eqssl_speech.tasks.signals import stop_request\n"
        "stop_request.install()\n"
        f"signal.raise_signal({int(number)})\n"
        "print('not reached')\n"
    )

    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert result.returncode == STOPPED
    assert result.stderr.startswith(f"eqssl: {number.name}: stopped before the first step")
    assert result.stdout == ""


@pytest.mark.slow
def test_interrupt_lets_the_checkpoint_that_is_being_written_come_to_its_end(tmp_path):
    """And ends by the signal, as a program that knows nothing of it."""
    slow = (
        "import sys, time\n"
        "import torch\n"
        "save = torch.save\n"
        "torch.save = lambda *args, **kwargs: (time.sleep(0.7), save(*args, **kwargs))\n"
        "from eqssl_speech.cli import main\n"
        "sys.exit(main())\n"
    )
    _, _, _, *args = list_command("pretrain", tmp_path / "out", SETTINGS)
    line = f"Train Metrics (step {NUM_STEPS // 2})"  # Comes while the threads write.

    run = run_and_signal(
        [sys.executable, "-c", slow, *args], tmp_path / "out", Signals.SIGINT, line
    )

    assert run.returncode == -Signals.SIGINT, run.output
    assert f"Checkpoint at step {NUM_STEPS // 2} saved." in run.output
    assert (tmp_path / "out" / "checkpoints" / f"step_{NUM_STEPS // 2}").is_dir()
    assert json.loads((tmp_path / "out" / "metrics" / "train.jsonl").read_text().splitlines()[-1])
