"""The inner loop, in place: K steps of gradient descent on one data source."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from eqssl_speech.equilibrium.replica import Replica, local_part
from eqssl_speech.equilibrium.snapshot import forget_cast_weights

Closure: TypeAlias = Callable[[], Tensor]
"""Returns the scalar mean loss of one batch at the present parameters, with its graph."""


@dataclass(frozen=True, kw_only=True)
class InnerLoop:
    """How the inner steps are taken.

    :raises ValueError: If a field is out of range.
    """

    num_inner_steps: int
    """K, at least 0."""

    inner_lr: float
    """The step size, greater than 0 where K > 0."""

    inner_max_grad_norm: float | None = None
    """If set, an inner gradient of a larger norm is scaled down to this norm, greater than 0."""

    normalize_inner_grad: bool = False
    """If ``True``, every inner gradient is scaled to norm 1, so that an inner step has the length ``inner_lr``."""

    def __post_init__(self) -> None:
        if self.num_inner_steps < 0:
            raise ValueError(
                "`num_inner_steps` must be greater than or equal to 0, but is "
                f"{self.num_inner_steps} instead."
            )

        if self.num_inner_steps > 0 and not (self.inner_lr > 0.0 and math.isfinite(self.inner_lr)):
            raise ValueError(f"`inner_lr` must be greater than 0, but is {self.inner_lr} instead.")

        max_norm = self.inner_max_grad_norm
        if max_norm is not None and not max_norm > 0.0:
            raise ValueError(
                f"`inner_max_grad_norm` must be greater than 0, but is {max_norm} instead."
            )


@dataclass(frozen=True)
class InnerTrace:
    """What happened in an inner loop, for the log."""

    losses: Tensor
    """The losses at ``phi^0 .. phi^{K-1}``, each on its own batch. *Shape:* ``(K,)``."""

    grad_norms: Tensor
    """The norms of the gradients there, before any scaling. *Shape:* ``(K,)``."""

    def raise_if_diverged(
        self,
        adapted_loss: Tensor | None = None,
        replica: Replica | None = None,
        *,
        max_rise: float | None = None,
        is_void: bool = False,
    ) -> None:
        """Look at all numbers in one read from the device, the only one of an inner loop.

        :param adapted_loss: If given, the scalar loss at ``phi^K``, looked at too.
        :param replica: If given, all its processes come to the same result.
        :param max_rise: See :func:`raise_if_rising`.
        :param is_void: Whether this process had nothing to compute the losses on. All of its replica leave the episode
            out then.
        :raises VoidEpisodeError: If a process had nothing.
        :raises NonFiniteError: If a loss or a gradient norm is not finite; it names the first.
        :raises LossRiseError: If the loss rises too far.
        """
        # In the order in which they came: a loss, its gradient, the next loss.
        values = torch.stack([self.losses, self.grad_norms], dim=1).flatten()

        if adapted_loss is not None:
            values = torch.cat([values, adapted_loss.detach().to(values.dtype).view(1)])

        if len(values) == 0:
            return

        # Filled in on the device; a copy to it would be waited for.
        facts = [torch.full_like(values[:1], fact) for fact in (1.0, float(is_void))]
        values = torch.cat([values, *facts])

        if replica is not None:
            # A sum is finite if all that went into it is.
            values = replica.sum(values)

        *numbers, num_processes, num_void = values.tolist()

        if num_void > 0.0:
            raise VoidEpisodeError

        for i, number in enumerate(numbers):
            if not math.isfinite(number):
                raise NonFiniteError(i // 2, "gradient" if i % 2 else "loss")

        if max_rise is not None:
            raise_if_rising([number / num_processes for number in numbers[::2]], max_rise)


def raise_if_rising(losses: Sequence[float], max_rise: float) -> None:
    """Compare the losses along an inner loop with the one that it began at.

    :param losses: At ``phi^0 .. phi^K``, in nats. Each is of a batch of its own: they differ without a step too.
    :param max_rise: A loss may be so many times that at ``phi^0``, or so many nats where that is less than 1: a ratio
        of losses near 0 says nothing.
    :raises LossRiseError: If one is greater; it names the first.
    """
    first, *later = losses

    for k, loss in enumerate(later, start=1):
        if loss > max_rise * max(first, 1.0):
            raise LossRiseError(k, loss, first)


class EpisodeError(ArithmeticError):
    """Raised when an episode cannot be trained on."""


class VoidEpisodeError(EpisodeError):
    """Raised when there is nothing that the losses of an episode could be computed on."""


class LossRiseError(EpisodeError):
    """Raised when the loss rises too far over an inner loop."""

    def __init__(self, inner_step: int, loss: float, first_loss: float) -> None:
        """
        :param inner_step: The inner step k, from 1; K stands for the adapted loss.
        :param loss: The loss there, in nats.
        :param first_loss: That at ``phi^0``.
        """
        super().__init__(
            f"The loss of inner step {inner_step} is {loss:.4g} nats, from {first_loss:.4g} at the start."
        )

        self.inner_step = inner_step
        self.loss = loss
        self.first_loss = first_loss


class NonFiniteError(EpisodeError):
    """Raised when a loss or a gradient of the inner loop is infinite or not a number."""

    def __init__(self, inner_step: int, what: str) -> None:
        """
        :param inner_step: The inner step k, from 0; K stands for the adapted loss.
        :param what: ``loss`` or ``gradient``.
        """
        super().__init__(f"The {what} of inner step {inner_step} is not finite.")

        self.inner_step = inner_step
        self.what = what


def descend(
    params: Sequence[Tensor],
    closures: Sequence[Closure],
    loop: InnerLoop,
    *,
    inner_lr: float | None = None,
    weights: Sequence[float] = (),
    scales: Sequence[Tensor | None] | None = None,
    replica: Replica | None = None,
    check_finite: bool = True,
) -> tuple[InnerTrace, list[Tensor | None]]:
    """Take one in-place step of gradient descent per closure.

    ``.grad`` is neither read nor written, and nothing is sent to other replicas. The caller puts the parameters back
    (:class:`Snapshot`), also when this raises.

    :param params: Leaf tensors that require gradients; changed in place.
    :param closures: K functions, each with the loss of one batch at the present parameters.
    :param loop: How the steps are taken.
    :param inner_lr: Overrides the step size of ``loop``; 0 evaluates the gradients and leaves the parameters alone.
    :param weights: ``w_0 .. w_{K-1}``; what is missing counts as 0.
    :param scales: If given, a factor for each gradient entry (a preconditioner), ``None`` where there is none.
    :param replica: The processes that hold the parameters; by default this one alone.
    :param check_finite: Whether to look at the numbers, for which the processor waits for the device; otherwise
        :meth:`InnerTrace.raise_if_diverged` is left to the caller.
    :returns: The trace, and ``sum_{k<K} w_k g_k`` per parameter, the part of it that lies here (``None`` where no
        gradient came or every weight is 0).
    :raises NonFiniteError: If a loss or a gradient norm is not finite.
    :raises RuntimeError: If a loss uses none of the parameters.
    """
    lr = loop.inner_lr if inner_lr is None else inner_lr
    replica = replica or Replica()

    sums: list[Tensor | None] = [None] * len(params)
    losses: list[Tensor] = []
    norms: list[Tensor] = []

    for k, closure in enumerate(closures):
        loss, grads = _evaluate(closure, params, replica)
        used = [i for i, g in enumerate(grads) if g is not None]
        used_grads = [g for g in grads if g is not None]

        norm = replica.norm(used_grads)
        losses.append(loss.float())
        norms.append(norm.float())

        if k < len(weights) and weights[k] != 0.0:
            _accumulate(sums, used, used_grads, weights[k])

        if lr != 0.0:
            used_scales = None if scales is None else [scales[i] for i in used]

            # Found only now, as the first forward pass may move them (see Snapshot).
            parts = [local_part(params[i]) for i in used]

            _step(parts, used_grads, norm, lr, loop, used_scales, replica)

        # Or they would still take their memory while the next gradient is computed.
        del grads, used_grads

    trace = InnerTrace(_stack(losses, params), _stack(norms, params))

    if check_finite:
        trace.raise_if_diverged(replica=replica)

    return trace, sums


def _evaluate(
    closure: Closure, params: Sequence[Tensor], replica: Replica
) -> tuple[Tensor, list[Tensor | None]]:
    with torch.enable_grad():
        loss = closure()

        # A backward pass runs in the precision of its forward pass; autocast would only cache weights for it.
        with torch.autocast(loss.device.type, enabled=False):
            grads = replica.gradients(loss, params)

    if all(g is None for g in grads):
        raise RuntimeError(
            "The inner loss has no gradient for any parameter: it was computed on other tensors than "
            "those of the optimizer."
        )

    return loss.detach(), grads


@torch.no_grad()
def _step(
    parts: list[Tensor],
    grads: list[Tensor],
    norm: Tensor,
    lr: float,
    loop: InnerLoop,
    scales: list[Tensor | None] | None,
    replica: Replica,
) -> None:
    if scales is not None:
        grads = [g if s is None else g * s for g, s in zip(grads, scales)]

        # What is bounded is the step that is taken.
        norm = replica.norm(grads)

    # Not in place: autograd may hand one tensor to two parameters.
    if loop.normalize_inner_grad:
        grads = list(torch._foreach_mul(grads, 1.0 / norm.clamp_min(torch.finfo(norm.dtype).tiny)))
    elif loop.inner_max_grad_norm is not None:
        grads = list(torch._foreach_mul(grads, (loop.inner_max_grad_norm / norm).clamp_max(1.0)))

    torch._foreach_add_(parts, grads, alpha=-lr)

    forget_cast_weights()


@torch.no_grad()
def _accumulate(
    sums: list[Tensor | None], used: list[int], grads: list[Tensor], weight: float
) -> None:
    for i, grad in zip(used, grads):
        present = sums[i]
        if present is None:
            sums[i] = grad * weight
        else:
            present.add_(grad, alpha=weight)


def _stack(values: list[Tensor], params: Sequence[Tensor]) -> Tensor:
    if values:
        return torch.stack(values)

    return torch.zeros(0, device=params[0].device if params else None)
