"""The output of a layer of a model, of whichever family: all have the same encoder under the same names."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, final

import torch
from fairseq2.models.wav2vec2 import Wav2Vec2EncoderConfig, Wav2Vec2EncoderFactory
from fairseq2.nn import BatchLayout
from torch import Tensor
from torch.nn import ModuleDict
from torch.nn.functional import layer_norm
from typing_extensions import override

from eqssl_speech.error import InputError
from eqssl_speech.labels.features import FeatureExtractor, FrameWindow, ReadPart
from eqssl_speech.labels.settings import FEATURE_WINDOW, SAMPLE_RATE, FeatureStamp, count_frames
from eqssl_speech.models.opening import open_checkpoint
from eqssl_speech.models.wav2vec2 import accelerate, expects_normalized_audio
from eqssl_speech.models.wav2vec2.asr import REGULARIZATION
from eqssl_speech.text.frames import FRAME_STRIDE

_PARTS: Final = ("encoder_frontend.", "encoder.")

_WINDOW_S: Final = 100


@final
@dataclass(frozen=True)
class EncoderCheckpoint:
    """The encoder of a checkpoint."""

    source: str
    """Where it comes from, in words."""

    family: str

    config: Wav2Vec2EncoderConfig

    tensors: Mapping[str, Tensor]
    """Of the frontend and the encoder, on the CPU."""

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of what the encoder computes: its configuration, but for what matters in training only, and its
        tensors. It is the same however many processes wrote the checkpoint, and wherever it lies."""
        content = {k: v for k, v in asdict(self.config).items() if k not in REGULARIZATION}
        digest = hashlib.sha256(json.dumps(content, default=str, sort_keys=True).encode())

        for name in sorted(self.tensors):
            tensor = self.tensors[name].contiguous()

            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)

        return digest.hexdigest()


def read_encoder(spec: str | Path, step: int | None = None) -> EncoderCheckpoint:
    """Read the encoder of a model of whatever origin.

    :param spec: As for :func:`~eqssl_speech.models.opening.open_checkpoint`.
    :param step: The step of a run; by default that of the best score, or the last where none has one.
    :raises InputError: If there is no such checkpoint, it cannot be read, a step is given of what is no run, or its
        frames are not those of labels.
    """
    checkpoint = open_checkpoint(spec, step)
    config = checkpoint.encoder_config

    hop, window = 1, 1
    for _, kernel_size, stride in config.feature_extractor_layer_descs:
        window += (kernel_size - 1) * hop
        hop *= stride

    if config.use_fbank or (hop, window) != (FRAME_STRIDE, FEATURE_WINDOW):
        raise InputError(
            f"{checkpoint.source}: does not make a frame of each {FRAME_STRIDE} samples of the waveform; labels can be "
            "made of models with the feature extractor of wav2vec 2.0 only."
        )

    tensors = {n: t for n, t in checkpoint.tensors.items() if n.startswith(_PARTS)}

    return EncoderCheckpoint(checkpoint.source, checkpoint.family, config, tensors)


@final
class LayerExtractor(FeatureExtractor):
    """The output of a layer, before any norm that follows the last one."""

    def __init__(self, checkpoint: EncoderCheckpoint, layer: int, device: str = "cpu") -> None:
        """
        :param checkpoint: The encoder.
        :param layer: The layer, from 1.
        :param device: Where it is computed: in float32 on the CPU, in bfloat16 on a GPU.
        :raises InputError: If there is no such layer, the device cannot be used, or the tensors do not fit.
        """
        config = checkpoint.config

        if not 1 <= layer <= config.num_encoder_layers:
            raise InputError(
                f"`--layer` must be from 1 to {config.num_encoder_layers}, as so many layers the encoder of "
                f"{checkpoint.source} has, but is {layer} instead."
            )

        self._device = _open_device(device)
        self._normalize = expects_normalized_audio(config)
        self._stamp = FeatureStamp(
            "layer",
            FRAME_STRIDE,
            config.model_dim,
            family=checkpoint.family,
            checkpoint=checkpoint.digest,
            layer=layer,
        )
        self._max_num_frames = _WINDOW_S * SAMPLE_RATE // FRAME_STRIDE
        if config.pos_encoder_type != "conv":
            self._max_num_frames = min(self._max_num_frames, config.max_seq_len)

        model = _create_model(checkpoint, layer)

        accelerate(model).to(self._device).eval()

        self._frontend: Any = model["encoder_frontend"]
        self._encoder: Any = model["encoder"]

        # A GPU computes one window after another.
        self._lock = None if self._device.type == "cpu" else threading.Lock()

    @property
    @override
    def stamp(self) -> FeatureStamp:
        return self._stamp

    @property
    @override
    def precision(self) -> str:
        return "bfloat16" if self._lock is not None else "float32"

    @property
    @override
    def device(self) -> torch.device:
        return self._device

    @property
    @override
    def max_num_frames(self) -> int:
        return self._max_num_frames

    @override
    @torch.inference_mode()
    def extract(self, read: ReadPart, num_samples: int, window: FrameWindow) -> Tensor:
        start = window.start * FRAME_STRIDE
        stop = (window.stop - 1) * FRAME_STRIDE + FEATURE_WINDOW

        # A group norm hears what is too short for another frame.
        if window.stop == count_frames(num_samples, self._stamp):
            stop = num_samples

        samples = read(start, stop - start)

        waveform = torch.from_numpy(samples)

        if self._normalize:
            waveform = layer_norm(waveform, waveform.shape)

        try:
            if self._lock is None:
                frames = self._run(waveform)
            else:
                with self._lock, torch.autocast(self._device.type, dtype=torch.bfloat16):
                    frames = self._run(waveform.to(self._device))
        except torch.OutOfMemoryError:
            raise InputError(
                f"The memory of {self._device} does not hold {len(samples) / SAMPLE_RATE:.0f} s of audio; "
                "free some, or give `--device cpu`."
            ) from None

        if not bool(torch.isfinite(frames).all()):
            raise InputError(
                f"Layer {self._stamp.layer} gives numbers that are not finite; take another `--layer`, or an earlier "
                "checkpoint with `--step`."
            )

        assert len(frames) == window.num_frames

        return frames

    def _run(self, waveform: Tensor) -> Tensor:
        # (S) -> (1, S)
        seqs = waveform[None]

        seqs, layout = self._frontend(seqs, BatchLayout.of(seqs))

        # (1, T, M) -> (T, M)
        frames: Tensor = self._encoder(seqs, layout)[0].float()

        return frames


def _create_model(checkpoint: EncoderCheckpoint, layer: int) -> ModuleDict:
    """Make the frontend and the layers that are needed."""
    factory = Wav2Vec2EncoderFactory(replace(checkpoint.config, num_encoder_layers=layer))

    encoder = factory.create_encoder()

    # It belongs to the last layer.
    encoder.register_module("layer_norm", None)

    model = ModuleDict({"encoder_frontend": factory.create_encoder_frontend(), "encoder": encoder})

    needed = model.state_dict().keys()

    missing = sorted(needed - checkpoint.tensors.keys())
    if missing:
        raise InputError(
            f"{checkpoint.source}: has no tensor `{missing[0]}`, which such a model has; copy the checkpoint "
            "again, or take another with `--step`."
        )

    try:
        model.load_state_dict({name: checkpoint.tensors[name] for name in needed})
    except RuntimeError as ex:
        raise InputError(
            f"{checkpoint.source}: does not fit its configuration ({ex}); copy the checkpoint again, or take "
            "another with `--step`."
        ) from None

    return model


def _open_device(device: str) -> torch.device:
    try:
        opened = torch.device(device)

        torch.empty(0, device=opened)
    except (RuntimeError, AssertionError) as ex:
        raise InputError(
            f"The device `{device}` cannot be used ({str(ex).splitlines()[0]}); choose `cpu`, or run `eqssl doctor` to "
            "see what there is."
        ) from None

    return opened
