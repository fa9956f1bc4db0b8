"""The tokenizer in a run's directory: what a failed start has left gives way, what checkpoints depend on does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from eqssl_speech.error import InputError
from eqssl_speech.tasks.recognizer import save_recognizer
from eqssl_speech.text.languages import make_rules
from eqssl_speech.text.tokenizer import CtcTokenizer
from eqssl_speech.text.tokenizer_info import TrainedSource
from eqssl_speech.text.training import train_tokenizer


def make_tokenizer(*lines: str) -> CtcTokenizer:
    return train_tokenizer({TrainedSource("a", "en", 1): lines}, {"en": make_rules("en")})


def save(directory: Path, tokenizer: CtcTokenizer) -> None:
    save_recognizer(directory, tokenizer, sources=[("a", "en")], sample_rate=16_000)


def test_another_tokenizer_is_refused_once_there_are_checkpoints(tmp_path: Path) -> None:
    first, second = make_tokenizer("abc cab"), make_tokenizer("abd dab")

    save(tmp_path, first)
    (tmp_path / "checkpoints" / "step_10").mkdir(parents=True)

    save(tmp_path, first)

    with pytest.raises(InputError, match="another tokenizer"):
        save(tmp_path, second)

    assert CtcTokenizer.load(tmp_path / "tokenizer").vocabulary == first.vocabulary


def test_what_a_failed_start_has_left_gives_way(tmp_path: Path) -> None:
    second = make_tokenizer("abd dab")

    save(tmp_path, make_tokenizer("abc cab"))
    save(tmp_path, second)

    assert CtcTokenizer.load(tmp_path / "tokenizer").vocabulary == second.vocabulary
