"""The method on dictionaries of tensors: short, slow, and the reference for everything else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from eqssl_speech.equilibrium.weights import OuterWeights, resolve_outer_weights

LossFn: TypeAlias = Callable[[dict[str, Tensor]], Tensor]
"""Maps parameters to a scalar mean loss on one batch."""


def outer_gradient(
    loss_fns: Sequence[LossFn],
    params: Mapping[str, Tensor],
    *,
    num_inner_steps: int,
    inner_lr: float,
    order: Literal["first", "exact"] = "first",
    outer_weights: OuterWeights = "last",
) -> dict[str, Tensor]:
    """Return the gradient that one episode gives to the outer optimizer.

    The inner loop is ``phi^{k+1} = phi^k - inner_lr * grad l_k(phi^k)`` from ``phi^0 = params``. The result is the
    gradient of ``sum_k w_k l_k(phi^k)`` with respect to ``params``: with ``d phi^k / d params`` taken for the identity
    (``first``; arXiv 2508.19990, section 3) or followed through the inner steps (``exact``; MAML, arXiv 1703.03400).

    :param loss_fns: K+1 functions of the parameters, one per batch of the episode.
    :param params: Parameters by name. They are read, never changed. *Shape of each:* any.
    :param num_inner_steps: K, at least 0.
    :param inner_lr: The step size of the inner loop, greater than 0 where K > 0.
    :param order: ``first`` or ``exact``. ``exact`` keeps the graph of the whole inner loop in memory.
    :param outer_weights: See :func:`resolve_outer_weights`.
    :returns: Gradients by name; zeros for a parameter that no loss uses.
    :raises ValueError: If an argument is out of range.
    """
    if num_inner_steps < 0:
        raise ValueError(
            f"`num_inner_steps` must be greater than or equal to 0, but is {num_inner_steps} instead."
        )

    if num_inner_steps > 0 and not inner_lr > 0.0:
        raise ValueError(f"`inner_lr` must be greater than 0, but is {inner_lr} instead.")

    if len(loss_fns) != num_inner_steps + 1:
        raise ValueError(
            f"`loss_fns` must hold `num_inner_steps` + 1 = {num_inner_steps + 1} functions, but holds "
            f"{len(loss_fns)} instead."
        )

    weights = resolve_outer_weights(outer_weights, num_inner_steps)

    if order == "first":
        return _first_order(loss_fns, params, inner_lr, weights)

    if order == "exact":
        return _exact(loss_fns, params, inner_lr, weights)

    raise ValueError(f"`order` must be 'first' or 'exact', but is '{order}' instead.")


def _first_order(
    loss_fns: Sequence[LossFn],
    params: Mapping[str, Tensor],
    inner_lr: float,
    weights: Sequence[float],
) -> dict[str, Tensor]:
    phi = _as_leaves(params)
    outer = {name: torch.zeros_like(p) for name, p in phi.items()}

    for loss_fn, weight in zip(loss_fns, weights):
        grads = _gradients(loss_fn(phi), phi, create_graph=False)
        outer = {name: g + weight * grads[name] for name, g in outer.items()}
        phi = _as_leaves({name: p - inner_lr * grads[name] for name, p in phi.items()})

    return outer


def _exact(
    loss_fns: Sequence[LossFn],
    params: Mapping[str, Tensor],
    inner_lr: float,
    weights: Sequence[float],
) -> dict[str, Tensor]:
    theta = _as_leaves(params)
    phi = theta
    losses = []

    for k, (loss_fn, weight) in enumerate(zip(loss_fns, weights)):
        loss = loss_fn(phi)
        losses.append(weight * loss)

        if k < len(loss_fns) - 1:
            grads = _gradients(loss, phi, create_graph=True)
            phi = {name: p - inner_lr * grads[name] for name, p in phi.items()}

    return _gradients(torch.stack(losses).sum(), theta, create_graph=False)


def _as_leaves(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: p.detach().requires_grad_() for name, p in params.items()}


def _gradients(loss: Tensor, params: dict[str, Tensor], *, create_graph: bool) -> dict[str, Tensor]:
    grads = torch.autograd.grad(
        loss, list(params.values()), create_graph=create_graph, allow_unused=True
    )

    return {
        name: torch.zeros_like(p) if g is None else g for (name, p), g in zip(params.items(), grads)
    }
