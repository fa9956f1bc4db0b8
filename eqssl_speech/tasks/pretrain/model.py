"""The model of a run: what it predicts follows from the labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import final

from fairseq2.models import ModelFamily
from fairseq2.models.wav2vec2 import WAV2VEC2_FAMILY, Wav2Vec2Config
from fairseq2.recipe.internal.asset_config import (
    _AssetConfigOverrider,
    _StandardAssetConfigOverrider,
)
from fairseq2.runtime.dependency import DependencyLookup, DependencyResolver, wire_object
from torch.nn import Module
from typing_extensions import override

from eqssl_speech.error import InputError
from eqssl_speech.models.continuing import fit_pretraining_config, load_pretrained
from eqssl_speech.models.hubert import HUBERT_FAMILY, HubertConfig
from eqssl_speech.models.opening import make_empty_model, open_checkpoint
from eqssl_speech.models.speech_checkpoint import SpeechCheckpoint
from eqssl_speech.models.wav2vec2.load_report import LoadReport
from eqssl_speech.tasks.pretrain.config import PretrainConfig
from eqssl_speech.tasks.pretrain.sources import CheckedSources
from eqssl_speech.text.frames import CONVOLUTIONS


@final
class LabelledModelConfig(_AssetConfigOverrider):
    """Applies `model.config_overrides`, as the host does, and gives a model that predicts labels their number."""

    def __init__(
        self, resolver: DependencyResolver, sources: CheckedSources, pretrained: str | None = None
    ) -> None:
        """
        :param resolver: The host's resolver.
        :param sources: The sources of the run, with their labels if it has some.
        :param pretrained: The checkpoint to go on from.
        """
        self._host = wire_object(resolver, _StandardAssetConfigOverrider)
        self._labels = sources.labels
        self._pretrained = pretrained
        self._checkpoint: SpeechCheckpoint | None = None
        self._model_config: HubertConfig | Wav2Vec2Config | None = None

    @property
    def model_config(self) -> HubertConfig | Wav2Vec2Config:
        """What the last call of :meth:`apply_overrides` returned."""
        assert self._model_config is not None

        return self._model_config

    def load(self, model: Module) -> LoadReport | None:
        """Fill a new model from the checkpoint to go on from, if there is one; on the meta device it is only checked.

        :raises InputError: If the checkpoint does not fit.
        """
        if self._pretrained is None:
            return None

        return load_pretrained(model, self.model_config, self._open(self._pretrained))

    def release(self) -> None:
        """Let go of the checkpoint, which may be large."""
        self._checkpoint = None

    def _open(self, pretrained: str) -> SpeechCheckpoint:
        if self._checkpoint is None:
            self._checkpoint = open_checkpoint(pretrained)

        return self._checkpoint

    @override
    def apply_overrides(
        self, section_name: str, config: object, unstructured_overrides: object | None
    ) -> object:
        self._model_config = self._apply(section_name, config, unstructured_overrides)

        return self._model_config

    def _apply(
        self, section_name: str, config: object, unstructured_overrides: object | None
    ) -> HubertConfig | Wav2Vec2Config:
        if not isinstance(config, (HubertConfig, Wav2Vec2Config)):
            raise InputError(
                f"`{section_name}` is a model of another family ({type(config).__name__}), but pre-training supports "
                "'wav2vec2' and 'hubert' only."
            )

        if self._pretrained is not None:
            config = fit_pretraining_config(config, self._open(self._pretrained).config)

        if isinstance(config, Wav2Vec2Config):
            if self._labels is not None:
                raise InputError(
                    f"`dataset.labels` is set, but `{section_name}` is a wav2vec 2.0, which takes no labels: leave it "
                    "out."
                )

            result = self._host.apply_overrides(section_name, config, unstructured_overrides)

            assert isinstance(result, Wav2Vec2Config)

            return result

        if self._labels is None:
            raise InputError(
                f"`{section_name}` is a HuBERT, which predicts labels, but `dataset.labels` is not set: make them with "
                "`eqssl labels CORPUS DIR` and add `--config dataset.labels=DIR`."
            )

        num_codes = list(self._labels.num_codes)

        result = self._host.apply_overrides(
            section_name, replace(config, num_codes=num_codes), unstructured_overrides
        )

        assert isinstance(result, HubertConfig)

        if result.num_codes != num_codes:
            raise InputError(
                f"`model.config_overrides.num_codes` is {result.num_codes}, but the labels of `dataset.labels` have "
                f"{num_codes}: leave it out."
            )

        _require_frames(result)

        return result


def _require_frames(config: HubertConfig) -> None:
    encoder_config = config.encoder_config
    convolutions = [desc[1:] for desc in encoder_config.feature_extractor_layer_descs]

    if encoder_config.use_fbank or [tuple(c) for c in convolutions] != list(CONVOLUTIONS):
        raise InputError(
            "`model.config_overrides.encoder_config` makes other frames of the audio than those that labels are "
            "matched to: leave out `use_fbank`, and the kernels and strides of `feature_extractor_layer_descs`."
        )


def check_model(resolver: DependencyResolver, config: PretrainConfig) -> None:
    """Find out now rather than once the output directory is made whether there can be such a model.

    :raises InputError: If the architecture is unknown, or the configuration does not fit the labels.
    """
    section = config.model

    if config.pretrained is not None and (section.name is not None or section.path is not None):
        raise InputError(
            "`pretrained` says which model to go on from, and `model.name` or `model.path` names another one: leave "
            "those out."
        )

    if section.name is not None and section.path is None:
        # Its card says what it is.
        return

    name = section.family or WAV2VEC2_FAMILY
    family = DependencyLookup(resolver, ModelFamily).maybe_get(name)

    assert family is not None

    arch = section.arch
    model_config = family.config_kls() if arch is None else family.maybe_get_arch_config(arch)

    if model_config is None:
        raise InputError(
            f"`model.arch` is '{arch}', which the family '{name}' does not have; it has "
            f"{', '.join(sorted(family.get_archs()))}."
        )

    fitted = resolver.resolve(LabelledModelConfig)

    fitted.apply_overrides("model", model_config, section.config_overrides)

    # The tensors too, unless they would have to be downloaded: whether they fit shows only in them.
    if config.pretrained is not None and Path(config.pretrained).exists():
        fitted.load(
            make_empty_model("hubert" if name == HUBERT_FAMILY else "wav2vec2", fitted.model_config)
        )
