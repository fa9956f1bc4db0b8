"""Reading run directories: torn and repeated lines, discovery, configuration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eqssl_speech.error import InputError
from eqssl_speech.report.runs import find_runs, get_number, read_history, read_run


def write_lines(file: Path, *rows: dict[str, object], end: str = "") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)

    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + end, encoding="utf-8")

    return file


def line(step: int, plain_loss: float) -> dict[str, object]:
    return {"Time": "2026-11-21T00:00:00+00:00", "Step": step, "plain_loss": plain_loss}


def test_read_history_returns_lines_by_step(tmp_path: Path) -> None:
    history = read_history(write_lines(tmp_path / "ru.jsonl", line(10, 5.0), line(20, 4.5)))

    assert {step: row["plain_loss"] for step, row in history.items()} == {10: 5.0, 20: 4.5}


def test_read_history_drops_torn_last_line(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "ru.jsonl", line(10, 5.0), end='{"Time": "2026", "Step": 2')

    assert list(read_history(file)) == [10]


def test_read_history_drops_a_line_torn_within_a_character(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "ru.jsonl", line(10, 5.0))

    file.write_bytes(file.read_bytes() + '{"Time": "é'.encode()[:-1])

    assert list(read_history(file)) == [10]


def test_read_history_reads_line_glued_to_torn_one_by_resumed_run(tmp_path: Path) -> None:
    torn = '{"Time": "2026", "Step": 20, "plain'

    file = write_lines(tmp_path / "ru.jsonl", line(10, 5.0), end=torn + json.dumps(line(20, 4.0)))

    file.write_text(file.read_text() + "\n" + json.dumps(line(30, 3.0)) + "\n")

    losses = {step: row["plain_loss"] for step, row in read_history(file).items()}

    assert losses == {10: 5.0, 20: 4.0, 30: 3.0}


def test_read_history_last_line_of_repeated_step_wins_and_later_ones_are_forgotten(
    tmp_path: Path,
) -> None:
    rows = [line(10, 5.0), line(20, 4.0), line(30, 3.0), line(20, 4.2)]

    history = read_history(write_lines(tmp_path / "ru.jsonl", *rows))

    assert {step: row["plain_loss"] for step, row in history.items()} == {10: 5.0, 20: 4.2}


def test_read_history_reads_display_names_and_values_that_are_not_finite(tmp_path: Path) -> None:
    row: dict[str, object] = {"Step": 1, "Plain Loss": float("nan"), "Note": "text", "n": 3}

    (read,) = read_history(write_lines(tmp_path / "ru.jsonl", row)).values()

    assert str(get_number(read, "plain_loss")) == "nan"
    assert get_number(read, "n") == 3.0
    assert get_number(read, "note") is None
    assert get_number(read, "missing") is None


def test_read_history_names_file_and_line_of_garbage_in_the_middle(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "ru.jsonl", line(10, 5.0), end="oops\n" + json.dumps(line(20, 4)))

    with pytest.raises(InputError, match=r"ru\.jsonl:2 is not a JSON object: remove that line"):
        read_history(file)


def test_find_runs_lists_equilibrium_first_and_skips_what_is_no_run(tmp_path: Path) -> None:
    for name in ("a_third", "conventional", "equilibrium"):
        (tmp_path / name / "metrics").mkdir(parents=True)

    (tmp_path / "corpus").mkdir()

    names = [name for name, _ in find_runs(tmp_path)]

    assert names == ["equilibrium", "conventional", "a_third"]


def test_find_runs_keeps_the_order_of_the_names_given(tmp_path: Path) -> None:
    for name in ("equilibrium", "conventional"):
        (tmp_path / name / "metrics").mkdir(parents=True)

    names = [name for name, _ in find_runs(tmp_path, ["conventional", "equilibrium"])]

    assert names == ["conventional", "equilibrium"]


def test_find_runs_takes_a_run_directory_itself(tmp_path: Path) -> None:
    (tmp_path / "mine" / "metrics").mkdir(parents=True)

    assert find_runs(tmp_path / "mine") == [("mine", tmp_path / "mine")]


def test_find_runs_looks_into_the_hosts_sweep_directories(tmp_path: Path) -> None:
    run = tmp_path / "equilibrium" / "ws_1.abc"

    (run / "metrics").mkdir(parents=True)

    assert find_runs(tmp_path) == [("equilibrium", run)]


def test_find_runs_says_what_to_do_when_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run with a metrics directory: train one"):
        find_runs(tmp_path)

    with pytest.raises(InputError, match="is not a directory"):
        find_runs(tmp_path / "missing")

    (tmp_path / "conventional" / "metrics").mkdir(parents=True)

    with pytest.raises(InputError, match=r"equilibrium is not a run .*: name one of conventional"):
        find_runs(tmp_path, ["equilibrium"])


def test_read_run_needs_a_validation(tmp_path: Path) -> None:
    write_lines(tmp_path / "metrics" / "valid" / "ru.jsonl", end='{"Time')

    with pytest.raises(InputError, match="holds no validation of any source yet: let the run go"):
        read_run("equilibrium", tmp_path)


def test_read_run_reads_seed_equilibrium_section_and_sources(tmp_path: Path) -> None:
    write_lines(tmp_path / "metrics" / "valid" / "ru.jsonl", line(10, 5.0))

    text = "common:\n  seed: 7\nequilibrium:\n  enabled: true\n  inner_lr: 0.03\nother: 1\n"

    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")

    (tmp_path / "sources.json").write_text(
        '[{"name": "ru", "language": "ru", "domain": "studio", "licence": "x", "hours": 1}]'
    )

    run = read_run("equilibrium", tmp_path)

    assert run.config == {"seed": 7, "equilibrium": {"enabled": True, "inner_lr": 0.03}}
    assert (run.infos["ru"].language, run.infos["ru"].domain) == ("ru", "studio")


def test_read_run_names_a_file_beside_the_metrics_that_is_broken(tmp_path: Path) -> None:
    write_lines(tmp_path / "metrics" / "valid" / "ru.jsonl", line(10, 5.0))

    (tmp_path / "config.yaml").write_text("a: [1\n")

    with pytest.raises(InputError, match=r"config\.yaml is not readable YAML"):
        read_run("equilibrium", tmp_path)

    (tmp_path / "config.yaml").unlink()
    (tmp_path / "sources.json").write_text('{"ru": 1}')

    with pytest.raises(InputError, match=r"sources\.json is not a JSON list"):
        read_run("equilibrium", tmp_path)
