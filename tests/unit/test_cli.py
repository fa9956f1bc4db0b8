"""The ``eqssl`` command: help, exit statuses, and what reaches the parts behind it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from started import start

from eqssl_speech import cli

COMMANDS = [
    [],
    ["prepare"],
    ["prepare", "debian-speech"],
    ["prepare", "folder"],
    ["check"],
    ["doctor"],
]


def run_command(*args: object, errors: bool = True) -> tuple[int, str]:
    return start([*map(str, args)], os.environ, timeout_s=600, errors=errors)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command) or "eqssl")
def test_help_holds_examples(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([*command, "--help"])

    assert caught.value.code == 0

    output = capsys.readouterr().out

    assert "examples:" in output
    assert f"eqssl {' '.join(command)}".strip() in output


def test_help_imports_neither_torch_nor_fairseq2() -> None:
    program = (
        "import sys\n"
        "from eqssl_speech.cli import main\n"
        "try:\n"
        "    main(['check', '--help'])\n"
        "except SystemExit:\n"
        "    pass\n"
        "sys.exit(bool({'torch', 'fairseq2', 'numpy', 'rich'} & set(sys.modules)))"
    )

    assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == 0


def test_unknown_command_ends_with_status_2() -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["pretain"])

    assert caught.value.code == 2


def test_missing_corpus_is_one_sentence_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["check", str(tmp_path / "nowhere")]) == 2

    (line,) = capsys.readouterr().err.splitlines()

    assert line.startswith("eqssl: ")
    assert "nowhere" in line


def test_interrupt_ends_with_status_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("eqssl_speech.doctor.examine", interrupt)

    assert cli.main(["doctor"]) == 130
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("jobs", ["0", "-1", "many"])
def test_number_of_jobs_must_be_positive(jobs: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["check", "corpus", "--jobs", jobs])

    assert caught.value.code == 2
    assert "must be an integer greater than 0" in capsys.readouterr().err


def test_check_names_every_bad_file_and_accepts_few(
    tmp_path: Path, make_corpus: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = make_corpus(tmp_path / "corpus", formats=("wav",))

    broken = corpus / "en" / "audio" / "train-002.wav"
    broken.write_bytes(b"not audio")

    assert cli.main(["check", str(corpus), "--jobs", "1", "--min-audio-s", "0.5"]) == 0

    output = capsys.readouterr().out

    assert f"{corpus / 'en' / 'train.tsv'}:4: unreadable: {broken}" in output
    assert "1 unreadable" in output


def test_check_reads_past_the_header(
    tmp_path: Path, make_corpus: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = make_corpus(tmp_path / "corpus", sources=("en",), formats=("flac",))

    # The header and the length of the file stay as they were.
    file = corpus / "en" / "audio" / "train-001.flac"
    data = bytearray(file.read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    file.write_bytes(bytes(data))

    cli.main(["check", str(corpus), "--jobs", "1", "--min-audio-s", "0.5"])

    assert str(file) in capsys.readouterr().out


def test_check_ends_with_status_2_and_goes_on_when_a_source_is_unusable(
    tmp_path: Path, make_corpus: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = make_corpus(tmp_path / "corpus")

    (corpus / "en" / "valid.tsv").unlink()

    assert cli.main(["check", str(corpus), "--jobs", "2", "--min-audio-s", "0.5"]) == 2

    captured = capsys.readouterr()

    assert str(corpus / "en" / "valid.tsv") in captured.err
    assert "│ de" in captured.out


def test_check_prints_expected_passes(
    tmp_path: Path, make_corpus: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = make_corpus(tmp_path / "corpus", sources=("en",))

    status = cli.main(
        ["check", str(corpus), "--source", "en", "--min-audio-s", "0.5", "--train-hours", "1"]
    )

    assert status == 0

    (row,) = (line for line in capsys.readouterr().out.splitlines() if "100.0%" in line)
    passes = float(row.split("│")[-2])

    # One hour over 6 recordings of 1 to 2 s.
    assert 3600 / 12 < passes < 3600 / 6


def test_prepared_folder_passes_the_check(
    tmp_path: Path, write_audio: Callable[..., int], make_speech: Callable[..., object]
) -> None:
    for seed in range(6):
        write_audio(tmp_path / "mine" / "home" / f"{seed}.wav", make_speech(seed, 1.5))

    corpus = tmp_path / "corpus"

    args = ["prepare", "folder", str(tmp_path / "mine"), str(corpus)]

    assert cli.main([*args, "--valid-share", "0.4", "--jobs", "1"]) == 0
    assert cli.main(["check", str(corpus), "--jobs", "1"]) == 0


def test_unknown_package_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"

    assert cli.main(["prepare", "debian-speech", str(out), "--package", "festvox-xx"]) == 2

    assert "festvox-xx" in capsys.readouterr().err
    assert not out.exists()


def test_pretrain_passes_its_arguments_to_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    from eqssl_speech.tasks.pretrain.recipe import PretrainRecipe

    calls: list[tuple[list[str], object]] = []

    monkeypatch.setattr("sys.argv", ["unchanged"])
    monkeypatch.setattr(
        "fairseq2.recipe.cli.main", lambda recipe: calls.append((list(sys.argv), recipe))
    )

    args = ["out", "--config-file", "x.yaml", "--config", "a.b=1", "c=2", "--no-rich"]

    assert cli.main(["pretrain", *args]) == 0

    ((argv, recipe),) = calls

    assert argv == ["eqssl pretrain", *args]
    assert isinstance(recipe, PretrainRecipe)


def test_pretrain_help_holds_our_examples_and_the_flags_of_the_host() -> None:
    status, output = run_command("pretrain", "--help")

    assert status == 0, output

    assert "examples:" in output

    for flag in ("--config-file", "--config ", "--dump-config", "--no-rich", "--checkpoint-dir"):
        assert flag in output


def test_dumped_config_dumps_the_same_again(tmp_path: Path) -> None:
    status, first = run_command(
        "pretrain",
        "--dump-config",
        "--config",
        "equilibrium.num_inner_steps=3",
        "dataset.corpus=x",
        errors=False,
    )

    assert status == 0, first
    assert "num_inner_steps: 3" in first

    file = tmp_path / "whole.yaml"
    file.write_text(first)

    status, second = run_command("pretrain", "--dump-config", "--config-file", file, errors=False)

    assert status == 0, second
    assert second == first


def test_missing_corpus_of_a_run_is_one_sentence_and_status_2(tmp_path: Path) -> None:
    out = tmp_path / "out"

    status, output = run_command(
        "pretrain", out, "--no-rich", "--config", "dataset.corpus=/nowhere"
    )

    assert status == 2
    assert "/nowhere" in output
    assert "Traceback" not in output
    assert not out.exists()
