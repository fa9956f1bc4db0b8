"""A fine-tuned model with all that is needed to use it: its tokenizer, its audio format and its best checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, final

import numpy as np
import numpy.typing as npt
import torch
from fairseq2.models.asr import AsrModel
from fairseq2.models.wav2vec2.asr import Wav2Vec2AsrConfig, Wav2Vec2AsrFactory
from fairseq2.utils.structured import StandardValueConverter, StructureError
from torch import Tensor
from torch.nn.functional import log_softmax

from eqssl_speech.data.transcribed import pad_waveforms
from eqssl_speech.error import InputError
from eqssl_speech.models.checkpoint import find_checkpoint, read_run_tensors
from eqssl_speech.models.formats.transformers_config import ModelType
from eqssl_speech.models.recognizer_info import read_recognizer_info, write_recognizer_info
from eqssl_speech.models.wav2vec2 import accelerate, expects_normalized_audio
from eqssl_speech.text.tokenizer import CtcTokenizer

_TOKENIZER_DIR: Final = "tokenizer"


@final
@dataclass(frozen=True)
class Recognizer:
    """Turns speech into log-probabilities of labels."""

    model: AsrModel
    config: Wav2Vec2AsrConfig
    tokenizer: CtcTokenizer
    sample_rate: int
    """What the model takes, in Hz."""

    sources: tuple[tuple[str, str], ...]
    """Name and language of each source that it was fine-tuned on."""

    description: str
    """Where it comes from."""

    device: torch.device

    @cached_property
    def convolutions(self) -> tuple[tuple[int, int], ...]:
        """Kernel and stride of each convolution of the feature extractor."""
        layers = self.config.encoder_config.feature_extractor_layer_descs

        return tuple((kernel, stride) for _, kernel, stride in layers)

    @property
    def frame_shift_s(self) -> float:
        """The time between two frames, in seconds."""
        shift = 1
        for _, stride in self.convolutions:
            shift *= stride

        return shift / self.sample_rate

    @property
    def receptive_field_samples(self) -> int:
        """The samples that a frame sees; shorter audio has none."""
        field, shift = 1, 1
        for kernel, stride in self.convolutions:
            field += (kernel - 1) * shift
            shift *= stride

        return field

    @property
    def takes_padding(self) -> bool:
        """Whether an utterance's output is the same alone and in a padded batch; group norm sees the padding."""
        return self.config.encoder_config.feature_extractor_layer_norm_convs

    @torch.inference_mode()
    def emit(self, waveforms: Sequence[npt.NDArray[np.float32]]) -> list[Tensor]:
        """Compute the log-probabilities of the labels.

        :param waveforms: Speech at :attr:`sample_rate`, each at least :attr:`receptive_field_samples` long. They are
            computed in one padded batch if the model :attr:`takes_padding`, otherwise each by itself.
            *Shape:* ``(S,)`` each.
        :returns: *Shape:* ``(T, V)`` each, float32, on the CPU.
        """
        if not self.takes_padding:
            return [row for waveform in waveforms for row in self._emit([waveform])]

        return self._emit(waveforms)

    def _emit(self, waveforms: Sequence[npt.NDArray[np.float32]]) -> list[Tensor]:
        normalize = expects_normalized_audio(self.config.encoder_config)

        batch = pad_waveforms(waveforms, normalize=normalize)
        batch.to(self.device)

        logits, layout = self.model(*batch.as_input())

        log_probs = log_softmax(logits, dim=-1, dtype=torch.float32).cpu()

        return [row[:length] for row, length in zip(log_probs, layout.seq_lens)]


def save_recognizer(
    directory: Path,
    tokenizer: CtcTokenizer,
    *,
    sources: Sequence[tuple[str, str]],
    sample_rate: int,
    encoder_type: ModelType = "wav2vec2",
) -> None:
    """Write into the output directory of a run what :func:`load_recognizer` needs besides a checkpoint.

    :param directory: The output directory.
    :param tokenizer: The tokenizer; copied, so that the directory can be moved.
    :param sources: Name and language of each source.
    :param sample_rate: What the model takes, in Hz.
    :param encoder_type: What its encoder was before.
    :raises InputError: If checkpoints are there already, and with them another tokenizer.
    """
    # Without a checkpoint nothing depends on what an earlier run has left.
    is_new = not any(directory.glob("checkpoints/step_*"))

    tokenizer.save(directory / _TOKENIZER_DIR, replace=is_new)

    write_recognizer_info(
        directory,
        {
            "sample_rate": sample_rate,
            "sources": [list(source) for source in sources],
            "encoder_type": encoder_type,
        },
    )


def load_recognizer(path: Path, *, device: str = "cpu", step: int | None = None) -> Recognizer:
    """Load the model of a fine-tuning run.

    :param path: The output directory of `eqssl finetune`.
    :param device: Where to compute.
    :param step: The step whose checkpoint is used; by default that of the best score, or the last where none has one.
    :raises InputError: If the directory holds no such model.
    """
    info = read_recognizer_info(path)
    if info is None:
        raise InputError(f"{path}: {_explain_no_recognizer(path)}")

    checkpoint = find_checkpoint(path, step)

    torch_device = open_device(device)

    if checkpoint.config is None:
        raise InputError(
            f"{checkpoint.model_dir.parents[1]}: holds no model.yaml, which says what the model is; fine-tune again."
        )

    try:
        config = StandardValueConverter().structure(checkpoint.config, Wav2Vec2AsrConfig)
    except StructureError as ex:
        raise InputError(
            f"{checkpoint.model_dir.parents[1]}: its model.yaml is not that of a wav2vec 2.0 recogniser ({ex})."
        ) from None

    model = Wav2Vec2AsrFactory(config).create_model()

    try:
        model.load_state_dict(read_run_tensors(checkpoint))
    except RuntimeError as ex:
        raise InputError(
            f"{checkpoint.model_dir}: does not fit its model.yaml ({ex}); choose another step with `--step`."
        ) from None

    accelerate(model).to(torch_device).eval()

    return Recognizer(
        model,
        config,
        CtcTokenizer.load(path / _TOKENIZER_DIR),
        info["sample_rate"],
        tuple((name, language) for name, language in info["sources"]),
        f"{path}, step {checkpoint.step_nr}",
        torch_device,
    )


def _explain_no_recognizer(path: Path) -> str:
    if not path.exists():
        return "there is no such directory; give the output directory of `eqssl finetune`."
    if not path.is_dir():
        return "is not a directory; give the output directory of `eqssl finetune`."

    try:
        is_pretrained = find_checkpoint(path).family in ("wav2vec2", "hubert")
    except InputError:
        is_pretrained = False

    if is_pretrained:
        return (
            "is a pre-training run, which cannot transcribe yet; fine-tune it "
            f"(`eqssl finetune OUT --config pretrained={path} ...`), and give the output directory of that."
        )

    return "holds no fine-tuned model; give the output directory of `eqssl finetune`."


def open_device(device: str) -> torch.device:
    """Return a device.

    :raises InputError: If it cannot be used.
    """
    try:
        torch_device = torch.device(device)

        torch.empty(0, device=torch_device)
    except (RuntimeError, AssertionError) as ex:
        reason = str(ex).splitlines()[0]

        raise InputError(
            f"The device `{device}` cannot be used ({reason}); choose `cpu`, or run `eqssl doctor` to see what "
            "there is."
        ) from None

    return torch_device
