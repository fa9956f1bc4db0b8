"""Continues to pre-train a model: its shape and its tensors come from a checkpoint, whatever library wrote it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TypeAlias

from fairseq2.models.wav2vec2 import Wav2Vec2Config
from fairseq2.models.wav2vec2.asr import Wav2Vec2AsrConfig
from torch import Tensor
from torch.nn import Module

from eqssl_speech.models.formats.names import COUNTER
from eqssl_speech.models.formats.shapes import AnyConfig
from eqssl_speech.models.hubert.config import HubertConfig
from eqssl_speech.models.speech_checkpoint import SpeechCheckpoint
from eqssl_speech.models.wav2vec2.asr import REGULARIZATION
from eqssl_speech.models.wav2vec2.encoder_checks import (
    check_config,
    check_names,
    check_shapes,
    is_encoder,
)
from eqssl_speech.models.wav2vec2.load_report import (
    LoadReport,
    copy_tensors,
    count_elements,
    list_guesses,
)

PretrainingConfig: TypeAlias = Wav2Vec2Config | HubertConfig
"""The configuration of a model that is pre-trained."""


def fit_pretraining_config(config: PretrainingConfig, checkpoint: AnyConfig) -> PretrainingConfig:
    """Give a configuration the shape of a checkpoint.

    :param config: Says what model is to be pre-trained.
    :param checkpoint: The configuration of the checkpoint.
    :returns: The checkpoint's own configuration if it is of the same kind of model. Otherwise ``config`` with its
        encoder, regularised as ``config`` says.
    """
    if not isinstance(checkpoint, Wav2Vec2AsrConfig) and type(checkpoint) is type(config):
        return checkpoint

    regularization = {name: getattr(config.encoder_config, name) for name in REGULARIZATION}

    return replace(config, encoder_config=replace(checkpoint.encoder_config, **regularization))


def load_pretrained(
    model: Module, config: PretrainingConfig, checkpoint: SpeechCheckpoint
) -> LoadReport:
    """Fill a model from a checkpoint.

    The head of pre-training is taken where the checkpoint has one of the same kind. Of it, what the checkpoint lacks,
    or has in another shape (the embeddings of codes where there are other labels), stays as it was initialised. The
    count of updates starts anew.

    :param model: The model, not a wrapper of it. On the meta device (ranks that get their parameters from the first
        one) it is only checked.
    :param config: Its configuration.
    :param checkpoint: The checkpoint.
    :returns: What was loaded, what was left out, and what is new.
    :raises InputError: If the encoder of the checkpoint is not that of the model; nothing is loaded then.
    """
    source, ours = checkpoint.source, dict(model.state_dict())

    theirs = {n: x for n, x in checkpoint.tensors.items() if is_encoder(n)}

    check_config(
        source, checkpoint.encoder_config, config.encoder_config, guessed=checkpoint.guessed
    )
    check_names(source, theirs, ours)
    check_shapes(source, theirs, ours)

    if type(config) is type(checkpoint.config):
        theirs = dict(checkpoint.tensors)

    loaded: list[str] = []
    reshaped: list[str] = []

    for name in ours:
        if name in theirs and name != COUNTER:
            (loaded if theirs[name].shape == ours[name].shape else reshaped).append(name)

    copy_tensors(source, {name: theirs[name] for name in loaded}, ours)

    return LoadReport(
        source,
        loaded=count_elements(ours, loaded),
        left_out=_count_others(checkpoint.tensors, [*loaded, *reshaped]),
        newly_made=_count_others(ours, [*loaded, *reshaped]),
        reshaped=count_elements(ours, reshaped),
        guessed=list_guesses(checkpoint.guessed, checkpoint.encoder_config, config.encoder_config),
    )


def _count_others(tensors: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, int]:
    known = {COUNTER, *names}

    return count_elements(tensors, (name for name in tensors if name not in known))
