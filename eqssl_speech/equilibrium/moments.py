"""What an optimizer knows of the scale of each gradient entry."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer

from eqssl_speech.equilibrium.replica import local_part


@torch.no_grad()
def inverse_root_second_moments(optimizer: Optimizer) -> list[Tensor | None]:
    """Return ``1 / (sqrt(v) + eps)`` per parameter that requires gradients, in the order of the parameter groups.

    ``v`` is Adam's ``exp_avg_sq``, corrected for its start at zero as Adam does (arXiv 1412.6980, algorithm 1), or
    RMSprop's ``square_avg``.

    :param optimizer: Any optimizer.
    :returns: A tensor of the shape of the parameter's part that lies here, or ``None`` where there is no second moment
        (yet).
    """
    scales: list[Tensor | None] = []

    for group in optimizer.param_groups:
        eps = group.get("eps", 1e-8)

        for param in group["params"]:
            if not param.requires_grad:
                continue

            state = optimizer.state.get(param, {})

            if "exp_avg_sq" in state:
                correction = 1.0 - group["betas"][1] ** local_part(state["step"])
                moments = local_part(state["exp_avg_sq"]) / correction
                scales.append(moments.sqrt_().add_(eps).reciprocal_())
            elif "square_avg" in state:
                moments = local_part(state["square_avg"])
                scales.append(moments.sqrt().add_(eps).reciprocal_())
            else:
                scales.append(None)

    return scales
