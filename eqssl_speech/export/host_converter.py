"""What fairseq2's own export to Hugging Face transformers needs to know of our models."""

from __future__ import annotations

from typing import Final, cast, final

from fairseq2.models.hg import HuggingFaceConfig, HuggingFaceConverter
from torch import Tensor
from typing_extensions import override

from eqssl_speech.export.transformers_model import TransformersModel, convert_to_transformers
from eqssl_speech.models.formats.shapes import AnyConfig
from eqssl_speech.models.opening import make_empty_model
from eqssl_speech.models.speech_checkpoint import FAMILY_CONFIGS

_FAMILIES: Final = {kls: family for family, kls in FAMILY_CONFIGS.items()}


@final
class SpeechConverter(HuggingFaceConverter):
    """Turns models of our families into those of transformers, for the host."""

    @override
    def to_hg_config(self, config: object) -> HuggingFaceConfig:
        model = _convert(config, None)

        # The host sets these itself.
        data = {k: v for k, v in model.config.items() if k not in ("architectures", "model_type")}

        kls_name = "HubertConfig" if model.class_name.startswith("Hubert") else "Wav2Vec2Config"

        return HuggingFaceConfig(data, kls_name, model.class_name)

    @override
    def to_hg_state_dict(self, state_dict: dict[str, object], config: object) -> dict[str, object]:
        return dict(_convert(config, cast(dict[str, Tensor], state_dict)).tensors)


def _convert(config: object, tensors: dict[str, Tensor] | None) -> TransformersModel:
    family = _FAMILIES.get(type(config))
    if family is None:
        known = ", ".join(kls.__name__ for kls in _FAMILIES)

        raise TypeError(f"`config` must be of one of {known}, but is of `{type(config)}` instead.")

    config = cast(AnyConfig, config)

    if tensors is None:
        tensors = dict(make_empty_model(family, config).state_dict())

    return convert_to_transformers(
        family, "hubert" if family == "hubert" else "wav2vec2", config, tensors
    )
