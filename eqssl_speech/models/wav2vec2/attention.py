"""Self-attention in training on the CPU, where torch has no fused kernel with dropout.

torch then takes the steps one by one, looks for rows that are masked out whole, and keeps three matrices of scores for
the backward pass. Here nothing is masked, so that two suffice: the weights before and after dropout. What the softmax
subtracts in the backward pass, the sum of each row of weights times their gradients, is the product of the output and
its gradient (as in FlashAttention, arXiv 2205.14135, section B.4), and it needs no mask of what was dropped.
"""

from __future__ import annotations

from typing import Any, final

import torch
from fairseq2.models.transformer import AttentionBiasCache, IdentityBias, TorchSDPA
from fairseq2.nn import BatchLayout
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from typing_extensions import override


@final
class DroppedSDPA(TorchSDPA):  # type: ignore[misc]
    """Attention of whole sequences to themselves, with dropout. Can be differentiated once, and not by
    ``torch.func``."""

    @staticmethod
    def can_replace(sdpa: TorchSDPA) -> bool:
        """Say whether scores are dropped, and neither biased nor scaled otherwise than by the size of the keys."""
        return isinstance(sdpa.bias, IdentityBias) and sdpa.dropout_p > 0.0 and sdpa.scale is None

    @override
    def forward(
        self,
        q: Tensor,
        q_layout: BatchLayout,
        k: Tensor,
        k_layout: BatchLayout,
        v: Tensor,
        bias_cache: AttentionBiasCache,
        *,
        needs_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """See :meth:`~fairseq2.models.transformer.SDPA.forward`."""
        is_whole = not (q_layout.packed or q_layout.padded or k_layout.packed or k_layout.padded)

        if q.device.type == "cpu" and self.training and is_whole and not needs_weights:
            return dropped_attention(q, k, v, self.dropout_p), None

        return super().forward(q, q_layout, k, k_layout, v, bias_cache, needs_weights=needs_weights)


def dropped_attention(q: Tensor, k: Tensor, v: Tensor, dropout_p: float) -> Tensor:
    """Attend with dropout, in float32 at least. Can be differentiated once.

    The same random numbers are drawn as by torch, in the same order.

    :param q: *Shape:* ``(N, S, H, K)``.
    :param k: *Shape:* ``(N, T, H, K)``.
    :param v: *Shape:* ``(N, T, H, V)``.
    :param dropout_p: The probability that a weight is dropped. *Range:* (0, 1).
    :returns: *Shape:* ``(N, S, H, V)``.
    """
    with torch.autocast(q.device.type, enabled=False):
        precise = [x if x.dtype == torch.float64 else x.float() for x in (q, k, v)]

        output: Tensor = _DroppedAttention.apply(*precise, dropout_p)  # type: ignore[no-untyped-call]

    return output.type_as(q)


class _DroppedAttention(Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, dropout_p: float) -> Tensor:
        ctx.shape = (q.size(0), q.size(2))
        ctx.logit_scale = q.size(-1) ** -0.5
        ctx.kept_scale = 1.0 / (1.0 - dropout_p)

        q, k, v = _join_heads(q), _join_heads(k), _join_heads(v)

        # (N x H, S, K) x (N x H, K, T) -> (N x H, S, T)
        scores = torch.bmm(q * ctx.logit_scale, k.transpose(1, 2))
        weights = torch.softmax(scores, dim=-1, out=scores)

        kept = torch.empty_like(weights).bernoulli_(1.0 - dropout_p)
        kept_weights = kept.mul_(weights)

        output = torch.bmm(kept_weights, v).mul_(ctx.kept_scale)

        ctx.save_for_backward(q, k, v, weights, kept_weights, output)

        return _split_heads(output, ctx.shape)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_output: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        q, k, v, weights, kept_weights, output = ctx.saved_tensors

        grad_output = _join_heads(grad_output)

        # (N x H, S, V) -> (N x H, S, 1)
        row_sums = (grad_output * output).sum(dim=-1, keepdim=True)

        grad_output = grad_output * ctx.kept_scale

        grad_v = torch.bmm(kept_weights.transpose(1, 2), grad_output)

        # Of the weights, then times the weights, then of the scores.
        grad = torch.bmm(grad_output, v.transpose(1, 2))
        grad = grad.mul_(kept_weights).addcmul_(weights, row_sums, value=-1.0)

        grad_q = torch.bmm(grad, k).mul_(ctx.logit_scale)
        grad_k = torch.bmm(grad.transpose(1, 2), q).mul_(ctx.logit_scale)

        grad_q, grad_k, grad_v = (_split_heads(g, ctx.shape) for g in (grad_q, grad_k, grad_v))

        return grad_q, grad_k, grad_v, None


def _join_heads(x: Tensor) -> Tensor:
    # (N, S, H, K) -> (N x H, S, K)
    return x.transpose(1, 2).flatten(0, 1)


def _split_heads(x: Tensor, shape: tuple[int, int]) -> Tensor:
    # (N x H, S, K) -> (N, S, H, K)
    return x.view(*shape, *x.shape[1:]).transpose(1, 2)
