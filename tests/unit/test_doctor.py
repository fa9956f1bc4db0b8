"""The doctor finds what is wrong, and stays on its feet whatever is."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from eqssl_speech import cli, doctor
from eqssl_speech.doctor import Finding, check_import, check_package, check_python, render


@pytest.mark.parametrize("version", [(3, 10, 0), (3, 11, 7), (3, 12, 11)])
def test_supported_python_is_no_problem(version: tuple[int, ...]) -> None:
    assert check_python(version).problem is None


@pytest.mark.parametrize("version", [(3, 9, 19), (3, 13, 0), (4, 0, 0)])
def test_other_python_is_a_problem_that_names_the_version(version: tuple[int, ...]) -> None:
    problem = check_python(version).problem

    assert problem is not None
    assert ".".join(map(str, version)) in problem


def test_missing_package_is_a_problem() -> None:
    finding = check_package("no-such-distribution", ">=1")

    assert finding.found == "missing"
    assert finding.problem is not None
    assert "no-such-distribution" in finding.problem


def test_wrong_version_is_a_problem_that_names_both() -> None:
    found = metadata.version("numpy")

    problem = check_package("numpy", "==0.1").problem

    assert problem is not None
    assert found in problem
    assert "==0.1" in problem

    assert check_package("numpy", f"=={found}").problem is None


def test_import_that_fails_is_a_problem_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "eqssl_broken_module.py").write_text("raise OSError('libfoo.so is missing')")

    monkeypatch.syspath_prepend(tmp_path)

    problem = check_import("eqssl_broken_module").problem

    assert problem is not None
    assert "OSError: libfoo.so is missing" in problem


def test_pins_are_those_of_setup_py() -> None:
    assert doctor._read_requirement("fairseq2") == "~=0.8.1"
    assert doctor._read_requirement("torchaudio") == "==2.9.*"
    assert doctor._read_requirement("torch").startswith("==2.9.1")


def test_extra_is_not_taken_for_a_requirement() -> None:
    assert doctor._read_requirement("ruff") == ""


def test_problems_come_after_the_findings() -> None:
    text = render([Finding("a", "1", ">=1"), Finding("bb", "2", problem="Mend bb.")])

    assert text.splitlines() == ["ok a   1  (wanted: >=1)", "!! bb  2", "", "Mend bb."]


def test_status_is_1_exactly_if_there_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = Finding("a", "1"), Finding("b", "2", problem="Mend b.")

    monkeypatch.setattr(doctor, "examine", lambda: [good])
    assert cli.main(["doctor"]) == 0
    assert "Nothing is wrong." in capsys.readouterr().out

    monkeypatch.setattr(doctor, "examine", lambda: [good, bad])
    assert cli.main(["doctor"]) == 1
    assert "Mend b." in capsys.readouterr().out


def test_this_environment_is_sound(capsys: pytest.CaptureFixture[str]) -> None:
    status = cli.main(["doctor"])

    output = capsys.readouterr().out

    assert status == 0, output

    for name in ("python", "torch", "fairseq2", "libsndfile", "extension", "cpu", "cuda"):
        assert f"ok {name} " in output


def test_survives_a_python_with_nothing_installed() -> None:
    # `-S` leaves site-packages out of the path, so that nothing but the repository can be imported.
    root = Path(cli.__file__).parents[2]

    program = (
        f"import sys; sys.path.insert(0, {str(root)!r})\n"
        "from eqssl_speech.cli import main; sys.exit(main(['doctor']))"
    )

    result = subprocess.run(
        [sys.executable, "-S", "-E", "-c", program], capture_output=True, text=True, cwd="/"
    )

    assert result.returncode == 1, result.stderr
    assert "`torch` is not installed" in result.stdout
    assert result.stderr == ""
