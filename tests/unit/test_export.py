"""Exported models compute, in the libraries that they are for, what they compute here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from export_sources import NORMS, TEXTS, make_source
from transformers import (
    AutoFeatureExtractor,
    AutoModelForCTC,
    AutoProcessor,
    AutoTokenizer,
)

from eqssl_speech.export import Target
from eqssl_speech.export.job import export_model
from eqssl_speech.export.loading import load_export_source
from eqssl_speech.export.parity import read_recordings
from eqssl_speech.export.transformers_tokenizer import write_tokenizer
from eqssl_speech.models.formats.names import Family
from eqssl_speech.text.tokenizer import Kind

PYTORCH_TARGETS: tuple[Target, ...] = ("hf", "torchaudio", "fairseq2")


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
    expected = sum(p.sum().item() for p in source.module.parameters())
    assert float(total) == pytest.approx(expected, abs=1e-3)


def test_transformers_goes_on_to_train_what_was_exported(
    tmp_path: Path, recordings: list[Any]
) -> None:
    """As its own example of fine-tuning does: an output layer is new, and nothing else."""
    for family in ("wav2vec2", "hubert"):
        export_model(make_source(family), "hf", tmp_path / family, recordings[:1])

        settings = {"vocab_size": 6, "pad_token_id": 0, "ctc_loss_reduction": "mean"}
        model, info = AutoModelForCTC.from_pretrained(
            tmp_path / family, output_loading_info=True, **settings
        )
        assert sorted(info["missing_keys"]) == ["lm_head.bias", "lm_head.weight"]

        processor = AutoFeatureExtractor.from_pretrained(tmp_path / family)
        inputs = processor(recordings[:2], sampling_rate=16_000, padding=True, return_tensors="pt")
        labels = torch.tensor([[1, 2, 3, 4, 5], [2, 2, 4, 1, -100]])
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        losses = []

        for _ in range(4):
            loss = model(**inputs, labels=labels).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())

        assert losses[-1] < losses[0]
