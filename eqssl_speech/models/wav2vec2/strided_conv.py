"""A strided convolution over time as matrix products, on channels-last features and without copies.

With a stride of s, the first s taps of all output frames are the rows of the input seen as ``(T / s, s x C)``, the next
s taps those of the same view one row further down, and so on. Each such slab is one product with its part of the
weight, and in the backward pass one product into the gradient of the input and one into that of the weight. oneDNN's
convolution of torch 2.9 reaches less than half of the throughput of these products on the CPU, and wants the channels
first, which costs a copy of what layer norm and the encoder need channels-last.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def strided_conv1d(seqs: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """Convolve channels-last sequences without padding.

    Can be differentiated once. Under autocast, computes in its precision.

    :param seqs: The sequences. *Shape:* ``(N, T, C)``.
    :param weight: The weight as of ``torch.nn.Conv1d``. *Shape:* ``(D, C, K)``.
    :param bias: Added to each frame. *Shape:* ``(D)``.
    :param stride: The stride in frames.
    :returns: *Shape:* ``(N, (T - K) // stride + 1, D)``.
    """
    if torch.is_autocast_enabled(seqs.device.type):
        dtype = torch.get_autocast_dtype(seqs.device.type)
        seqs, weight = seqs.to(dtype), weight.to(dtype)

    # (D, C, K) -> (K, C, D), so that a slab's weight is a block of rows
    taps = weight.permute(2, 1, 0).contiguous()

    output: Tensor = _StridedConv.apply(seqs, taps, stride)  # type: ignore[no-untyped-call]

    return output if bias is None else output + bias


class _StridedConv(Function):
    @staticmethod
    def forward(ctx: Any, seqs: Tensor, taps: Tensor, stride: int) -> Tensor:
        seqs = seqs.contiguous()

        ctx.save_for_backward(seqs, taps)
        ctx.stride = stride

        (batch_size, num_frames, _), (kernel_size, _, dim) = seqs.shape, taps.shape
        output = seqs.new_empty(batch_size, (num_frames - kernel_size) // stride + 1, dim)

        for sequence, out in zip(seqs, output, strict=True):
            for i, (rows, block) in enumerate(_slabs(sequence, taps, len(out), stride)):
                if i == 0:
                    torch.mm(rows, block, out=out)
                else:
                    out.addmm_(rows, block)

        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        seqs, taps = ctx.saved_tensors

        grad_output = grad_output.contiguous()

        grad_seqs = torch.empty_like(seqs) if ctx.needs_input_grad[0] else None
        grad_taps = torch.zeros_like(taps) if ctx.needs_input_grad[1] else None

        for n, grad in enumerate(grad_output):
            if grad_seqs is not None:
                first, *others = _slabs(grad_seqs[n], taps, len(grad), ctx.stride)

                # The rows of the first slab do not overlap; they hold all frames but the last few.
                rows, block = first
                torch.mm(grad, block.t(), out=rows)
                grad_seqs[n, len(grad) * ctx.stride :].zero_()

                for rows, block in others:
                    rows.addmm_(grad, block.t())

            if grad_taps is not None:
                for rows, block in _slabs(seqs[n], grad_taps, len(grad), ctx.stride):
                    block.addmm_(rows.t(), grad)

        return grad_seqs, grad_taps, None


def _slabs(
    sequence: Tensor, taps: Tensor, num_frames: int, stride: int
) -> list[tuple[Tensor, Tensor]]:
    """Return, slab by slab, the rows that the output's frames see (views of a ``(T, C)`` sequence) and the weight's
    part for them (a view as well)."""
    num_channels = sequence.size(1)

    slabs = []
    for start in range(0, len(taps), stride):
        block = taps[start : start + stride].flatten(0, 1)
        rows = sequence.as_strided(
            (num_frames, len(block)),
            (stride * num_channels, 1),
            sequence.storage_offset() + start * num_channels,
        )
        slabs.append((rows, block))

    return slabs
