"""The layers of an encoder as nodes of an ONNX graph."""

from __future__ import annotations

from typing import final

from fairseq2.models.conformer import ConformerBlock, ConformerConvolution
from fairseq2.models.transformer import StandardTransformerEncoderLayer, TransformerNormOrder
from fairseq2.nn import AdditiveResidualConnect
from torch.nn import Module

from eqssl_speech.export.onnx_attention import Attention
from eqssl_speech.export.onnx_layers import Layers, Masks


@final
class Blocks:
    """Adds the layers of an encoder to a graph, those of a Transformer or of a Conformer."""

    def __init__(self, layers: Layers) -> None:
        """:param layers: Adds what they are made of."""
        self._layers = layers
        self._graph = layers.graph
        self._attention = Attention(layers)

    def add(self, module: Module, seqs: str, masks: Masks | None) -> str:
        """Add a layer. *Shape:* ``(N, T, M)``.

        :param masks: Where there is padding.
        """
        layer = self._layers.expect(module, StandardTransformerEncoderLayer, ConformerBlock)

        if isinstance(layer, ConformerBlock):
            return self._add_conformer_block(layer, seqs, masks)

        assert isinstance(layer, StandardTransformerEncoderLayer)

        for residual in (layer.self_attn_residual, layer.ffn_residual):
            self._layers.expect(residual, AdditiveResidualConnect)

        if layer.norm_order == TransformerNormOrder.POST:
            return self._add_post_norm_layer(layer, seqs, masks)

        return self._add_pre_norm_layer(layer, seqs, masks)

    def _add_post_norm_layer(
        self, layer: StandardTransformerEncoderLayer, seqs: str, masks: Masks | None
    ) -> str:
        graph, layers = self._graph, self._layers

        x = self._attention.add(layer.self_attn, seqs, masks)
        seqs = layers.layer_norm(layer.self_attn_layer_norm, graph.op("Add", x, seqs))

        x = layers.feed_forward(layer.ffn, seqs)

        return layers.layer_norm(layer.ffn_layer_norm, graph.op("Add", x, seqs))

    def _add_pre_norm_layer(
        self, layer: StandardTransformerEncoderLayer, seqs: str, masks: Masks | None
    ) -> str:
        graph, layers = self._graph, self._layers

        x = layers.layer_norm(layer.self_attn_layer_norm, seqs)
        seqs = graph.op("Add", self._attention.add(layer.self_attn, x, masks), seqs)

        x = layers.layer_norm(layer.ffn_layer_norm, seqs)

        return graph.op("Add", layers.feed_forward(layer.ffn, x), seqs)

    def _add_conformer_block(self, block: ConformerBlock, seqs: str, masks: Masks | None) -> str:
        graph, layers = self._graph, self._layers

        def add_half(norm: Module, ffn: Module, seqs: str) -> str:
            x = layers.feed_forward(ffn, layers.layer_norm(norm, seqs))

            return graph.op("Add", graph.op("Mul", x, graph.number(0.5)), seqs)

        seqs = add_half(block.ffn1_layer_norm, block.ffn1, seqs)

        x = layers.layer_norm(block.self_attn_layer_norm, seqs)
        seqs = graph.op("Add", self._attention.add(block.self_attn, x, masks), seqs)

        x = layers.layer_norm(block.conv_layer_norm, seqs)
        seqs = graph.op("Add", self._add_convolution(block.conv, x, masks), seqs)

        seqs = add_half(block.ffn2_layer_norm, block.ffn2, seqs)

        return layers.layer_norm(block.layer_norm, seqs)

    def _add_convolution(self, module: Module, seqs: str, masks: Masks | None) -> str:
        graph, layers = self._graph, self._layers
        conv = layers.expect(module, ConformerConvolution)

        seqs = layers.keep_own(seqs, masks)

        # (N, T, M) -> (N, T, 2 x M) -> (N, T, M)
        first, depthwise, last = conv.pointwise_conv1, conv.depthwise_conv, conv.pointwise_conv2
        values, gates = first.weight.squeeze(2).chunk(2)
        gate = graph.op("Sigmoid", layers.multiply(first, "gates", gates, seqs))
        seqs = graph.op("Mul", layers.multiply(first, "values", values, seqs), gate)

        seqs = layers.transpose(seqs)

        if conv.causal_depthwise_conv:
            seqs = layers.padded_convolution(depthwise, seqs, depthwise.kernel_size[0] - 1, 0)
        else:
            seqs = layers.convolution(depthwise, seqs)

        if conv.batch_norm is not None:
            seqs = layers.transpose(layers.batch_norm(conv.batch_norm, seqs))
        else:
            assert conv.layer_norm is not None
            seqs = layers.layer_norm(conv.layer_norm, layers.transpose(seqs))

        seqs = layers.activation(conv.depthwise_activation, seqs)

        return layers.multiply(last, "weight", last.weight.squeeze(2), seqs)
