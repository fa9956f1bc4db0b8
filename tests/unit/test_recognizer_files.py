"""A run's directory: a failed start's tokenizer gives way, one that checkpoints depend on does not; what is no run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from eqssl_speech.error import InputError
from eqssl_speech.tasks.recognizer import load_recognizer, save_recognizer
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


def make_pretraining_run(directory: Path) -> None:
    (directory / "checkpoints" / "step_10" / "model" / "pp_00").mkdir(parents=True)

    file = directory / "checkpoints" / "model.yaml"
    file.write_text("model_family: wav2vec2\nmodel_config:\n  model_dim: 48\n")


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda path: None, "there is no such directory; give"),
        (lambda path: path.write_text("x"), "is not a directory; give"),
        (lambda path: path.mkdir(), "holds no fine-tuned model; give"),
        (make_pretraining_run, "is a pre-training run, .* fine-tune it .*pretrained=.*run"),
    ],
)
def test_what_is_no_fine_tuned_run_is_called_so(
    tmp_path: Path, make: Callable[[Path], object], fault: str
) -> None:
    make(tmp_path / "run")

    with pytest.raises(InputError, match=fault) as error:
        load_recognizer(tmp_path / "run")

    message = str(error.value)

    assert message.startswith(f"{tmp_path / 'run'}: ")
    assert "give the output directory" in message
    assert "recognizer.json" not in message
