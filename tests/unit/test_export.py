"""Exported models compute, in the libraries that they are for, what they compute here; otherwise nothing is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fairseq2.models.transformer import TransformerNormOrder
from fairseq2.models.wav2vec2 import Wav2Vec2EncoderConfig
from torch import Tensor
from transformers import AutoModel, AutoProcessor, AutoTokenizer

from eqssl_speech.error import InputError
from eqssl_speech.export import TARGETS, Target, job
from eqssl_speech.export.job import export_model
from eqssl_speech.export.loading import ExportSource, load_export_source, make_export_source
from eqssl_speech.export.model import Outputs
from eqssl_speech.export.parity import read_recordings
from eqssl_speech.export.transformers_target import TransformersRunner
from eqssl_speech.export.transformers_tokenizer import write_tokenizer
from eqssl_speech.export.vocabulary import Vocabulary
from eqssl_speech.models.formats.names import Family
from eqssl_speech.models.hubert.config import micro_config as micro_hubert_config
from eqssl_speech.models.opening import make_model, open_checkpoint
from eqssl_speech.models.speech_checkpoint import SpeechCheckpoint
from eqssl_speech.models.wav2vec2.asr import fit_asr_config, micro_asr_config
from eqssl_speech.models.wav2vec2.config import micro_config
from eqssl_speech.text.languages import make_rules
from eqssl_speech.text.tokenizer import CtcTokenizer, Kind
from eqssl_speech.text.tokenizer_info import TrainedSource
from eqssl_speech.text.training import train_tokenizer

TEXTS = ["съешь ещё этих мягких французских булок да выпей чаю", "в чащах юга жил бы цитрус"] * 4

PYTORCH_TARGETS: tuple[Target, ...] = ("hf", "torchaudio", "fairseq2")

NORMS: dict[str, dict[str, Any]] = {
    "base": {},
    "large": {
        "norm_order": TransformerNormOrder.PRE,
        "layer_norm_features": False,
        "feature_extractor_layer_norm_convs": True,
        "feature_extractor_bias": True,
    },
    "mixed": {"norm_order": TransformerNormOrder.PRE, "layer_norm_features": False},
    "square": {"feature_dim": 48, "feature_extractor_layer_descs": None},
}


def make_encoder_config(norms: str) -> Wav2Vec2EncoderConfig:
    config = replace(micro_config().encoder_config, **NORMS[norms])

    if norms == "square":
        descs = micro_config().encoder_config.feature_extractor_layer_descs
        config.feature_extractor_layer_descs = [(48, *desc[1:]) for desc in descs]

    return config


def make_tokenizer(kind: Kind = "char") -> CtcTokenizer:
    return train_tokenizer(
        {TrainedSource("ru", "ru", 8): TEXTS},
        {"ru": make_rules("ru")},
        kind=kind,
        vocab_size=None if kind == "char" else 38,
    )


def make_source(family: Family, norms: str = "base", kind: Kind = "char") -> ExportSource:
    """Make a model of random weights, its biases and norms among them."""
    torch.manual_seed(5)

    encoder_config = make_encoder_config(norms)
    tokenizer = make_tokenizer(kind) if family == "wav2vec2_asr" else None
    config: Any

    if family == "hubert":
        config = replace(micro_hubert_config([7]), encoder_config=encoder_config)
    elif tokenizer is not None:
        config = fit_asr_config(micro_asr_config(), encoder_config, tokenizer.vocab_size)
    else:
        config = replace(micro_config(), encoder_config=encoder_config)

    tensors = dict(make_model(family, config).state_dict())
    for name, tensor in tensors.items():
        if tensor.ndim == 1:
            tensors[name] = tensor + 0.2 * torch.randn_like(tensor)

    def make() -> ExportSource:
        checkpoint = SpeechCheckpoint("a model", family, config, tensors, None, None)

        return make_export_source(checkpoint, tokenizer)

    if family == "wav2vec2_asr":
        # So that each label is the best one now and then.
        tensors["final_proj.weight"] = 3.0 * torch.randn_like(tensors["final_proj.weight"])

        logits = make().make_plain().run(read_recordings(None, 16_000)[:1]).logits
        assert logits is not None
        tensors["final_proj.bias"] -= logits[0].mean(dim=0)

    return make()


@pytest.fixture(scope="module")
def recordings() -> list[np.ndarray]:
    return read_recordings(None, 16_000)[::5]


@pytest.mark.parametrize("norms", NORMS)
@pytest.mark.parametrize("family", ["wav2vec2", "hubert", "wav2vec2_asr"])
@pytest.mark.parametrize("target", PYTORCH_TARGETS)
def test_the_exported_model_computes_the_same(
    tmp_path: Path, recordings: list[Any], target: Target, family: Family, norms: str
) -> None:
    source = make_source(family, norms)

    report = export_model(source, target, tmp_path / "out", recordings, name="my_model")

    cases = {c.case: c for c in report.parity.comparisons}
    own = {"all, prepared by it"} if target == "hf" else set()
    assert set(cases) == {"alone", "padded together", "short", "long"} | own

    for case in (case for name, case in cases.items() if name not in own):
        assert case.features < 1e-5
        assert (case.logits is not None) == (family == "wav2vec2_asr")
        assert (case.logits or 0.0) < 1e-4

    assert {name.split(".")[0] for name in report.left_out} <= {
        "masker",
        "quantizer",
        "final_proj",
        "final_target_proj",
        "code_embeddings",
    }
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("kind", ["char", "unigram", "bpe"])
def test_the_pipeline_of_transformers_writes_the_same_text(
    tmp_path: Path, recordings: list[Any], kind: Kind
) -> None:
    source = make_source("wav2vec2_asr", "large", kind)

    report = export_model(source, "hf", tmp_path / "out", recordings)

    # Greedy and the pipeline.
    texts = [ours for ours, _ in report.parity.texts]
    assert len(texts) == 2 * (len(recordings) - report.parity.num_ties) >= 2
    assert all(ours == theirs for ours, theirs in report.parity.texts)
    assert any(" " in text for text in texts)

    assert source.vocabulary is not None
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    labels = [5, 5, 0, 5, 7, 0, 0, 9, 9]
    assert processor.tokenizer.decode(labels) == source.vocabulary.decode(labels)


@pytest.mark.parametrize("kind", ["char", "unigram", "bpe"])
def test_the_tokenizer_of_transformers_writes_the_same_labels(tmp_path: Path, kind: Kind) -> None:
    source = make_source("wav2vec2_asr", kind=kind)
    assert source.vocabulary is not None
    assert source.tokenizer is not None
    write_tokenizer(tmp_path, source.vocabulary, source.tokenizer)

    tokenizer = AutoTokenizer.from_pretrained(tmp_path)

    # The last has a letter that is not in the vocabulary, twice in a row.
    for text in [*TEXTS, "юга жил", "ю", "мягкиймягкий чай", "бqqл жил"]:
        expected = source.tokenizer.encode(text)
        if kind == "char":
            # Each letter by itself is unknown there.
            expected = [
                i for x in expected for i in ([x] * 2 if x == source.tokenizer.unk_index else [x])
            ]

        assert tokenizer(text).input_ids == expected, text


@pytest.mark.parametrize("family", ["wav2vec2", "hubert", "wav2vec2_asr"])
def test_what_was_exported_can_be_exported_again(
    tmp_path: Path, recordings: list[Any], family: Family
) -> None:
    source = make_source(family)
    export_model(source, "hf", tmp_path / "first", recordings[:1])

    again = load_export_source(tmp_path / "first")
    export_model(again, "hf", tmp_path / "second", recordings[:1])

    for file in (tmp_path / "first").iterdir():
        # The model card says where it comes from.
        if file.name != "README.md":
            assert file.read_bytes() == (tmp_path / "second" / file.name).read_bytes(), file.name


def test_an_asset_is_found_by_its_name(
    tmp_path: Path, recordings: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_source("wav2vec2_asr")
    export_model(source, "fairseq2", tmp_path / "assets" / "mine", recordings[:1], name="my_asr")

    program = (
        # Makes libsndfile findable on machines that have none.
        "import eqssl_speech; from fairseq2 import init_fairseq2; init_fairseq2();"
        "from fairseq2.models.wav2vec2.asr import get_wav2vec2_asr_model_hub as hub;"
        "from fairseq2.data.tokenizers import load_tokenizer;"
        "print(sum(p.sum().item() for p in hub().load_model('my_asr').parameters()));"
        "print(load_tokenizer('my_asr').vocab_info.size)"
    )
    environment = os.environ | {"FAIRSEQ2_USER_ASSET_DIR": str(tmp_path / "assets")}
    output = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )

    assert output.returncode == 0, output.stderr
    total, vocab_size = output.stdout.split()[-2:]

    assert source.tokenizer is not None
    assert int(vocab_size) == source.tokenizer.vocab_size
    expected = sum(float(p.sum()) for p in source.module.parameters())
    assert float(total) == pytest.approx(expected, abs=1e-3)


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
