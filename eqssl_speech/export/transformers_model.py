"""Models as Hugging Face transformers stores them: ``config.json`` and the tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

from torch import Tensor

from eqssl_speech.error import InputError
from eqssl_speech.export.files import make_missing_projection
from eqssl_speech.models.formats.names import COUNTER, TRANSFORMERS, Family, parametrize, spell
from eqssl_speech.models.formats.shapes import AnyConfig
from eqssl_speech.models.formats.transformers_config import ModelType, format_config
from eqssl_speech.models.opening import make_empty_model
from eqssl_speech.models.wav2vec2.encoder_checks import is_encoder

_FEATURE_PROJECTION: Final = "feature_projection.projection"


@final
@dataclass(frozen=True)
class TransformersModel:
    """A model of transformers."""

    class_name: str
    """The class that loads it, like ``Wav2Vec2ForCTC``."""

    config: Mapping[str, object]
    """The content of ``config.json``."""

    tensors: Mapping[str, Tensor]
    """Its tensors, on the CPU."""

    left_out: tuple[str, ...]
    """Our names of the tensors that it has no place for: heads that transformers does not know."""


def convert_to_transformers(
    family: Family,
    model_type: ModelType,
    config: AnyConfig,
    tensors: Mapping[str, Tensor],
    *,
    blank_index: int = 0,
) -> TransformersModel:
    """Turn a model into one of transformers.

    :param family: What it is.
    :param model_type: What its encoder is, and is to be called: a recogniser of either is the same.
    :param config: Its configuration.
    :param tensors: Its tensors, by our names. If the head is incomplete, the encoder alone is turned.
    :param blank_index: The label that is CTC's blank.
    :raises InputError: If transformers has no such encoder, or tensors of the encoder are missing.
    """
    data = dict(format_config(config))

    empty = make_empty_model(family, config).state_dict()

    missing = [name for name in empty if is_encoder(name) and name not in tensors]
    # Without an embedding for masked frames a model cannot be trained, but computes all the same.
    missing = [name for name in missing if not name.startswith("masker.")]
    if missing:
        raise InputError(
            f"The checkpoint has no tensor `{missing[0]}`, which its encoder needs; give a whole checkpoint."
        )

    has_head = family != "hubert" and all(n in tensors for n in empty if n != COUNTER)

    class_name = _name_class(family, model_type, has_head=has_head)
    prefix = "" if class_name.endswith("Model") else f"{model_type}."

    names = [name for name in empty if name in tensors and (has_head or is_encoder(name))]

    converted = {}
    for name in names:
        try:
            theirs = spell(name, family, TRANSFORMERS, prefix)
        except KeyError:
            continue
        converted[parametrize(theirs)] = tensors[name].detach().contiguous()

    converted |= make_missing_projection(config.encoder_config, f"{prefix}{_FEATURE_PROJECTION}")

    if "masker.temporal_mask_embed" not in tensors:
        data |= {"mask_time_prob": 0.0, "mask_feature_prob": 0.0}

    data |= {
        "architectures": [class_name],
        "model_type": model_type,
        "dtype": "float32",
        "pad_token_id": blank_index,
        "bos_token_id": None,
        "eos_token_id": None,
    }

    left_out = tuple(n for n in tensors if n not in names and n != COUNTER)

    return TransformersModel(class_name, data, converted, left_out)


def _name_class(family: Family, model_type: ModelType, *, has_head: bool) -> str:
    name = "Wav2Vec2" if model_type == "wav2vec2" else "Hubert"

    if not has_head:
        return f"{name}Model"

    return f"{name}ForCTC" if family == "wav2vec2_asr" else f"{name}ForPreTraining"
