"""The first convolution with the group norm behind it as nodes of an ONNX graph.

ONNX's instance norm adds up tens of thousands of frames in float32. Where many of them are equal, as in padding, all
roundings go the same way: with an offset of the waveform, features would be off by 5e-4. So mean and variance follow
from those of the samples that a frame sees, in double precision, as in
:func:`~eqssl_speech.models.wav2vec2.convolutions.normalized_conv1d`.
"""

from __future__ import annotations

from typing import Final, final

from torch.nn import Conv1d, GroupNorm

from eqssl_speech.export.onnx_graph import Graph
from eqssl_speech.export.onnx_layers import Layers, find_weight

_TIME: Final = 1
"""The axis of the samples, or frames."""


@final
class NormalizedConvolution:
    """Adds a convolution of waveforms, each of whose channels is normalised over time."""

    def __init__(self, layers: Layers, conv: Conv1d, norm: GroupNorm) -> None:
        """
        :param layers: Adds what there is of them elsewhere.
        :param conv: The convolution. Its bias goes with the mean.
        :param norm: A group norm with a group per channel.
        :raises InputError: If the convolution or the norm is another one.
        """
        if conv.in_channels != 1 or conv.padding != (0,):
            raise layers.refuse(conv, "is padded, or takes several channels, before a group norm")

        if norm.num_groups != norm.num_channels or not norm.affine:
            raise layers.refuse(norm, "normalises several channels together")

        self._layers = layers
        self._graph = layers.graph
        self._conv = conv
        self._norm = norm

    def add(self, seqs: str) -> str:
        """Add it. *Shape:* ``(N, S)`` to ``(N, D, T)``."""
        graph, layers, norm = self._graph, self._layers, self._norm

        # What is constant goes with the mean, at once and not as the difference of large numbers.
        seqs = self._to_double(seqs)
        seqs = graph.op("Sub", seqs, self._average(seqs))

        # (N, S) -> (N, 1, S) -> (N, D, T)
        waveforms = graph.op("Cast", seqs, to=Graph.FLOAT)
        waveforms = graph.op("Unsqueeze", waveforms, graph.ints(1))
        outputs = layers.convolution(self._conv, waveforms, bias=False)

        mean, variance = self._describe(seqs)

        # (N, 1, D) -> (N, D, 1)
        epsilon = self._to_double(graph.number(norm.eps))
        deviation = graph.op("Sqrt", graph.op("Add", variance, epsilon))
        weight = self._to_double(layers.weight(norm, "weight", norm.weight))
        bias = self._to_double(layers.weight(norm, "bias", norm.bias))
        scale = graph.op("Div", weight, deviation)
        shift = graph.op("Sub", bias, graph.op("Mul", mean, scale))
        scale, shift = (
            layers.transpose(graph.op("Cast", x, to=Graph.FLOAT)) for x in (scale, shift)
        )

        return graph.op("Add", graph.op("Mul", outputs, scale), shift)

    def _describe(self, seqs: str) -> tuple[str, str]:
        """Compute mean and variance over time of each channel. *Shape:* ``(N, S)`` to ``(N, 1, D)``."""
        graph = self._graph

        # (N, S) -> (N, T, K)
        samples = graph.op("Gather", seqs, self._list_samples(seqs), axis=_TIME)

        # (N, 1, K) and (N, K, K)
        mean = self._average(samples)
        centred = graph.op("Sub", samples, mean)
        products = graph.op("MatMul", self._layers.transpose(centred), centred)
        num_frames = graph.op("Shape", samples, start=_TIME, end=_TIME + 1)
        covariance = graph.op("Div", products, self._to_double(num_frames))

        # (D, 1, K) -> (K, D)
        weight = self._layers.weight(self._conv, "weight", find_weight(self._conv))
        taps = graph.op("Squeeze", self._to_double(weight), graph.ints(1))
        taps = graph.op("Transpose", taps, perm=[1, 0])

        # (N, 1, K) x (K, D) -> (N, 1, D), and (N, K, K) x (K, D) -> (N, K, D) -> (N, 1, D)
        variance = graph.op("Mul", taps, graph.op("MatMul", covariance, taps))
        variance = graph.op("ReduceSum", variance, graph.ints(1), keepdims=1)
        variance = graph.op("Max", variance, self._to_double(graph.number(0.0)))

        return graph.op("MatMul", mean, taps), variance

    def _list_samples(self, seqs: str) -> str:
        """List the samples that each frame sees. *Shape:* ``(T, K)``."""
        graph, stride, kernel_size = self._graph, self._conv.stride[0], self._conv.kernel_size[0]

        num_samples = graph.op("Gather", graph.op("Shape", seqs), graph.integer(_TIME))
        end = graph.op("Add", num_samples, graph.integer(1 - kernel_size))
        begins = graph.op("Range", graph.integer(0), end, graph.integer(stride))

        return graph.op(
            "Add", graph.op("Unsqueeze", begins, graph.ints(1)), graph.ints(*range(kernel_size))
        )

    def _average(self, x: str) -> str:
        return self._graph.op("ReduceMean", x, axes=[_TIME], keepdims=1)

    def _to_double(self, x: str) -> str:
        return self._graph.op("Cast", x, to=Graph.DOUBLE)
