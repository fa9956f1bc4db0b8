"""What is written for sherpa-onnx gives the text that our model does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fairseq2.models.wav2vec2 import Wav2Vec2EncoderConfig
from fairseq2.nn import Linear
from onnx_models import (
    CONFIGS,
    LETTERS,
    MICRO,
    NORMALIZED,
    TOLERANCE,
    Exported,
    export,
    export_once,
    find_largest,
    make_model,
    make_noise,
    read_recording,
    run_graph,
)

from eqssl_speech.error import InputError
from eqssl_speech.export.model import SpeechModel
from eqssl_speech.export.onnx import OnnxRunner, SherpaRunner
from eqssl_speech.export.vocabulary import Vocabulary

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("sherpa_onnx")

Record = Any


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export_once(tmp_path_factory.mktemp("exported"))


def make_talkative(config: Wav2Vec2EncoderConfig, vocabulary: Vocabulary) -> SpeechModel:
    """Each label, also the silent ones, is the best one of some frames of noise."""
    model = make_model(config, len(vocabulary.pieces))
    logits = model.run(make_noise([64_000])).logits
    assert logits is not None

    assert isinstance(model.final_proj, Linear)
    assert model.final_proj.bias is not None

    with torch.no_grad():
        mean, deviation = logits[0].mean(0), logits[0].std(0)

        model.final_proj.bias.sub_(mean).div_(deviation)
        model.final_proj.weight.div_(deviation.unsqueeze(1))

    return model


def find_labels(model: SpeechModel, waveform: Any) -> list[int] | None:
    """The best label of each frame; `None` if rounding could change one of them."""
    logits = model.run([waveform]).logits
    assert logits is not None

    best = logits[0].topk(2, dim=-1)
    margin = float((best.values[:, 0] - best.values[:, 1]).min())

    return best.indices[:, 0].tolist() if margin > 1e-3 else None


def check_texts(model: SpeechModel, vocabulary: Vocabulary, directory: Path) -> set[int]:
    """Texts of ours, onnxruntime and sherpa-onnx are the same. Returns the labels that were the best of a frame."""
    onnx_runner, sherpa_runner = OnnxRunner(directory), SherpaRunner(directory)
    seen: set[int] = set()

    for seed in range(8):
        (waveform,) = make_noise([8_000 + 320 * seed], seed=seed)
        labels = find_labels(model, waveform)

        if labels is None:
            continue

        seen.update(labels)
        text = vocabulary.decode(labels)

        logits = onnx_runner.run([waveform]).logits
        assert logits is not None

        assert vocabulary.decode(logits[0].argmax(-1).tolist()) == text
        assert sherpa_runner.transcribe([waveform]) == [text]

    return seen


VOCABULARIES = {
    "characters": LETTERS,
    "non-latin": Vocabulary(("<pad>", "<unk>", "▁", *"éñяфع字"), 0, frozenset({0, 1}), "▁"),
    "pieces": Vocabulary(
        ("<pad>", "<unk>", "▁при", "вет", "▁", "▁a", "s", "ß"), 0, frozenset({0, 1}), "▁"
    ),
    "hugging-face": Vocabulary(
        ("<pad>", "<s>", "</s>", "<unk>", "|", "E", "'", "Ж"), 0, frozenset(range(4)), "|"
    ),
    "fairseq": Vocabulary(
        ("<s>", "<pad>", "</s>", "<unk>", "|", "E", "T"), 0, frozenset(range(4)), "|"
    ),
    "blank-last": Vocabulary(("а", "▁", "б", "[UNK]", "[PAD]"), 4, frozenset({3, 4}), "▁"),
    # sherpa-onnx leaves these out of texts unless told otherwise.
    "skipped-symbols": Vocabulary(("<pad>", "SIL", "</s>", "▁", "a"), 0, frozenset({0}), "▁"),
    # Whose letters it could take for bytes.
    "byte-letters": Vocabulary(("<pad>", "<unk>", "▁", *"aéơư"), 0, frozenset({0, 1}), "▁"),
    "digits": Vocabulary(("<pad>", "▁", "1", "2", "0x3", "#", '"'), 0, frozenset({0}), "▁"),
}


@pytest.mark.parametrize("name", list(VOCABULARIES))
def test_sherpa_writes_what_the_vocabulary_does(name: str, tmp_path: Path) -> None:
    vocabulary = VOCABULARIES[name]
    model = make_talkative(NORMALIZED, vocabulary)

    seen = check_texts(model, vocabulary, export(tmp_path / "out", model, vocabulary))

    assert seen == set(range(len(vocabulary.pieces)))


@pytest.mark.parametrize("name", ["micro", "conformer", "stacked-positions"])
def test_sherpa_writes_what_the_vocabulary_does_for_other_models(name: str, tmp_path: Path) -> None:
    model = make_talkative(CONFIGS[name], LETTERS)

    seen = check_texts(model, LETTERS, export(tmp_path / "out", model, LETTERS))

    assert seen == set(range(len(LETTERS.pieces)))


@pytest.mark.parametrize("level", [1.0, 0.01, 0.001])
@pytest.mark.parametrize("name", ["tiny", "biased-group-norm", "normalized"])
def test_audio_that_sherpa_has_normalised_gives_our_logits(
    name: str, level: float, exported: Exported, record_property: Record
) -> None:
    """A group norm would tell a quiet recording from a loud one, but sherpa-onnx brings all to one level."""
    model, directory = exported(name)
    waveform = read_recording("ru_0105.ogg", 40_000, level)

    # offline-omnilingual-asr-ctc-model.cc
    mean = waveform.mean()
    variance = np.square(waveform).mean() - mean * mean
    normalized = (waveform - mean) * (np.float32(1.0) / np.sqrt(variance + np.float32(1e-5)))

    (theirs,) = run_graph(directory / "sherpa.onnx", waveforms=normalized[None]).values()
    ours = model.run([waveform]).logits
    assert ours is not None

    silent, others = sorted(LETTERS.silent_indices), range(2, len(LETTERS.pieces))

    largest = max(
        find_largest([ours[0][:, others]], [torch.tensor(theirs[0][:, others])]),
        find_largest([ours[0][:, silent].amax(dim=1)], [torch.tensor(theirs[0][:, 0])]),
    )

    record_property("logits", largest)
    assert largest <= TOLERANCE


def test_a_model_of_another_sample_rate_has_no_file_for_sherpa(tmp_path: Path) -> None:
    model = make_model(NORMALIZED, len(LETTERS.pieces))
    directory = export(tmp_path / "out", model, LETTERS, sample_rate=8_000)

    assert not (directory / "sherpa.onnx").exists()
    assert (directory / "tokens.txt").exists()

    with pytest.raises(InputError, match=r"holds no sherpa\.onnx; .* of a recogniser for 16000 Hz"):
        SherpaRunner(directory)


def test_tokens_are_listed_with_the_blank_by_its_name(exported: Exported) -> None:
    _, directory = exported("micro")

    lines = (directory / "tokens.txt").read_text(encoding="utf-8").splitlines()

    letters = [f"{letter} {index}" for index, letter in enumerate("абвгдежз", start=3)]

    assert lines == ["<blk> 0", "<unk> 1", "▁ 2", *letters]


@pytest.mark.parametrize("piece", ["", "a b", "\t"])
def test_pieces_that_a_line_cannot_hold_are_refused(piece: str, tmp_path: Path) -> None:
    vocabulary = Vocabulary(("<pad>", "a", piece), 0, frozenset({0}), "▁")

    with pytest.raises(InputError, match=f"label 2 of the vocabulary is `{piece}`"):
        export(tmp_path / "out", make_model(MICRO, 3), vocabulary)
