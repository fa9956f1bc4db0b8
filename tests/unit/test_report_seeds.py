"""The table of a study over several seeds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eqssl_speech.report.seeds import main


def write_summary(directory: Path, **cers: float) -> Path:
    def group(cer: float) -> dict[str, dict[str, float]]:
        return {"cer": {"value": cer}, "wer": {"value": 2 * cer}}

    directory.mkdir()

    summary = {"languages": {language: group(cer) for language, cer in cers.items()}}

    (directory / "summary.json").write_text(json.dumps(summary))

    return directory


def test_holds_mean_and_deviation_of_every_language(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = write_summary(tmp_path / "a", ru=0.20, cs=0.50)
    b = write_summary(tmp_path / "b", ru=0.24, cs=0.40)
    c = write_summary(tmp_path / "c", ru=0.90)

    assert main([f"ours={a},{b}", f"none={c}"]) == 0

    output = capsys.readouterr().out

    assert "| language | ours (n=2) | none (n=1) |" in output
    assert "| ru | 22.0 ± 2.8 | 90.0 |" in output
    assert "| cs | 45.0 ± 7.1 | not run |" in output
    assert "| macro | 33.5 ± 2.1 | not run |" in output
    assert "| ru | 44.0 ± 5.7 | 180.0 |" in output


def test_seed_that_lacks_a_language_is_not_averaged_with_those_that_have_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = write_summary(tmp_path / "a", ru=0.20, cs=0.50)
    b = write_summary(tmp_path / "b", ru=0.24, cs=0.40)
    c = write_summary(tmp_path / "c", ru=0.28)

    assert main([f"ours={a},{b},{c}"]) == 0

    output = capsys.readouterr().out

    assert "| ru | 24.0 ± 4.0 |" in output
    assert "| cs | 45.0 ± 7.1 (n=2) |" in output
    assert "| macro | 33.5 ± 2.1 (n=2) |" in output


def test_evaluations_of_one_language_each_make_one_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = tmp_path / "seed"
    seed.mkdir()

    write_summary(seed / "a", ru=0.2)
    write_summary(seed / "b", cs=0.5)

    assert main([f"ours={seed}"]) == 0

    assert "| macro | 35.0 |" in capsys.readouterr().out

    write_summary(seed / "c", ru=0.3)

    assert main([f"ours={seed}"]) == 2

    assert "`ru` is also in another summary" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"languages": {}}', '{"languages": {"ru": {}}}']
)
def test_what_is_no_summary_is_named(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "summary.json").write_text(content)

    assert main([f"ours={tmp_path}"]) == 2

    assert "summary.json" in capsys.readouterr().err


@pytest.mark.parametrize("argument", ["ours", "=x", "ours=", "ours=x,", "ours=x,x", "ours=nowhere"])
def test_wrong_argument_is_named(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([argument]) == 2

    error = capsys.readouterr().err

    assert error.count("\n") == 1
    assert argument in error or "nowhere" in error


def test_method_given_twice_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write_summary(tmp_path / "a", ru=0.2)
    b = write_summary(tmp_path / "b", ru=0.4)

    assert main([f"ours={a}", f"ours={b}"]) == 2

    assert "`ours` is given twice" in capsys.readouterr().err
