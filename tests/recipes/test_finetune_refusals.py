"""What a user gets wrong in the settings of a fine-tuning run: one sentence, exit status 2, nothing written."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from recipe_runs import SAMPLE, SMALL_FINETUNE

from eqssl_speech.cli import main

Start = Callable[..., tuple[int, str]]


@pytest.fixture
def start(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Start:
    """Start fine-tuning in this process; returns the exit status and what was printed."""
    tokenizer = tmp_path / "tokenizer"

    sources = ["--source", "ru-festvox", "--source", "es-drascula"]
    assert main(["tokenizer", str(SAMPLE), str(tokenizer), *sources]) == 0

    def run(
        *settings: str, output_dir: Path | None = None, extra: tuple[str, ...] = ()
    ) -> tuple[int, str]:
        base = [f"{k}={v}" for k, v in (SMALL_FINETUNE | {"tokenizer": tokenizer}).items()]

        capfd.readouterr()

        try:
            directory = str(output_dir or tmp_path / "out")
            status = main(["finetune", directory, "--no-rich", *extra, "--config", *base, *settings])  # fmt: skip
        except SystemExit as ex:
            status = int(ex.code or 0)

        captured = capfd.readouterr()

        return status, captured.out + captured.err

    return run


def assert_refused(result: tuple[int, str], directory: Path, *words: str) -> None:
    status, output = result

    assert status == 2, output
    assert "Traceback" not in output

    (line,) = [line for line in output.splitlines() if "ERROR" in line]

    for word in words:
        assert word in line

    assert not directory.exists(), "something was written"


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("dataset.sorces=[ru-festvox]", ["`dataset.sorces`", "`sources` is the closest"]),
        ("optimzer.config.lr=0.1", ["no `optimzer`", "`optimizer` is the closest"]),
        ("optimizer.config.lrr=0.1", ["`optimizer.config.lrr`", "`lr` is the closest"]),
        ("optimizer.config.lr=abc", ["`optimizer.config.lr`", "'abc'"]),
        ("optimizer.config.lr=-1", ["`optimizer.config`", "-1.0"]),
        ("weighting.method=ctc-dro", ["`weighting.method`", "average, ctc_dro"]),
        ("model.config_overrides.foo=1", ["`model.config_overrides.foo`"]),
        ("model.dtype=float99", ["`model.dtype`", "float99"]),
        ("num_new_layers=3", ["`num_new_layers` is 3", "from 0 to 2"]),
        ("num_new_layers=-1", ["`num_new_layers` is -1", "from 0"]),
        ("dataset=3", ["`dataset`", "`int`"]),
        ("dataset.sources=ru-festvox", ["`[ru-festvox]`", "brackets"]),
        ("dataset.audio_seconds_per_update=1", ["too long", "raise `dataset.audio_seconds_per_update` to"]),
        ("dataset.max_audio_s=0.7", ["too long", "raise `dataset.max_audio_s`, and"]),
    ],
)  # fmt: skip
def test_a_mistaken_setting_is_refused_by_its_name(
    start: Start, tmp_path: Path, setting: str, words: list[str]
) -> None:
    assert_refused(start(setting), tmp_path / "out", *words)


def test_new_layers_that_would_stay_random_are_refused(start: Start, tmp_path: Path) -> None:
    settings = ("num_new_layers=1", "freeze.num_encoder_steps=9", "pretrained=wav2vec2_base")

    result = start(*settings, "regime.num_steps=9")

    assert_refused(result, tmp_path / "out", "`num_new_layers` is 1", "`freeze.num_encoder_steps`")


@pytest.mark.parametrize(
    ("text", "words"),
    [(None, ["does not point to"]), ("a: b: c", ["not a valid YAML file", "line 1"])],
)
def test_a_configuration_file_that_cannot_be_read_is_refused(
    start: Start, tmp_path: Path, text: str | None, words: list[str]
) -> None:
    file = tmp_path / "my.yaml"

    if text is not None:
        file.write_text(text)

    result = start(extra=("--config-file", str(file)))

    assert_refused(result, tmp_path / "out", "my.yaml", *words)


class Evil:
    """Makes a folder where it is unpickled."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self._directory),)


def test_a_file_that_holds_no_encoder_is_refused_before_anything_is_written(
    start: Start, tmp_path: Path
) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "other.pt")
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil(tmp_path / "run"), protocol=2))

    for name, word in (("other", "`a`"), ("text", "damaged"), ("evil", "would run code")):
        result = start(f"pretrained={tmp_path}/{name}.pt")

        assert_refused(result, tmp_path / "out", f"{name}.pt", word)

    assert not (tmp_path / "run").exists()


def test_an_output_directory_that_cannot_be_made_is_refused(start: Start, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    directory = tmp_path / "file" / "out"

    assert_refused(start(output_dir=directory), directory, "file/out", "cannot be made", "choose another")  # fmt: skip


def test_a_tokenizer_that_cannot_be_written_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")

    assert main(["tokenizer", str(SAMPLE), str(tmp_path / "file" / "tokenizer")]) == 2

    error = capfd.readouterr().err

    assert "file/tokenizer: the tokenizer cannot be written" in error
    assert "Traceback" not in error


def test_a_comparison_that_is_not_there_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "model", str(SAMPLE), "--compare", str(tmp_path / "no.json")]) == 2
    assert "no.json: there is no such file" in capfd.readouterr().err
