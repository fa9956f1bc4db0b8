"""What the formats share: files, and a tensor that other libraries have always."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from fairseq2.models.wav2vec2 import Wav2Vec2EncoderConfig
from safetensors.torch import save_file
from torch import Tensor


def write_json(file: Path, data: Mapping[str, object]) -> None:
    """Write a JSON object."""
    text = json.dumps(dict(data), indent=2, ensure_ascii=False, sort_keys=True)

    file.write_text(text + "\n", encoding="utf-8")


def save_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write a file of safetensors, which transformers takes for one of torch."""
    file.touch()
    mode = file.stat().st_mode

    save_file(dict(tensors), file, metadata={"format": "pt"})

    # Safetensors makes files that nobody else may read.
    file.chmod(mode)


def make_missing_projection(config: Wav2Vec2EncoderConfig, name: str) -> dict[str, Tensor]:
    """Make the projection of features that the host leaves out where it would not change their dimensionality.

    :param config: The encoder.
    :param name: What the library calls the projection.
    :returns: Its tensors, which change nothing; none if the model has one of its own.
    """
    if config.feature_dim != config.model_dim:
        return {}

    return {
        f"{name}.weight": torch.eye(config.model_dim),
        f"{name}.bias": torch.zeros(config.model_dim),
    }
