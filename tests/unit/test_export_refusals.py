"""An export that is wrong, killed or asked for in vain leaves nothing, and says why."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from export_sources import make_source
from torch import Tensor
from transformers import AutoModel

from eqssl_speech.cli import main
from eqssl_speech.error import InputError
from eqssl_speech.export import TARGETS, Target, job
from eqssl_speech.export.job import export_model
from eqssl_speech.export.loading import load_export_source
from eqssl_speech.export.model import Outputs
from eqssl_speech.export.parity import read_recordings
from eqssl_speech.export.transformers_target import TransformersRunner
from eqssl_speech.export.vocabulary import Vocabulary
from eqssl_speech.models.opening import make_model, open_checkpoint
from eqssl_speech.models.wav2vec2.asr import fit_asr_config, micro_asr_config
from eqssl_speech.models.wav2vec2.config import micro_config


@pytest.fixture(scope="module")
def recordings() -> list[np.ndarray]:
    return read_recordings(None, 16_000)[::5]


class WrongRunner:
    """An exported model that is off by a little, in one place."""

    def __init__(self, runner: Any, change: Callable[[Tensor], Tensor]) -> None:
        self._runner = runner
        self._change = change

    def run(self, waveforms: Sequence[Any]) -> Outputs:
        outputs = self._runner.run(waveforms)

        return Outputs([self._change(x.clone()) for x in outputs.features], outputs.logits)


def _shift(x: Tensor) -> Tensor:
    x[-1, 3] += 0.01

    return x


def _spoil(x: Tensor) -> Tensor:
    x[0, 0] = torch.nan

    return x


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (_shift, r"computes something else \(recordings alone: .* features 0\.01\)"),
        (_spoil, r"computes something else \(recordings alone: .* features nan\)"),
        (lambda x: x[:-1], r"has an output of the shape .* so the export is wrong"),
    ],
)
def test_a_wrong_export_leaves_nothing(
    tmp_path: Path,
    recordings: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Tensor], Tensor],
    error: str,
) -> None:
    right = job._open
    monkeypatch.setattr(
        job, "_open", lambda target, directory: WrongRunner(right(target, directory), change)
    )

    with pytest.raises(InputError, match=error):
        export_model(make_source("wav2vec2"), "torchaudio", tmp_path / "out", recordings)

    assert not list(tmp_path.iterdir())


def test_another_text_is_a_wrong_export(
    tmp_path: Path, recordings: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TransformersRunner, "transcribe", lambda self, ws: ["x"] * len(ws))

    with pytest.raises(InputError, match=r"\d texts differ, like .* and 'x'"):
        export_model(make_source("wav2vec2_asr"), "hf", tmp_path / "out", recordings)

    assert not list(tmp_path.iterdir())


def test_a_killed_export_leaves_no_target(tmp_path: Path) -> None:
    """Killed as it is read back: all files are written then, and none is where it was to be."""
    torch.save(make_model("wav2vec2", micro_config()).state_dict(), tmp_path / "a.pt")

    program = (
        "import os, signal; import eqssl_speech; from eqssl_speech.export import job;"
        "job._open = lambda *a: os.kill(os.getpid(), signal.SIGKILL);"
        "from eqssl_speech.cli import main;"
        f"main(['export', {str(tmp_path / 'a.pt')!r}, '--to', 'hf', '--out', {str(tmp_path / 'out')!r}])"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert process.returncode == -signal.SIGKILL, process.stderr
    assert not (tmp_path / "out").exists()

    # Another that is still being made stays; what was left by the killed one goes.
    (tmp_path / ".out.1.new").mkdir()
    lock = os.open(tmp_path / ".out.1.new", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)

    assert len(list(tmp_path.glob(".out.*.new"))) == 2
    assert main(["export", str(tmp_path / "a.pt"), "--to", "hf", "--out", str(tmp_path / "out")]) == 0  # fmt: skip
    assert [path.name for path in tmp_path.glob(".out.*.new")] == [".out.1.new"]

    os.close(lock)


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_that_exists_is_refused(tmp_path: Path, target: Target) -> None:
    (tmp_path / "out").mkdir()

    with pytest.raises(InputError, match="out: exists already; give another `--out`"):
        export_model(make_source("wav2vec2"), target, tmp_path / "out", [])


def test_a_name_that_no_asset_can_have_is_refused(tmp_path: Path, recordings: list[Any]) -> None:
    with pytest.raises(InputError, match=r"must consist of letters.* but is 'a b@c' instead"):
        export_model(make_source("wav2vec2"), "fairseq2", tmp_path / "o", recordings, name="a b@c")

    assert not list(tmp_path.iterdir())


def test_an_encoder_alone_has_no_place_in_fairseq2(tmp_path: Path, recordings: list[Any]) -> None:
    source = make_source("wav2vec2")
    export_model(source, "torchaudio", tmp_path / "first", recordings[:1])
    encoder = load_export_source(tmp_path / "first" / "model.safetensors")

    with pytest.raises(InputError, match=r"has no tensor `.*`, which a model of the family `wav2"):
        export_model(encoder, "fairseq2", tmp_path / "second", recordings[:1])

    export_model(encoder, "hf", tmp_path / "third", recordings[:1])
    assert type(AutoModel.from_pretrained(tmp_path / "third")).__name__ == "Wav2Vec2Model"


def save_asr(directory: Path, pieces: Sequence[str]) -> Path:
    """Save a recogniser as a file of tensors."""
    directory.mkdir()
    config = fit_asr_config(micro_asr_config(), micro_config().encoder_config, len(pieces))
    torch.save(make_model("wav2vec2_asr", config).state_dict(), directory / "a.pt")

    return directory / "a.pt"


def test_labels_are_found_beside_a_checkpoint(tmp_path: Path) -> None:
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "|", "E", "T"]
    file = save_asr(tmp_path / "fairseq", pieces)

    with pytest.raises(InputError, match=r"there is nothing that says what its labels are"):
        load_export_source(file)

    (file.parent / "dict.ltr.txt").write_text("| 94802\nE 51860\nT 38431\n")
    vocabulary = load_export_source(file).vocabulary

    assert vocabulary == Vocabulary(tuple(pieces), 0, frozenset({0, 1, 2, 3}), "|")
    assert vocabulary.decode([0, 5, 5, 0, 5, 4, 6, 3, 6]) == "EE TT"

    (file.parent / "dict.ltr.txt").write_text("| 94802\nE 51860\n")
    with pytest.raises(InputError, match="has 7 labels, but its vocabulary lists 6"):
        load_export_source(file)

    (file.parent / "vocab.json").write_text(json.dumps({p: i for i, p in enumerate(pieces)}))
    vocabulary = load_export_source(file).vocabulary

    assert vocabulary is not None
    assert (vocabulary.blank_index, vocabulary.word_boundary) == (1, "|")

    (file.parent / "vocab.json").write_text(json.dumps({"eng": {"a": 0}}))
    with pytest.raises(InputError, match="does not number its 1 pieces from 0"):
        load_export_source(file)

    (file.parent / "other.txt").write_text("")
    with pytest.raises(InputError, match="is no dictionary of fairseq"):
        load_export_source(file, vocabulary_file=file.parent / "other.txt")


def test_a_model_without_labels_takes_no_vocabulary(tmp_path: Path) -> None:
    torch.save(make_model("wav2vec2", micro_config()).state_dict(), tmp_path / "a.pt")

    with pytest.raises(InputError, match="is no recogniser and has no labels"):
        load_export_source(tmp_path / "a.pt", vocabulary_file=tmp_path / "vocab.json")


def test_recordings_are_named_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF no")

    with pytest.raises(InputError, match=r"a\.wav.*give other `--recordings`"):
        read_recordings([str(tmp_path)], 16_000)


def test_a_half_written_checkpoint_is_refused(tmp_path: Path) -> None:
    tensors = make_model("wav2vec2", micro_config()).state_dict()
    del tensors["encoder.layers.1.ffn.inner_proj.bias"]
    torch.save(tensors, tmp_path / "a.pt")

    with pytest.raises(InputError, match=r"no tensor `encoder\.layers\.1\.ffn\.inner_proj\.bias`"):
        load_export_source(tmp_path / "a.pt")

    assert open_checkpoint(tmp_path / "a.pt").family == "wav2vec2"
