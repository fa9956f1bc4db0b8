"""A loss whose ordinary ``backward()`` delivers a gradient that was computed on the side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def attach_gradient(
    loss: Tensor, weight: float, params: Sequence[Tensor], grads: Sequence[Tensor]
) -> Tensor:
    """Return ``weight * loss`` with ``<params, stop_grad(grads)>`` added to its gradient, but not to its value.

    Whoever calls ``backward()`` on the result, the trainer or a distributed wrapper with its own hooks, accumulates
    ``weight * grad(loss) + grads`` in ``.grad``.

    :param loss: A scalar.
    :param weight: The factor of the loss and of its gradient.
    :param params: Leaf tensors.
    :param grads: As many tensors, of the same shapes. They are used up by the backward pass, of which there is one.
    :returns: A scalar.
    """
    result: Tensor = _AttachGradient.apply(  # type: ignore[no-untyped-call]
        loss, weight, len(params), *params, *grads
    )

    return result


class _AttachGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, weight: float, num_params: int, *tensors: Tensor) -> Tensor:
        ctx.weight = weight
        ctx.num_params = num_params
        ctx.grads = tensors[num_params:]

        return loss * weight

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Any, ...]:
        (scale,) = grad_outputs

        # In place, and then given away: there is never a second copy of the gradients.
        grads = [g.mul_(scale) for g in ctx.grads]

        ctx.grads = ()

        return scale * ctx.weight, None, None, *grads, *([None] * ctx.num_params)
