"""The convolutions of wav2vec 2.0 on channels-last features: what layer norm and the encoder want, without a copy.

torch's convolutions take channels-last images as they are, and a sequence is an image of height one. So computed, the
output and the gradient of the input come at nearly the processor's peak (oneDNN in torch 2.9). The gradient of the
weight does not: there oneDNN reaches a third of it. For the strided convolutions it is the sum of a few matrix products
instead, as is the output of wide ones (:func:`_convolve_in_slabs`). And the first convolution, of one channel, is bound
by memory: it is computed in one pass with the norm behind it (:func:`normalized_conv1d`).

The classes stand in for the host's, whose shapes they keep: *(N, C, S)*, as transposed views of channels-last features.
On other devices than the CPU they leave the work to them.
"""

from __future__ import annotations

from typing import Any, Final, final

import torch
from fairseq2.models.wav2vec2.feature_extractor import (
    Wav2Vec2FeatureConv1d,
    Wav2Vec2FeatureExtractionLayer,
)
from fairseq2.models.wav2vec2.position_encoder import Wav2Vec2PositionalConv1d
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import Conv1d, GroupNorm
from torch.nn.functional import conv2d
from typing_extensions import override

_MIN_WIDTH_FOR_PRODUCTS: Final = 256
"""Convolutions of so many channels are faster as matrix products in float32: 1.1 times with 512, 0.75 with 96."""


@final
class ChannelsLastFeatureConv1d(Wav2Vec2FeatureConv1d):  # type: ignore[misc]
    """A strided convolution of the feature extractor. Can be differentiated once, and not by ``torch.func``."""

    @staticmethod
    def can_replace(conv: Conv1d) -> bool:
        """Say whether a convolution has neither padding nor dilation nor groups."""
        return conv.padding == (0,) and conv.dilation == (1,) and conv.groups == 1

    @override
    def forward(self, input: Tensor) -> Tensor:
        """:param input: *Shape:* ``(N, C, S)``."""
        if input.device.type != "cpu":
            return super().forward(input)

        seqs = strided_conv1d(input.transpose(1, 2), self.weight, self.bias, self.stride[0])

        return seqs.transpose(1, 2)


@final
class NormalizedFeatureExtractionLayer(Wav2Vec2FeatureExtractionLayer):  # type: ignore[misc]
    """The first layer of the feature extractor where it has a group norm."""

    @staticmethod
    def can_replace(layer: Wav2Vec2FeatureExtractionLayer) -> bool:
        """Say whether a layer takes one channel, normalises each of its outputs for itself, and does no more."""
        conv, norm = layer.conv, layer.group_norm

        return (
            norm is not None
            and norm.num_groups == conv.out_channels
            and conv.in_channels == 1
            and conv.bias is None
            and layer.dropout is None
            and layer.layer_norm is None
            and ChannelsLastFeatureConv1d.can_replace(conv)
        )

    @override
    def forward(self, seqs: Tensor) -> Tensor:
        """:param seqs: *Shape:* ``(N, 1, S)``."""
        if seqs.device.type != "cpu":
            return super().forward(seqs)

        assert self.group_norm is not None

        seqs = normalized_conv1d(
            seqs.squeeze(1), self.conv.weight, self.conv.stride[0], self.group_norm
        )

        output: Tensor = self.activation(seqs)

        return output.transpose(1, 2)


@final
class ChannelsLastPositionalConv1d(Wav2Vec2PositionalConv1d):  # type: ignore[misc]
    """The convolution that encodes positions."""

    @override
    def forward(self, input: Tensor) -> Tensor:
        """:param input: *Shape:* ``(N, E, S)``."""
        if input.device.type != "cpu":
            return super().forward(input)

        padding = self.padding[0]

        assert isinstance(padding, int)

        output = conv2d(
            input.unsqueeze(2),
            self.weight.unsqueeze(2),
            self.bias,
            padding=(0, padding),
            groups=self.groups,
        )

        return output.squeeze(2)


def normalized_conv1d(waveforms: Tensor, weight: Tensor, stride: int, norm: GroupNorm) -> Tensor:
    """Convolve waveforms and normalise each output channel over time, in one product.

    A channel is a linear map of the ``K`` samples that a frame sees, so its mean and variance over time follow from the
    mean and the covariance (``K x K``) of those samples, and the normalisation is a scale of its weights and a shift.

    :param waveforms: *Shape:* ``(N, S)``.
    :param weight: *Shape:* ``(D, 1, K)``.
    :param stride: The stride in samples.
    :param norm: A group norm with a group per channel.
    :returns: *Shape:* ``(N, (S - K) // stride + 1, D)``.
    """
    kernel_size = weight.size(2)

    # The samples that no frame sees have no say.
    waveforms = waveforms[:, : waveforms.size(1) - (waveforms.size(1) - kernel_size) % stride]

    # What is constant goes with the mean, at once and not as the difference of large numbers.
    waveforms = waveforms - waveforms.double().mean(dim=1, keepdim=True).to(waveforms.dtype)

    # (N, S) -> (N, T, K)
    frames = waveforms.unfold(1, kernel_size, stride)

    # Thousands of frames, but a few numbers of each: double precision, which autocast leaves alone, costs nothing.
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


def strided_conv1d(seqs: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """Convolve channels-last sequences without padding. Can be differentiated once.

    :param seqs: *Shape:* ``(N, T, C)``.
    :param weight: *Shape:* ``(D, C, K)``.
    :param bias: *Shape:* ``(D)``.
    :param stride: The stride in frames.
    :returns: *Shape:* ``(N, (T - K) // stride + 1, D)``.
    """
    if torch.is_autocast_enabled(seqs.device.type) and seqs.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(seqs.device.type)
        seqs, weight = seqs.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)

    output: Tensor = _StridedConv.apply(seqs, weight, bias, stride)  # type: ignore[no-untyped-call]

    return output


class _StridedConv(Function):
    @staticmethod
    def forward(ctx: Any, seqs: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
        seqs = seqs.contiguous()

        ctx.save_for_backward(seqs, weight)
        ctx.stride = stride

        if seqs.dtype == torch.float32 and seqs.size(2) >= _MIN_WIDTH_FOR_PRODUCTS:
            return _convolve_in_slabs(seqs, weight, bias, stride)

        images = conv2d(_to_images(seqs), weight.unsqueeze(2), bias, stride=(1, stride))

        return _to_sequences(images)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_output: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        seqs, weight = ctx.saved_tensors

        grad_output = grad_output.contiguous()

        grad_seqs = grad_weight = grad_bias = None

        if ctx.needs_input_grad[0]:
            grad_images, _, _ = torch.ops.aten.convolution_backward(
                _to_images(grad_output),
                _to_images(seqs),
                weight.unsqueeze(2),
                None,
                stride=(1, ctx.stride),
                padding=(0, 0),
                dilation=(1, 1),
                transposed=False,
                output_padding=(0, 0),
                groups=1,
                output_mask=(True, False, False),
            )
            grad_seqs = _to_sequences(grad_images)

        if ctx.needs_input_grad[1]:
            grad_weight = _weight_gradient(grad_output, seqs, weight.size(2), ctx.stride)

        if ctx.needs_input_grad[2]:
            grad_bias = grad_output.sum(dim=(0, 1))

        return grad_seqs, grad_weight, grad_bias, None


def _to_images(seqs: Tensor) -> Tensor:
    # (N, T, C) -> (N, C, 1, T), a view that torch takes for channels-last
    return seqs.unsqueeze(1).permute(0, 3, 1, 2)


def _to_sequences(images: Tensor) -> Tensor:
    # (N, C, 1, T) -> (N, T, C)
    return images.squeeze(2).transpose(1, 2).contiguous()


def _convolve_in_slabs(seqs: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """Convolve *(N, T, C)* in matrix products.

    With a stride of s, the first s taps of all output frames are the rows of the input seen as ``(T / s, s x C)``, the
    next s taps those of the same view one row further down, and so on. The output is the sum of such slabs, each times
    its part of the weight.
    """
    # (D, C, K) -> (K, C, D), so that a slab's part is a block of rows
    taps = weight.permute(2, 1, 0).contiguous()

    num_frames = (seqs.size(1) - len(taps)) // stride + 1
    output = seqs.new_empty(seqs.size(0), num_frames, weight.size(0))

    for sequence, out in zip(seqs, output, strict=True):
        for start in range(0, len(taps), stride):
            part = taps[start : start + stride].flatten(0, 1)
            rows = _slab(sequence, start, num_frames, len(part), stride)

            if start > 0:
                out.addmm_(rows, part)
            elif bias is not None:
                torch.addmm(bias, rows, part, out=out)
            else:
                torch.mm(rows, part, out=out)

    return output


def _weight_gradient(grad_output: Tensor, seqs: Tensor, kernel_size: int, stride: int) -> Tensor:
    """Compute the gradient of the weight, *(D, C, K)*: each slab, transposed, times the gradient of the output is that
    of its part."""
    (_, num_frames, dim), num_channels = grad_output.shape, seqs.size(2)

    # Sums over utterances are not rounded to half precision.
    taps = torch.zeros(
        (kernel_size, num_channels, dim), dtype=torch.promote_types(seqs.dtype, torch.float32)
    )

    for sequence, grad in zip(seqs, grad_output, strict=True):
        for start in range(0, kernel_size, stride):
            part = taps[start : start + stride].flatten(0, 1)
            rows = _slab(sequence, start, num_frames, len(part), stride)

            if part.dtype == rows.dtype:
                part.addmm_(rows.t(), grad)
            else:
                part += rows.t() @ grad

    return taps.permute(2, 1, 0).to(seqs.dtype)


def _slab(sequence: Tensor, start: int, num_frames: int, width: int, stride: int) -> Tensor:
    # Frames from `start` on, `stride` apart, each with as many behind it as make up the width; a view of (T, C).
    num_channels = sequence.size(1)

    return sequence.as_strided(
        (num_frames, width),
        (stride * num_channels, 1),
        sequence.storage_offset() + start * num_channels,
    )
