"""Loads what is to be exported: a checkpoint of any origin, with its vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

from torch import Tensor
from torch.nn import Module

from eqssl_speech.error import InputError
from eqssl_speech.export.model import SpeechModel
from eqssl_speech.export.vocabulary import Vocabulary, find_labels, vocabulary_of
from eqssl_speech.models.opening import make_model, open_checkpoint
from eqssl_speech.models.speech_checkpoint import SpeechCheckpoint
from eqssl_speech.models.wav2vec2.encoder_checks import check_names, check_shapes, is_encoder
from eqssl_speech.text.tokenizer import CtcTokenizer


@final
@dataclass(frozen=True)
class ExportSource:
    """What is exported."""

    checkpoint: SpeechCheckpoint

    vocabulary: Vocabulary | None
    """The labels of a recogniser."""

    tokenizer: CtcTokenizer | None
    """The tokenizer that they are of, if it is one of ours."""

    module: Module
    """The model, as the host makes it."""

    sample_rate: int = 16_000
    """What it takes, in Hz."""

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """The tensors of the checkpoint that are of the model."""
        names = self.module.state_dict()

        return {name: x for name, x in self.checkpoint.tensors.items() if name in names}

    @property
    def unknown(self) -> tuple[str, ...]:
        """The names of the checkpoint's other tensors."""
        names = self.module.state_dict()

        return tuple(name for name in self.checkpoint.tensors if name not in names)

    def make_plain(self) -> SpeechModel:
        """Return the encoder, and the output layer of a recogniser, as the host computes them."""
        return SpeechModel(
            self.checkpoint.encoder_config,
            self.module.encoder_frontend,  # type: ignore[arg-type]
            self.module.encoder,  # type: ignore[arg-type]
            self.module.final_proj if self.checkpoint.family == "wav2vec2_asr" else None,  # type: ignore[arg-type]
        )


def load_export_source(
    spec: str | Path, *, step: int | None = None, vocabulary_file: Path | None = None
) -> ExportSource:
    """Load what is to be exported.

    :param spec: As for :func:`~eqssl_speech.models.opening.open_checkpoint`.
    :param step: The step of a run.
    :param vocabulary_file: Where the labels of a recogniser are listed; by default beside its checkpoint.
    :raises InputError: If there is no such checkpoint, it is incomplete, or a recogniser's labels are not known.
    """
    checkpoint = open_checkpoint(spec, step)
    labels = None

    if checkpoint.family == "wav2vec2_asr":
        labels = find_labels(checkpoint.path, vocabulary_file)
    elif vocabulary_file is not None:
        raise InputError(
            f"{checkpoint.source}: is no recogniser and has no labels; leave `--vocabulary` out."
        )

    return make_export_source(checkpoint, labels)


def make_export_source(
    checkpoint: SpeechCheckpoint, labels: CtcTokenizer | Vocabulary | None
) -> ExportSource:
    """Make the model of a checkpoint.

    :param checkpoint: The checkpoint.
    :param labels: The labels of a recogniser.
    :raises InputError: If the checkpoint is incomplete, or the labels are not as many as the model has.
    """
    module = make_model(checkpoint.family, checkpoint.config)
    ours = module.state_dict()

    theirs = {name: x for name, x in checkpoint.tensors.items() if is_encoder(name)}
    check_names(checkpoint.source, theirs, ours)
    check_shapes(checkpoint.source, dict(checkpoint.tensors), ours)

    module.load_state_dict(
        {name: x for name, x in checkpoint.tensors.items() if name in ours}, strict=False
    )

    tokenizer = labels if isinstance(labels, CtcTokenizer) else None
    vocabulary = vocabulary_of(labels) if isinstance(labels, CtcTokenizer) else labels

    if vocabulary is not None:
        num_labels = int(ours["final_proj.weight"].shape[0])

        if len(vocabulary.pieces) != num_labels:
            raise InputError(
                f"{checkpoint.source}: has {num_labels} labels, but its vocabulary lists {len(vocabulary.pieces)}; "
                "give the vocabulary that it was trained with (`--vocabulary`)."
            )

    return ExportSource(checkpoint, vocabulary, tokenizer, module.eval())
