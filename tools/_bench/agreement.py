"""Whether both sides compute the same numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from .sides import Side

ZERO_GRADIENTS: Final = "k_proj.bias"
"""How the names of parameters end whose gradient is zero in exact arithmetic: softmax does not see what all scores have
in common. It is rounding, and measured against the norm of the whole gradient."""


@dataclass(frozen=True)
class Agreement:
    """How far our numbers are from the host's, relative to the norm of the host's."""

    loss: float
    """The largest difference among the total loss and its terms."""

    logits: float
    """Infinite where minus infinity does not stand at the same places."""

    gradients: float
    """The largest difference among the parameters."""

    worst_param: str
    """The parameter that has it."""

    @property
    def largest(self) -> float:
        """The largest of the differences; not a number where anything is not."""
        return max((self.loss, self.logits, self.gradients), key=lambda v: (math.isnan(v), v))


def compare_numbers(host: Side, ours: Side, seed: int) -> Agreement:
    """Take the same step on both sides."""
    host_loss, host_output = host.take_step(seed)
    our_loss, our_output = ours.take_step(seed)

    grads, our_grads = _named_grads(host), _named_grads(ours)

    whole_norm = math.hypot(*(float(g.norm()) for g in grads.values()))

    differences = {
        name: _difference(
            our_grads[name], grad, whole_norm if name.endswith(ZERO_GRADIENTS) else None
        )
        for name, grad in grads.items()
    }

    # One that is no number is the largest.
    worst_param = max(differences, key=lambda n: (math.isnan(differences[n]), differences[n]))

    terms = ("aggregate", "contrastive", "diversity", "features_penalty")

    return Agreement(
        max(_difference(getattr(our_loss, t), getattr(host_loss, t)) for t in terms),
        _compare_logits(our_output.logits, host_output.logits),
        differences[worst_param],
        worst_param,
    )


def _named_grads(side: Side) -> dict[str, Tensor]:
    return {
        name: torch.zeros_like(param) if param.grad is None else param.grad
        for name, param in side.model.named_parameters()
    }


def _compare_logits(ours: Tensor, theirs: Tensor) -> float:
    masked = theirs.isneginf()

    if not torch.equal(ours.isneginf(), masked):
        return math.inf

    return _difference(ours[~masked], theirs[~masked])


def _difference(ours: Tensor, theirs: Tensor, norm: float | None = None) -> float:
    """Return the distance over the norm of ``theirs``, unless another is given."""
    reference = theirs.detach().double()
    distance = float((ours.detach().double() - reference).norm())

    if norm is None:
        norm = float(reference.norm())

    return distance / norm if norm else math.inf if distance else 0.0
