"""The feature extractor of wav2vec 2.0, channels-last, in matrix products."""

from __future__ import annotations

from typing import final

import torch
from fairseq2.models.wav2vec2.feature_extractor import (
    Wav2Vec2FeatureExtractionLayer,
    Wav2Vec2FeatureExtractor,
)
from fairseq2.nn import BatchLayout
from fairseq2.nn.utils.grad import scale_grad
from torch import Tensor
from torch.nn import GroupNorm
from torch.nn.functional import gelu
from typing_extensions import override

from eqssl_speech.models.wav2vec2.strided_conv import strided_conv1d


@final
class ChannelsLastFeatureExtractor(Wav2Vec2FeatureExtractor):  # type: ignore[misc]
    """Computes what its base class computes, by :func:`strided_conv1d`, and the first convolution together with its
    group norm by :func:`normalized_conv1d`. On a GPU it leaves the work to the base class."""

    @staticmethod
    def can_replace(base: Wav2Vec2FeatureExtractor) -> bool:
        """Say whether an extractor can be of this class: mono, without dropout, no stride beyond its kernel."""
        return base.num_channels == 1 and all(
            layer.dropout is None
            and layer.conv.kernel_size[0] >= layer.conv.stride[0]
            and (layer.group_norm is None or (i == 0 and layer.group_norm.affine))
            for i, layer in enumerate(base.layers)
        )

    @override
    def forward(self, seqs: Tensor, seqs_layout: BatchLayout) -> tuple[Tensor, BatchLayout]:
        """See the base class.

        :param seqs: The waveforms. *Shape:* ``(N, S)`` or ``(N, S, 1)``.
        """
        if seqs.device.type != "cpu" or seqs_layout.packed:
            return super().forward(seqs, seqs_layout)

        # (N, S) -> (N, S, 1)
        seqs = seqs.view(*seqs.shape[:2], 1)

        for layer in self.layers:
            assert isinstance(layer, Wav2Vec2FeatureExtractionLayer)

            seqs = _run_layer(layer, seqs)

        if self.training and self.grad_scale != 1.0:
            seqs = scale_grad(seqs, self.grad_scale)

        seq_lens = self._contract_seq_lens(seqs_layout.seq_lens) if seqs_layout.padded else None

        return seqs, BatchLayout.of(seqs, seq_lens)


def normalized_conv1d(waveforms: Tensor, weight: Tensor, stride: int, norm: GroupNorm) -> Tensor:
    """Convolve waveforms and normalise each output channel over time, in one product.

    A channel is a linear map of the ``K`` samples that a frame sees, so its mean and variance over time follow from the
    mean and the covariance (``K x K``) of those samples, and the normalisation is a scale of its weights and a shift.
    (A bias of the convolution would be part of the mean and go with it.)

    :param waveforms: *Shape:* ``(N, S)``.
    :param weight: *Shape:* ``(D, 1, K)``.
    :param stride: The stride in samples.
    :param norm: A group norm with a group per channel.
    :returns: *Shape:* ``(N, (S - K) // stride + 1, D)``.
    """
    # What is constant goes with the mean, at once and not as the difference of large numbers.
    waveforms = waveforms - waveforms.double().mean(dim=1, keepdim=True).to(waveforms.dtype)

    # (N, S) -> (N, T, K)
    frames = waveforms.unfold(1, weight.size(2), stride)

    with torch.autocast(waveforms.device.type, enabled=False):
        # Thousands of frames, but a few numbers of each: double precision costs nothing.
        samples, taps = frames.double(), weight.squeeze(1).t().double()

        mean = samples.mean(dim=1, keepdim=True)
        centred = samples - mean
        covariance = centred.transpose(1, 2) @ centred / frames.size(1)

        # (K, D), (N, K, D) -> (N, 1, D)
        variance = (taps * (covariance @ taps)).sum(dim=1, keepdim=True).clamp(min=0.0)

        scale = torch.rsqrt(variance + norm.eps) * norm.weight.double()
        shift = norm.bias.double() - mean @ taps * scale

        # (N, K, D), (N, 1, D) -> (N, K + 1, D)
        taps = torch.cat([taps * scale, shift], dim=1).to(weight.dtype)

    # The shift is the weight of a sample that is always one. (N, T, K) -> (N, T, K + 1)
    frames = torch.cat([frames, frames.new_ones(*frames.shape[:2], 1)], dim=2)

    # (N, T, K + 1) x (N, K + 1, D) -> (N, T, D)
    return torch.bmm(frames, taps)


def _run_layer(layer: Wav2Vec2FeatureExtractionLayer, seqs: Tensor) -> Tensor:
    conv = layer.conv
    stride = conv.stride[0]

    if layer.group_norm is not None:
        seqs = normalized_conv1d(seqs.squeeze(2), conv.weight, stride, layer.group_norm)
    else:
        seqs = strided_conv1d(seqs, conv.weight, conv.bias, stride)

    if layer.layer_norm is not None:
        seqs = layer.layer_norm(seqs)

    return gelu(seqs)
