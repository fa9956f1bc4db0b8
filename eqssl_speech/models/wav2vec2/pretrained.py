"""Puts the encoder of a checkpoint into an ASR model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

from fairseq2.models.wav2vec2 import Wav2Vec2EncoderConfig
from fairseq2.models.wav2vec2.asr import Wav2Vec2AsrModel
from torch import Tensor
from torch.nn import ModuleList

from eqssl_speech.models.checkpoint import find_checkpoint, read_run_tensors, read_tensor_file
from eqssl_speech.models.formats.shapes import UnknownShapeError
from eqssl_speech.models.opening import open_checkpoint
from eqssl_speech.models.wav2vec2.encoder_checks import (
    check_config,
    check_names,
    check_shapes,
    match_names,
)
from eqssl_speech.models.wav2vec2.load_report import (
    LoadReport,
    copy_tensors,
    count_elements,
    list_guesses,
)


@final
@dataclass(frozen=True)
class PretrainedEncoder:
    """The tensors of a checkpoint that holds an encoder."""

    source: str
    """The checkpoint, in words."""

    tensors: Mapping[str, Tensor]
    """All tensors of the checkpoint, on the CPU."""

    config: Wav2Vec2EncoderConfig | None
    """The configuration of its encoder; ``None`` where the checkpoint does not say it."""

    guessed: tuple[str, ...] = ()
    """The fields of the configuration that the checkpoint does not say."""


def open_encoder(spec: str | Path) -> PretrainedEncoder:
    """Read a pre-trained encoder.

    :param spec: As for :func:`~eqssl_speech.models.opening.open_checkpoint`.
    :raises InputError: If there is no such checkpoint or it cannot be read.
    """
    try:
        checkpoint = open_checkpoint(spec)
    except UnknownShapeError:
        path = Path(spec)

        # The model's own configuration can still be right; its tensors will be compared one by one.
        tensors = (
            read_run_tensors(find_checkpoint(path)) if path.is_dir() else read_tensor_file(path)
        )

        return PretrainedEncoder(str(path), tensors, None)

    return PretrainedEncoder(
        checkpoint.source, checkpoint.tensors, checkpoint.encoder_config, checkpoint.guessed
    )


def load_encoder(
    model: Wav2Vec2AsrModel,
    pretrained: PretrainedEncoder | str | Path,
    encoder_config: Wav2Vec2EncoderConfig | None = None,
    *,
    num_new_layers: int = 0,
) -> LoadReport:
    """Fill the frontend, the encoder and the masker of a model; its output layer stays as it was initialised.

    :param model: The model, not a wrapper of it. On the meta device (ranks that get their parameters from the first
        one) it is only checked.
    :param pretrained: The encoder, or what :func:`open_encoder` takes.
    :param encoder_config: The configuration that the model was made of. If given, it is compared with that of the
        checkpoint, because not all of it shows in the shapes of tensors (the number of attention heads, strides).
    :param num_new_layers: So many of the model's last layers stay as they were initialised too.
    :returns: What was loaded, what was left out, and what is new.
    :raises InputError: If the checkpoint is of another library, or holds no encoder, or one that differs from the
        model's; nothing is loaded then. Fewer layers than the checkpoint's are allowed.
    :raises ValueError: If the model has fewer than ``num_new_layers`` layers.
    """
    if not isinstance(pretrained, PretrainedEncoder):
        pretrained = open_encoder(pretrained)

    source = pretrained.source

    ours = dict(model.state_dict())

    # In the model's names; the checkpoint's own name of each.
    origins = match_names(source, pretrained.tensors, ours)
    theirs = {name: pretrained.tensors[origin] for name, origin in origins.items()}

    if encoder_config is not None and pretrained.config is not None:
        check_config(source, pretrained.config, encoder_config, guessed=pretrained.guessed)

    check_names(source, theirs, ours)
    check_shapes(source, theirs, ours)

    new = _prefixes_of_last_layers(model, num_new_layers)

    loaded = [name for name in ours if name in theirs and not name.startswith(new)]

    copy_tensors(source, {name: theirs[name] for name in loaded}, ours)

    used = {origins[name] for name in loaded}

    return LoadReport(
        source,
        loaded=count_elements(ours, loaded),
        left_out=count_elements(
            pretrained.tensors, (n for n in pretrained.tensors if n not in used)
        ),
        newly_made=count_elements(ours, (n for n in ours if n not in theirs or n.startswith(new))),
        guessed=list_guesses(pretrained.guessed, pretrained.config, encoder_config),
    )


def _prefixes_of_last_layers(model: Wav2Vec2AsrModel, num_layers: int) -> tuple[str, ...]:
    layers = model.encoder.layers

    assert isinstance(layers, ModuleList)

    if not 0 <= num_layers <= len(layers):
        raise ValueError(
            f"`num_new_layers` must be in [0, {len(layers)}], but is {num_layers} instead."
        )

    return tuple(f"encoder.layers.{i}." for i in range(len(layers) - num_layers, len(layers)))
