"""A run that finds its last checkpoint damaged, or the disk full, says so in one sentence and loses nothing."""

from __future__ import annotations

import random
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from recipe_runs import SMALL, Run, assert_same, run_pretrain

from eqssl_speech.cli import main

SETTINGS = SMALL | {"regime.checkpoint_every_n_steps": 2}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a run of six steps with a checkpoint at every second."""
    directory = tmp_path_factory.mktemp("runs") / "whole"

    return Run(run(directory), "", directory)


@pytest.fixture
def start(capfd: pytest.CaptureFixture[str]) -> Callable[[Path], Run]:
    """Start a run in this process."""

    def start(directory: Path) -> Run:
        capfd.readouterr()

        status = run(directory)

        captured = capfd.readouterr()

        return Run(status, captured.out + captured.err, directory)

    return start


def run(directory: Path) -> int:
    settings = [f"{key}={value}" for key, value in SETTINGS.items()]

    try:
        return main(["pretrain", str(directory), "--no-rich", "--config", *settings])
    except SystemExit as ex:
        return int(ex.code or 0)


def get_error(finished: Run) -> str:
    """Return the one sentence that tells the user what is wrong."""
    assert "Traceback" not in finished.output, finished.output

    (line,) = [line for line in finished.output.splitlines() if "ERROR" in line]

    return line


def require_end_of(whole: Run, again: Run) -> None:
    """Require that a run ended where another one did, to the last bit."""
    assert again.returncode == 0, again.output

    for kind in ("model", "optimizer", "data_reader"):
        assert_same(whole.state(kind, 6), again.state(kind, 6), kind)

    for category in ("train", "valid"):
        assert whole.rows(category)[-1]["plain_loss"] == again.rows(category)[-1]["plain_loss"]


def damage(step_dir: Path, rng: random.Random, *, cut: bool) -> tuple[Path, str]:
    """Cut one of the files off somewhere, or flip a bit in it; return it and what is wrong with it now."""
    file = rng.choice(sorted(f for f in step_dir.rglob("*") if f.is_file()))
    content = bytearray(file.read_bytes())

    if cut:
        file.write_bytes(content[: rng.randrange(len(content))])

        return file, "is cut off"

    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)

    return file, "altered"


def list_contents(directory: Path) -> dict[Path, bytes]:
    return {f: f.read_bytes() for f in directory.rglob("*") if f.is_file()}


@pytest.mark.parametrize("num_damages", [6, pytest.param(40, marks=pytest.mark.slow)])
def test_damage_is_named_and_the_offered_way_ends_like_a_whole_run(
    whole, start, tmp_path, num_damages
):
    rng = random.Random(num_damages)

    for number in range(num_damages):
        directory = shutil.copytree(whole.directory, tmp_path / f"run {number}")
        checkpoints = directory / "checkpoints"

        file, what = damage(checkpoints / "step_6", rng, cut=number % 2 == 0)
        contents = list_contents(checkpoints)

        finished = start(directory)
        error = get_error(finished)

        assert finished.returncode == 2, finished.output
        assert f"{file}: is " in error
        assert what in error
        assert "to resume from step 4, which is whole." in error
        assert list_contents(checkpoints) == contents

        # The long edition follows the advice each time.
        if num_damages == 6 and number < 5:
            continue

        command = error.split("`")[1]
        assert shlex.split(command)[0] == "mv"
        subprocess.run(command, shell=True, check=True)

        again = start(directory)

        assert "Resuming from step 4" in again.output
        require_end_of(whole, again)

        shutil.rmtree(directory)


def test_full_disk_ends_the_run_and_the_next_start_goes_on(whole, start, tmp_path):
    directory = shutil.copytree(whole.directory, tmp_path / "run")
    shutil.rmtree(directory / "checkpoints" / "step_6")

    file = directory / "checkpoints" / "step_4" / "optimizer" / "pp_00" / "tp_00" / "sdp_00.pt"

    # A longer file cannot be written: the disk is full halfway through the states of the optimizer.
    limited = f'ulimit -f {file.stat().st_size // 1024 - 200}; exec "$0" "$@"'
    launcher = ["bash", "-c", limited, sys.executable]

    finished = run_pretrain(directory, SETTINGS, launcher=launcher)
    error = get_error(finished)

    assert finished.returncode == 1, finished.output
    assert "step_6.tmp/optimizer/pp_00/tp_00/sdp_00.pt: cannot be written (File too large)" in error
    assert error.endswith("and run the same command again, which resumes from step 4.")
    assert sorted(p.name for p in file.parents[4].glob("step_*")) == ["step_2", "step_4"]

    require_end_of(whole, start(directory))
