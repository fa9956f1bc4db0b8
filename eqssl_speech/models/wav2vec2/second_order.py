"""What second derivatives need: the exact order of the method differentiates a gradient."""

from __future__ import annotations

import sys
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import Module

# The name `torch.nn.utils.weight_norm` is the function; the class lives in the module of that name.
_WeightNorm: Final[Any] = sys.modules["torch.nn.utils.weight_norm"].WeightNorm


class _TwiceDifferentiableWeightNorm(_WeightNorm):  # type: ignore[misc]
    def compute_weight(self, module: Module) -> Tensor:
        g = getattr(module, f"{self.name}_g")
        v = getattr(module, f"{self.name}_v")

        weight: Tensor = v * (g / torch.norm_except_dim(v, 2, self.dim))

        return weight


def make_twice_differentiable(model: Module) -> None:
    """Let weight-normalised layers compute their weight in steps whose second derivatives are right.

    The fused ``torch._weight_norm`` of torch 2.9 has a wrong second derivative where the norm keeps the first or the
    last dimension (``gradgradcheck`` fails), as in wav2vec 2.0. First derivatives are right.

    :param model: Changed in place; parameters and their names stay.
    """
    for module in model.modules():
        for key, hook in module._forward_pre_hooks.items():
            if isinstance(hook, _WeightNorm):
                module._forward_pre_hooks[key] = _TwiceDifferentiableWeightNorm(hook.name, hook.dim)
