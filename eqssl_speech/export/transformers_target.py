"""Directories for Hugging Face transformers, which its classes and pipelines load as they are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eqssl_speech.data.transcribed import pad_waveforms
from eqssl_speech.export.files import save_tensors, write_json
from eqssl_speech.export.loading import ExportSource
from eqssl_speech.export.model import Outputs
from eqssl_speech.export.transformers_model import TransformersModel, convert_to_transformers
from eqssl_speech.export.transformers_tokenizer import write_tokenizer
from eqssl_speech.models.formats.transformers_directory import CONFIG_FILE, PREPROCESSOR_FILE
from eqssl_speech.models.wav2vec2 import expects_normalized_audio

_WEIGHTS_FILE: Final = "model.safetensors"


def write_transformers(directory: Path, source: ExportSource) -> TransformersModel:
    """Write a model.

    :param directory: Where to; it must exist.
    :param source: The model.
    :returns: What was written.
    :raises InputError: If transformers has no such model.
    """
    checkpoint, vocabulary = source.checkpoint, source.vocabulary

    model = convert_to_transformers(
        checkpoint.family,
        checkpoint.encoder_type,
        checkpoint.config,
        source.tensors,
        blank_index=0 if vocabulary is None else vocabulary.blank_index,
    )

    write_json(directory / CONFIG_FILE, model.config)
    write_json(directory / PREPROCESSOR_FILE, _describe_input(source))

    save_tensors(dict(model.tensors), directory / _WEIGHTS_FILE)

    if vocabulary is not None:
        write_tokenizer(directory, vocabulary, source.tokenizer)

    return model


def _describe_input(source: ExportSource) -> dict[str, object]:
    return {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": source.sample_rate,
        "padding_side": "right",
        "padding_value": 0.0,
        "do_normalize": expects_normalized_audio(source.checkpoint.encoder_config),
        # Padding is never attended to here, whatever the norms.
        "return_attention_mask": True,
    }


@final
class TransformersRunner:
    """Computes an exported model with transformers."""

    def __init__(self, directory: Path) -> None:
        """:param directory: What :func:`write_transformers` wrote."""
        import transformers

        config = json.loads((directory / CONFIG_FILE).read_text(encoding="utf-8"))
        kls = getattr(transformers, config["architectures"][0])

        self._directory = directory
        extractor_kls: Any = transformers.AutoFeatureExtractor

        self._extractor = extractor_kls.from_pretrained(directory)
        self._model, info = kls.from_pretrained(
            directory, output_loading_info=True, attn_implementation="sdpa"
        )
        self._model.eval()

        self.unused: tuple[str, ...] = tuple(sorted(info["unexpected_keys"]))
        """The tensors of the directory that transformers did not take."""

        self.missing: tuple[str, ...] = tuple(sorted(info["missing_keys"]))
        """The tensors that it lacks."""

    def run(self, waveforms: Sequence[npt.NDArray[np.float32]]) -> Outputs:
        """Compute recordings that are normalised as here; see :class:`~eqssl_speech.export.model.Runner`."""
        seqs, layout = pad_waveforms(waveforms, normalize=self._extractor.do_normalize).as_input()

        positions = torch.arange(seqs.size(1)).unsqueeze(0)
        attention_mask = positions < torch.tensor(layout.seq_lens).unsqueeze(1)

        return self._run({"input_values": seqs, "attention_mask": attention_mask.long()})

    def run_as_it_comes(self, waveforms: Sequence[npt.NDArray[np.float32]]) -> Outputs:
        """Compute recordings that transformers' own preprocessor has prepared.

        It divides by ``sqrt(variance + 1e-7)`` where wav2vec 2.0 is trained, here and in fairseq, with ``1e-5``, so
        that quiet recordings come out a little louder.
        """
        return self._run(
            self._extractor(
                list(waveforms),
                sampling_rate=self._extractor.sampling_rate,
                padding=True,
                return_tensors="pt",
            )
        )

    @torch.inference_mode()
    def _run(self, inputs: Any) -> Outputs:
        base = getattr(self._model, self._model.base_model_prefix, self._model)
        features = base(**inputs).last_hidden_state

        num_frames = base._get_feat_extract_output_lengths(inputs["attention_mask"].sum(-1))

        def cut(x: Tensor) -> list[Tensor]:
            return [row[:length] for row, length in zip(x, num_frames.tolist(), strict=True)]

        head: Any = getattr(self._model, "lm_head", None)

        return Outputs(cut(features), None if head is None else cut(head(features)))

    def transcribe(self, waveforms: Sequence[npt.NDArray[np.float32]]) -> list[str]:
        """Recognise recordings with the pipeline, one by one.

        The unknown label, which models are not taught and the pipeline writes out, is taken out.
        """
        from transformers import pipeline

        recognise: Any = pipeline("automatic-speech-recognition", model=str(self._directory))
        unknown = recognise.tokenizer.unk_token

        texts = [str(recognise(waveform.copy())["text"]) for waveform in waveforms]

        return [" ".join(text.replace(unknown or "", "").split()) for text in texts]
