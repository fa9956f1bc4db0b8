"""Runs of the pre-training recipe in a directory of the test."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from families import FAMILIES
from recipe_runs import TWO_STEPS, Run, choose_family, label_sample, run_pretrain

from eqssl_speech.cli import main


@pytest.fixture
def pretrain(tmp_path: Path) -> Callable[..., Run]:
    def run(name: str, overrides: dict[str, Any] | None = None, **kwargs: Any) -> Run:
        return run_pretrain(tmp_path / name, overrides, **kwargs)

    return run


@pytest.fixture(scope="session")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the labels of the sample's two sources that runs of seconds are trained on."""
    return label_sample(tmp_path_factory.mktemp("labels") / "mfcc")


@pytest.fixture(scope="session", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The settings that choose the family of the model, of each in turn."""
    return choose_family(request.param, lambda: request.getfixturevalue("labels"))


@pytest.fixture(scope="session")
def made_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the corpus is, once a test has made it."""
    return tmp_path_factory.mktemp("made") / "corpus"


@pytest.fixture
def corpus(make_corpus: Callable[..., Path], tmp_path: Path, made_corpus: Path) -> Path:
    """A corpus of two sources, with seconds of audio, which the test may change."""
    if not made_corpus.exists():
        make_corpus(made_corpus, num_train=8, num_valid=2)

    return Path(shutil.copytree(made_corpus, tmp_path / "corpus"))


@pytest.fixture
def start(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Start a run of two steps in this process; returns the exit status and what was printed."""

    def run(corpus: Path, name: str = "out", **overrides: object) -> tuple[int, str]:
        settings: dict[str, object] = TWO_STEPS | {"dataset.corpus": corpus}
        settings |= {key.replace("__", "."): value for key, value in overrides.items()}

        capfd.readouterr()

        try:
            status = main(
                [
                    "pretrain", str(tmp_path / name), "--no-rich",
                    "--config", *(f"{k}={v}" for k, v in settings.items()),
                ]
            )  # fmt: skip
        except SystemExit as ex:
            status = int(ex.code or 0)

        captured = capfd.readouterr()

        return status, captured.out + captured.err

    return run
