"""Self-attention as nodes of an ONNX graph."""

from __future__ import annotations

from typing import Any, Final, final

from fairseq2.models.transformer import (
    IdentityBias,
    NaiveSDPA,
    RelativePositionSDPA,
    StandardMultiheadAttention,
    TorchSDPA,
)
from fairseq2.nn import RotaryEncoder
from torch.nn import Module

from eqssl_speech.export.onnx_layers import Layers, Masks
from eqssl_speech.models.wav2vec2.attention import DroppedSDPA

_SDPA: Final = (TorchSDPA, DroppedSDPA, NaiveSDPA, RelativePositionSDPA)

_END: Final = 2**62
"""Behind the end of every axis."""


@final
class Attention:
    """Adds the self-attention of a layer to a graph."""

    def __init__(self, layers: Layers) -> None:
        """:param layers: Adds what attention is made of."""
        self._layers = layers
        self._graph = layers.graph

    def add(self, module: Module, seqs: str, masks: Masks | None) -> str:
        """Add multi-head attention. *Shape:* ``(N, T, M)``.

        :param masks: Where there is padding.
        """
        graph, layers = self._graph, self._layers
        attention = layers.expect(module, StandardMultiheadAttention)

        norms = (attention.q_norm, attention.k_norm, attention.v_norm)
        if attention.num_query_groups != 1 or any(norm is not None for norm in norms):
            raise layers.refuse(attention, "groups its queries, or normalises within a head")

        # (N, T, M) -> (N, T, H, K)
        heads = graph.ints(0, 0, attention.num_heads, attention.head_dim)
        q, k, v = (
            graph.op("Reshape", layers.linear(proj, seqs), heads)
            for proj in (attention.q_proj, attention.k_proj, attention.v_proj)
        )

        if attention.pos_encoder is not None:
            encoder = layers.expect(attention.pos_encoder, RotaryEncoder)
            q, k = (self._rotate(encoder, attention.num_heads, x) for x in (q, k))

        # (N, T, H, K) -> (N, H, T, K)
        q, k, v = (graph.op("Transpose", x, perm=[0, 2, 1, 3]) for x in (q, k, v))

        weights = self._compute_weights(attention, q, k, masks)

        # (N, H, T, T) x (N, H, T, K) -> (N, H, T, K) -> (N, T, M)
        seqs = graph.op("Transpose", graph.op("MatMul", weights, v), perm=[0, 2, 1, 3])
        seqs = graph.op("Reshape", seqs, graph.ints(0, 0, -1))

        return layers.linear(attention.output_proj, seqs)

    def _compute_weights(
        self, attention: StandardMultiheadAttention, q: str, k: str, masks: Masks | None
    ) -> str:
        """*Shape:* ``(N, H, T, K)`` to ``(N, H, T, T)``."""
        graph, layers = self._graph, self._layers
        sdpa: Any = layers.expect(attention.sdpa, *_SDPA)

        if not isinstance(sdpa.bias, IdentityBias):
            raise layers.refuse(sdpa, "has a bias of attention")

        scale = attention.head_dim**-0.5
        positions = None

        if isinstance(sdpa, RelativePositionSDPA):
            positions = self._score_positions(sdpa, q)
            q = graph.op("Add", q, layers.weight(sdpa, "u_bias", sdpa.u_bias.unsqueeze(1)))
        elif sdpa.scale is not None:
            scale = sdpa.scale

        # (N, H, T, K) x (N, H, K, T) -> (N, H, T, T)
        scores = graph.op("MatMul", q, graph.op("Transpose", k, perm=[0, 1, 3, 2]))

        if positions is not None:
            scores = graph.op("Add", scores, positions)

        scores = graph.op("Mul", scores, graph.number(scale))

        if masks is not None:
            scores = graph.op("Add", scores, masks.bias)

        return graph.op("Softmax", scores, axis=-1)

    def _score_positions(self, sdpa: RelativePositionSDPA, q: str) -> str:
        """Compare queries with distances. *Shape:* ``(N, H, T, K)`` to ``(N, H, T, T)``."""
        graph, layers, encoding = self._graph, self._layers, sdpa.pos_encoding

        q = graph.op("Add", q, layers.weight(sdpa, "v_bias", sdpa.v_bias.unsqueeze(1)))

        # The distances from T - 1 down to 1 - T.
        num_frames = graph.op("Shape", q, start=2, end=3)
        middle = graph.ints(encoding.max_seq_len)
        begin = graph.op("Sub", middle, num_frames)
        end = graph.op("Sub", graph.op("Add", middle, num_frames), graph.ints(1))

        # (2 x T - 1, M) -> (1, 2 x T - 1, H, K) -> (1, H, K, 2 x T - 1)
        table = layers.weight(encoding, "freqs", encoding.freqs)
        r = layers.linear(sdpa.r_proj, graph.op("Slice", table, begin, end, graph.ints(0)))
        r = graph.op("Reshape", r, graph.ints(1, -1, sdpa.num_heads, sdpa.u_bias.size(1)))
        r = graph.op("Transpose", r, perm=[0, 2, 3, 1])

        # (N, H, T, K) x (1, H, K, 2 x T - 1) -> (N, H, T, 2 x T - 1)
        scores = graph.op("MatMul", q, r)

        # Each row has to move one further to the left than the one above it, which rows that are longer by one do when
        # they are read as rows of the old length. (N, H, T, 2 x T) -> (N, H, 2 x T, T) -> (N, H, T, 2 x T - 1)
        scores = graph.op("Pad", scores, graph.ints(0, 0, 0, 1, 0, 0, 0, 0))
        shape = graph.op("Concat", graph.ints(0, 0, -1), num_frames, axis=0)
        scores = graph.op("Reshape", scores, shape)
        scores = graph.op("Slice", scores, graph.ints(1), graph.ints(_END), graph.ints(2))
        shape = graph.op("Concat", graph.ints(0, 0), num_frames, graph.ints(-1), axis=0)
        scores = graph.op("Reshape", scores, shape)

        # (N, H, T, 2 x T - 1) -> (N, H, T, T)
        return graph.op("Slice", scores, graph.ints(0), num_frames, graph.ints(3))

    def _rotate(self, encoder: RotaryEncoder, num_heads: int, x: str) -> str:
        """Turn pairs of numbers by angles that grow with the position. *Shape:* ``(N, T, H, K)``."""
        if encoder.freqs_init_fn is not None:
            raise self._layers.refuse(encoder, "has frequencies of its own")

        graph, num_pairs = self._graph, encoder.encoding_dim // 2
        num_frames = graph.op("Shape", x, start=1, end=2)

        # One for all layers; its first row stands for padding. (L, K / 2, 2) -> (L, 1, K / 2)
        label = f"rotary_{encoder.max_seq_len}_{encoder.encoding_dim}_{encoder.theta:g}"
        tables = encoder.freqs[1:].unsqueeze(1).unbind(-1)
        cos, sin = (
            graph.op("Slice", graph.weight(f"{label}_{name}", table), graph.ints(0), num_frames)
            for name, table in zip(("cos", "sin"), tables, strict=True)
        )

        # (N, T, H, K) -> (N, T, H, K / 2, 2) -> (N, T, H, K / 2)
        pairs = graph.op("Reshape", x, graph.ints(0, 0, num_heads, num_pairs, 2))
        first, second = (graph.op("Gather", pairs, graph.integer(i), axis=4) for i in range(2))

        turned = (
            graph.op("Sub", graph.op("Mul", first, cos), graph.op("Mul", second, sin)),
            graph.op("Add", graph.op("Mul", first, sin), graph.op("Mul", second, cos)),
        )

        # (N, T, H, K / 2) -> (N, T, H, K / 2, 2) -> (N, T, H, K)
        columns = (graph.op("Unsqueeze", y, graph.ints(4)) for y in turned)
        pairs = graph.op("Concat", *columns, axis=4)

        return graph.op("Reshape", pairs, graph.ints(0, 0, num_heads, 2 * num_pairs))
