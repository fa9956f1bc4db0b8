"""A model as nodes of an ONNX graph: what is in front of its layers, the layers, and what is on top of them."""

from __future__ import annotations

from typing import Final, final

import numpy as np
from fairseq2.models.transformer import StandardTransformerEncoder
from fairseq2.models.wav2vec2 import (
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Frontend,
    Wav2Vec2PositionEncoder,
    Wav2Vec2StackedPositionEncoder,
)
from fairseq2.models.wav2vec2.feature_extractor import (
    Float32GroupNorm,
    Wav2Vec2FeatureExtractionLayer,
)
from fairseq2.models.wav2vec2.position_encoder import Wav2Vec2PositionEncoderLayer
from torch.nn import GroupNorm, Module

from eqssl_speech.export.model import SpeechModel
from eqssl_speech.export.onnx_blocks import Blocks
from eqssl_speech.export.onnx_graph import Graph
from eqssl_speech.export.onnx_group_norm import NormalizedConvolution
from eqssl_speech.export.onnx_layers import Layers, Masks
from eqssl_speech.models.wav2vec2.convolutions import NormalizedFeatureExtractionLayer

LOWEST: Final = float(np.finfo(np.float32).min)
"""The score of what is out of the question. Minus infinity would turn sums of nothing else into no number at all."""

_EPS: Final = 1e-5
"""What :func:`~eqssl_speech.data.transcribed.pad_waveforms` adds to a variance, and sherpa-onnx too."""


@final
class SpeechGraph:
    """Adds the parts of a model to a graph. Values are known by their names.

    A model that :func:`~eqssl_speech.models.wav2vec2.accelerate` has been at gives the same graph as before.
    """

    def __init__(self, graph: Graph, model: SpeechModel) -> None:
        """
        :param graph: The graph.
        :param model: What is read; it stays as it is.
        :raises InputError: If it takes something else than waveforms. The methods raise it where they come upon
            something that cannot be exported.
        """
        layers = Layers(graph, {module: name for name, module in model.named_modules()})

        self._graph = graph
        self._model = model
        self._layers = layers
        self._frontend = layers.expect(model.encoder_frontend, Wav2Vec2Frontend)
        self._extractor = layers.expect(self._frontend.feature_extractor, Wav2Vec2FeatureExtractor)

        if self._extractor.num_channels != 1:
            raise layers.refuse(self._extractor, "takes several channels of audio")

    def find_own(self, seqs: str, lengths: str) -> str:
        """Say what is no padding.

        :param seqs: *Shape:* ``(N, S)`` or ``(N, S, C)``.
        :param lengths: *Shape:* ``(N,)``.
        :returns: *Shape:* ``(N, S)``.
        """
        graph = self._graph

        width = graph.op("Gather", graph.op("Shape", seqs), graph.integer(1))
        positions = graph.op("Range", graph.integer(0), width, graph.integer(1))

        return graph.op("Less", positions, graph.op("Unsqueeze", lengths, graph.ints(1)))

    def normalize(self, seqs: str, own: str, num_samples: str) -> str:
        """Bring each waveform to zero mean and unit variance, by itself.

        :param seqs: Padded with zeros. *Shape:* ``(N, S)``.
        :param own: What is no padding. *Shape:* ``(N, S)``.
        :param num_samples: *Shape:* ``(N,)``.
        :returns: Padded with zeros. *Shape:* ``(N, S)``.
        """
        graph = self._graph

        # (N) -> (N, 1)
        counts = graph.op("Max", num_samples, graph.ints(1))
        counts = graph.op("Cast", graph.op("Unsqueeze", counts, graph.ints(1)), to=graph.FLOAT)

        def average(x: str) -> str:
            return graph.op("Div", graph.op("ReduceSum", x, graph.ints(1), keepdims=1), counts)

        seqs = graph.op("Sub", seqs, average(seqs))
        seqs = graph.op("Where", own, seqs, graph.number(0.0))

        variance = average(graph.op("Mul", seqs, seqs))
        deviation = graph.op("Sqrt", graph.op("Add", variance, graph.number(_EPS)))

        return graph.op("Div", seqs, deviation)

    def restore_level(self, seqs: str) -> str:
        """Undo, but for the mean, that each waveform has been brought to zero mean and unit variance.

        That has turned a variance of v into v / (v + eps), from which v follows. A group norm behind the first
        convolution sees no mean. It sees the level of quiet recordings, whose variance is small next to its own eps.

        :param seqs: *Shape:* ``(N, S)``.
        :returns: *Shape:* ``(N, S)``.
        """
        graph = self._graph

        variance = graph.op("ReduceMean", graph.op("Mul", seqs, seqs), axes=[1], keepdims=1)

        # At least what rounding leaves of it where a recording is loud.
        missing = graph.op("Sub", graph.number(1.0), variance)
        missing = graph.op("Max", missing, graph.number(1e-6))

        scale = graph.op("Sqrt", graph.op("Div", graph.number(_EPS), missing))

        return graph.op("Mul", seqs, scale)

    def extract(self, seqs: str) -> str:
        """Add the feature extractor.

        :param seqs: Waveforms. *Shape:* ``(N, S)``.
        :returns: *Shape:* ``(N, T, C)``.
        """
        layers = self._layers

        for index, module in enumerate(self._extractor.layers):
            layer = layers.expect(
                module, Wav2Vec2FeatureExtractionLayer, NormalizedFeatureExtractionLayer
            )

            if layer.group_norm is not None:
                norm = layers.expect(layer.group_norm, GroupNorm, Float32GroupNorm)
                seqs = NormalizedConvolution(layers, layer.conv, norm).add(seqs)
            else:
                if index == 0:
                    # (N, S) -> (N, 1, S)
                    seqs = self._graph.op("Unsqueeze", seqs, self._graph.ints(1))

                seqs = layers.convolution(layer.conv, seqs)

            if layer.layer_norm is not None:
                # (N, C, S) -> (N, S, C) -> (N, C, S)
                seqs = layers.layer_norm(layer.layer_norm, layers.transpose(seqs))
                seqs = layers.transpose(seqs)

            seqs = layers.activation(layer.activation, seqs)

        # (N, C, T) -> (N, T, C)
        return layers.transpose(seqs)

    def count_frames(self, num_samples: str, output: str) -> str:
        """Compute how many frames waveforms have, which is none where there are too few samples.

        :param num_samples: *Shape:* ``(N,)``.
        :param output: The name of the result.
        :returns: *Shape:* ``(N,)``.
        """
        graph, counts = self._graph, num_samples

        for _, kernel_size, stride in self._extractor.layer_descs:
            counts = graph.op("Add", counts, graph.ints(stride - kernel_size))
            counts = graph.op("Max", counts, graph.ints(0))
            counts = graph.op("Div", counts, graph.ints(stride))

        return graph.op("Identity", counts, output=output)

    def make_masks(self, seqs: str, num_frames: str) -> Masks:
        """Compute what keeps padding apart.

        :param seqs: *Shape:* ``(N, T, C)``.
        :param num_frames: *Shape:* ``(N,)``.
        """
        graph = self._graph

        own = self.find_own(seqs, num_frames)
        bias = graph.op("Where", own, graph.number(0.0), graph.number(LOWEST))

        return Masks(
            graph.op("Unsqueeze", own, graph.ints(2)),
            graph.op("Unsqueeze", bias, graph.ints(1, 2)),
        )

    def encode(self, seqs: str, masks: Masks | None, output: str | None = None) -> str:
        """Add what comes between the feature extractor and the output layer.

        :param seqs: *Shape:* ``(N, T, C)``.
        :param masks: Where there is padding.
        :param output: The name of the result.
        :returns: *Shape:* ``(N, T, M)``.
        """
        layers, frontend = self._layers, self._frontend

        seqs = layers.layer_norm(frontend.post_extract_layer_norm, seqs)

        if frontend.model_dim_proj is not None:
            seqs = layers.linear(frontend.model_dim_proj, seqs)

        if frontend.pos_encoder is not None:
            seqs = self._encode_positions(frontend.pos_encoder, seqs, masks)

        if frontend.layer_norm is not None:
            seqs = layers.layer_norm(frontend.layer_norm, seqs)

        encoder = layers.expect(self._model.encoder, StandardTransformerEncoder)
        blocks = Blocks(layers)

        for module in encoder.layers:
            seqs = blocks.add(module, seqs, masks)

        if encoder.layer_norm is not None:
            seqs = layers.layer_norm(encoder.layer_norm, seqs)

        return self._graph.op("Identity", seqs, output=output)

    def classify(self, seqs: str, output: str | None = None) -> str:
        """Add the output layer.

        :param seqs: *Shape:* ``(N, T, M)``.
        :param output: The name of the result.
        :returns: *Shape:* ``(N, T, V)``.
        """
        assert self._model.final_proj is not None

        logits = self._layers.linear(self._model.final_proj, seqs)

        return self._graph.op("Identity", logits, output=output)

    def _encode_positions(self, module: Module, seqs: str, masks: Masks | None) -> str:
        layers = self._layers
        encoder = layers.expect(module, Wav2Vec2PositionEncoder, Wav2Vec2StackedPositionEncoder)

        seqs = layers.keep_own(seqs, masks)

        # (N, T, M) -> (N, M, T)
        encodings = layers.transpose(seqs)

        if isinstance(encoder, Wav2Vec2PositionEncoder):
            padding = encoder.conv.padding[0]
            assert isinstance(padding, int)

            # The last output of an even kernel, which is one too many, is not computed.
            end = padding - int(encoder.remove_pad)

            encodings = layers.padded_convolution(encoder.conv, encodings, padding, end)
            encodings = layers.activation(encoder.activation, encodings)
        else:
            assert isinstance(encoder, Wav2Vec2StackedPositionEncoder)

            for layer in encoder.layers:
                layer = layers.expect(layer, Wav2Vec2PositionEncoderLayer)

                # (N, M, T) -> (N, T, M) -> (N, M, T)
                encodings = layers.transpose(layers.convolution(layer.conv, encodings))
                encodings = layers.transpose(layers.layer_norm(layer.layer_norm, encodings))
                encodings = layers.activation(layer.activation, encodings)

        return self._graph.op("Add", seqs, layers.transpose(encodings))
