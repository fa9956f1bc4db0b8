"""The soak test ends well on what we have, and finds what it looks for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from recipe_runs import REPOSITORY

TOOLS = REPOSITORY / "tools"

NUM_STEPS = 8


@pytest.fixture
def remains(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(TOOLS)

    from _soak import remains

    return remains


def run_tool(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOLS / "soak.py"), *args]

    return subprocess.run(command, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_run_killed_twice_ends_bitwise_where_it_would_have_ended(tmp_path, remains):
    result = run_tool("--kills", "2", "--steps", "12", "--keep", str(tmp_path / "soak"))

    assert result.returncode == 0, result.stdout + result.stderr
    assert "EQUAL to the last bit after 2 kills" in result.stdout
    assert "_base_wall_time" in result.stdout

    whole, killed = (remains.read_remains(tmp_path / "soak" / n, 12) for n in ("whole", "killed"))

    assert remains.find_differences(whole, killed) == []
    assert killed.digest("optimizer state") in result.stdout
    assert len({whole.digest(part) for part in whole.parts}) == len(whole.parts) == 6


def test_wrong_number_of_kills_is_a_wrong_argument():
    result = run_tool("--kills", "0")

    assert result.returncode == 2
    assert "`--kills` must be at least 1" in result.stderr


def write_output(directory: Path, lines: list[dict[str, Any]] | None = None) -> Path:
    """Write what a run leaves, all of it made up."""
    states: dict[str, Any] = {
        "model": {"weight": torch.linspace(0, 1, 6).reshape(2, 3)},
        "optimizer": {"state": {0: {"exp_avg": torch.full((3,), torch.nan)}}, "param_groups": [{}]},
        "trainer": {"_step_nr": NUM_STEPS, "_base_wall_time": 1.0},
        "data_reader": {"positions": [[0, 24], [1, 3]]},
    }
    for name, state in states.items():
        file = state_file(directory, name)
        file.parent.mkdir(parents=True)
        torch.save(state, file)

    file = directory / "metrics" / "train.jsonl"
    file.parent.mkdir()
    lines = lines or [{"Time": "now", "Step": n, "plain_loss": 6 / n} for n in (4, 8)]
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))

    return directory


def state_file(directory: Path, name: str) -> Path:
    return directory / "checkpoints" / f"step_{NUM_STEPS}" / name / "rank_00.pt"


def compare(remains: ModuleType, whole: Path, killed: Path) -> list[str]:
    return remains.find_differences(
        *(remains.read_remains(directory, NUM_STEPS) for directory in (whole, killed))
    )


@pytest.mark.parametrize(
    ("name", "change", "place"),
    [
        # The last bit of 1.
        ("model", lambda s: s["weight"].view(torch.int32)[1, 2].add_(1), "rank_00.pt: weight"),
        ("model", lambda s: s.update(weight=s["weight"].reshape(3, 2)), "rank_00.pt: weight"),
        ("model", lambda s: s["weight"][0, 0].neg_(), "rank_00.pt: weight"),  # -0.0 == 0.0
        ("optimizer", lambda s: s["state"].pop(0), "state"),
        ("optimizer", lambda s: s["state"][0]["exp_avg"].fill_(0), "state.0.exp_avg"),
        ("trainer", lambda s: s.update(_step_nr=float(NUM_STEPS)), "_step_nr"),
        ("data_reader", lambda s: s["positions"][1].__setitem__(1, 4), "positions[1][1]"),
    ],
)
def test_difference_of_states_is_named(tmp_path, remains, name, change, place):
    whole, killed = write_output(tmp_path / "whole"), write_output(tmp_path / "killed")

    assert compare(remains, whole, killed) == []

    file = state_file(killed, name)
    state = torch.load(file, weights_only=False)
    change(state)
    torch.save(state, file)

    difference = compare(remains, whole, killed)[0]

    assert difference.startswith(f"{remains.PARTS[name]}: {name}/")
    assert place in difference


def test_wall_clock_is_no_difference(tmp_path, remains):
    whole, killed = write_output(tmp_path / "whole"), write_output(tmp_path / "killed")

    torch.save({"_step_nr": NUM_STEPS, "_base_wall_time": 2.0}, state_file(killed, "trainer"))

    metrics = killed / "metrics" / "train.jsonl"
    metrics.write_text(metrics.read_text().replace("now", "later"))

    assert compare(remains, whole, killed) == []


def test_last_line_of_a_step_counts(tmp_path, remains):
    def row(step_nr: int, loss: float) -> dict[str, Any]:
        return {"Step": step_nr, "plain_loss": loss}

    whole = write_output(tmp_path / "whole", [row(4, 6.0), row(8, 5.0)])
    same = write_output(tmp_path / "same", [row(4, 6.0), row(8, 5.5), row(4, 6.0), row(8, 5.0)])
    other = write_output(tmp_path / "other", [row(4, 6.0), row(8, 5.0), row(8, 5.0 + 1e-15)])

    assert compare(remains, whole, same) == []
    assert remains.read_remains(same, NUM_STEPS).num_repeated_lines == 2
    assert compare(remains, whole, other) == ["metrics: train.jsonl, step 8: plain_loss differs."]


def test_missing_metrics_and_checkpoints_are_named(tmp_path, remains):
    whole, killed = write_output(tmp_path / "whole"), write_output(tmp_path / "killed")

    (killed / "checkpoints" / "step_4").mkdir()

    assert compare(remains, whole, killed) == ["checkpoints: step_4 is only in the killed run."]

    lines = (killed / "metrics" / "train.jsonl").read_text().splitlines(keepends=True)
    (killed / "metrics" / "train.jsonl").write_text(lines[0])

    difference = compare(remains, whole, killed)[0]

    assert difference.startswith("metrics: train.jsonl, step 8: plain_loss is only in the uninterr")

    state_file(killed, "optimizer").unlink()

    with pytest.raises(remains.SoakError, match="optimizer holds no file"):
        compare(remains, whole, killed)
