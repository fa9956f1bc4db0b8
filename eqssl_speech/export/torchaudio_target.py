"""State dicts for torchaudio's ``wav2vec2_model``, with the arguments that make the model that they fit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt
import torch
from fairseq2.models.transformer import TransformerNormOrder
from fairseq2.models.wav2vec2.asr import Wav2Vec2AsrConfig
from safetensors.torch import load_file
from torch import Tensor

from eqssl_speech.data.transcribed import pad_waveforms
from eqssl_speech.export.files import make_missing_projection, save_tensors, write_json
from eqssl_speech.export.loading import ExportSource
from eqssl_speech.export.model import Outputs
from eqssl_speech.models.formats.names import TORCHAUDIO, parametrize, spell
from eqssl_speech.models.formats.shapes import AnyConfig
from eqssl_speech.models.formats.transformers_config import require_plain_encoder
from eqssl_speech.models.wav2vec2 import expects_normalized_audio
from eqssl_speech.models.wav2vec2.encoder_checks import is_encoder

ARGUMENTS_FILE: Final = "model.json"
WEIGHTS_FILE: Final = "model.safetensors"
LABELS_FILE: Final = "labels.txt"

_PROJECTION: Final = "encoder.feature_projection.projection"


def write_torchaudio(directory: Path, source: ExportSource) -> tuple[str, ...]:
    """Write a model: ``model.safetensors``, the arguments of ``torchaudio.models.wav2vec2_model`` and more in
    ``model.json``, and the labels of a recogniser in ``labels.txt``.

    :param directory: Where to; it must exist.
    :param source: The model.
    :returns: Our names of the tensors that torchaudio's model has no place for.
    :raises InputError: If torchaudio has no such model.
    """
    config, family = source.checkpoint.config, source.checkpoint.family

    arguments = _list_arguments(config)
    tensors, left_out = {}, []

    for name, tensor in source.tensors.items():
        is_part = is_encoder(name) and not name.startswith("masker.")

        if is_part or (family == "wav2vec2_asr" and name.startswith("final_proj.")):
            tensors[parametrize(spell(name, family, TORCHAUDIO))] = tensor.contiguous()
        else:
            left_out.append(name)

    tensors |= make_missing_projection(config.encoder_config, _PROJECTION)

    save_tensors(tensors, directory / WEIGHTS_FILE)

    info = {
        "arguments": arguments,
        "sample_rate": source.sample_rate,
        "normalize_waveform": expects_normalized_audio(config.encoder_config),
    }
    if source.vocabulary is not None:
        info["blank_index"] = source.vocabulary.blank_index

        (directory / LABELS_FILE).write_text(
            "".join(f"{piece}\n" for piece in source.vocabulary.pieces), encoding="utf-8"
        )

    write_json(directory / ARGUMENTS_FILE, info)

    return tuple(left_out)


def _list_arguments(config: AnyConfig) -> dict[str, Any]:
    encoder = config.encoder_config

    require_plain_encoder(encoder, TORCHAUDIO.name)

    return {
        "extractor_mode": (
            "layer_norm" if encoder.feature_extractor_layer_norm_convs else "group_norm"
        ),
        "extractor_conv_layer_config": [list(d) for d in encoder.feature_extractor_layer_descs],
        "extractor_conv_bias": encoder.feature_extractor_bias,
        "encoder_embed_dim": encoder.model_dim,
        "encoder_projection_dropout": encoder.first_pass_dropout_p,
        "encoder_pos_conv_kernel": encoder.pos_conv_kernel_size,
        "encoder_pos_conv_groups": encoder.num_pos_conv_groups,
        "encoder_num_layers": encoder.num_encoder_layers,
        "encoder_num_heads": encoder.num_encoder_attn_heads,
        "encoder_attention_dropout": encoder.attn_dropout_p,
        "encoder_ff_interm_features": encoder.ffn_inner_dim,
        "encoder_ff_interm_dropout": encoder.ffn_inner_dropout_p,
        "encoder_dropout": encoder.dropout_p,
        "encoder_layer_norm_first": encoder.norm_order == TransformerNormOrder.PRE,
        "encoder_layer_drop": encoder.layer_drop_p,
        "aux_num_out": config.target_vocab_size if isinstance(config, Wav2Vec2AsrConfig) else None,
    }


@final
class TorchaudioRunner:
    """Computes an exported model with torchaudio."""

    def __init__(self, directory: Path) -> None:
        """:param directory: What :func:`write_torchaudio` wrote."""
        from torchaudio.models import wav2vec2_model

        info = json.loads((directory / ARGUMENTS_FILE).read_text(encoding="utf-8"))

        self._normalizes = bool(info["normalize_waveform"])
        self._model: Any = wav2vec2_model(**info["arguments"])
        self._model.load_state_dict(load_file(directory / WEIGHTS_FILE))
        self._model.eval()

    @torch.inference_mode()
    def run(self, waveforms: Sequence[npt.NDArray[np.float32]]) -> Outputs:
        """Compute recordings; see :class:`~eqssl_speech.export.model.Runner`."""
        seqs, layout = pad_waveforms(waveforms, normalize=self._normalizes).as_input()

        features, lengths = self._model.feature_extractor(seqs, torch.tensor(layout.seq_lens))
        features = self._model.encoder(features, lengths)

        def cut(x: Tensor) -> list[Tensor]:
            return [row[:length] for row, length in zip(x, lengths.tolist(), strict=True)]

        head = self._model.aux

        return Outputs(cut(features), None if head is None else cut(head(features)))
