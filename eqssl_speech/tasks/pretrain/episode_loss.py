"""One episode: adapt to a source, and return the loss whose ``backward()`` is its outer gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast, final

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import Module
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from eqssl_speech.criteria.base import Criterion, CriterionOutput
from eqssl_speech.data.episodes import Episode
from eqssl_speech.data.labelled import SpeechBatch, with_audio
from eqssl_speech.equilibrium import (
    EpisodeError,
    EquilibriumOptimizer,
    InnerTrace,
    NonFiniteError,
    OuterWeights,
    Replica,
    ShardedReplica,
    VoidEpisodeError,
    attach_gradient,
    outer_gradient,
    raise_if_rising,
)


@dataclass(frozen=True)
class EpisodeResult:
    """What an episode gives."""

    loss: Tensor
    """A scalar whose ``backward()`` accumulates the episode's outer gradient."""

    first: CriterionOutput
    """Of the first batch, at theta."""

    last: CriterionOutput
    """Of the last batch, at phi^K. The same as ``first`` where K = 0."""

    inner_grad_norms: Tensor | None
    """Of the gradients at phi^0 .. phi^{K-1}. *Shape:* ``(K,)``."""


@final
class EpisodeLoss:
    """Computes the outer loss of episodes, conventional (K = 0), first-order or exact."""

    def __init__(
        self,
        model: Module,
        module: Module,
        criterion: Criterion,
        optimizer: Optimizer,
        *,
        order: Literal["first", "exact"] = "first",
        outer_weights: OuterWeights = "last",
        replica: Replica | None = None,
        max_rise: float | None = None,
    ) -> None:
        """
        :param model: The model that the trainer's backward goes through: ``module`` or a distributed wrapper of it.
        :param module: The base module; inner steps use it, so that nothing is sent.
        :param criterion: The loss.
        :param optimizer: The trainer's optimizer; adapts if it is an :class:`EquilibriumOptimizer`.
        :param order: Whether inner steps are differentiated through.
        :param outer_weights: For ``exact``; ``first`` has those of the optimizer.
        :param replica: The processes that hold the parameters, which look at an episode's numbers together; by default
            this one alone. ``exact`` cannot do with more.
        :param max_rise: If given, how far the loss may rise over an inner loop
            (:func:`~eqssl_speech.equilibrium.raise_if_rising`).
        """
        self._model = model
        self._module = module
        self._criterion = criterion
        self._optimizer = optimizer if isinstance(optimizer, EquilibriumOptimizer) else None
        self._order = order
        self._outer_weights = outer_weights
        self._replica = replica or Replica()
        self._max_rise = max_rise

    def __call__(self, episode: Episode, inner_lr_scale: float = 1.0) -> EpisodeResult:
        """Compute the loss of an episode.

        :param episode: The episode.
        :param inner_lr_scale: The step size of the inner loop is multiplied by this.
        :raises EpisodeError: If the episode cannot be trained on; the parameters are theta then.
        """
        if episode.is_dead and not isinstance(self._replica, ShardedReplica):
            raise VoidEpisodeError

        num_inner_steps = 0 if self._optimizer is None else self._optimizer.num_inner_steps

        if num_inner_steps == 0:
            return self._plain(episode)

        if self._order == "exact":
            return self._exact(episode, inner_lr_scale)

        return self._first_order(episode, inner_lr_scale)

    def nothing(self, episode: Episode) -> Tensor:
        """Return a loss that adds zero to every gradient, and takes part in whatever the other ranks do."""
        batch = episode.batches[-1]

        if isinstance(self._replica, ShardedReplica):
            # Its gradients are sent from within the backward pass of the model. What is finite, times zero, is zero.
            noise = with_audio(batch, torch.randn_like(batch.seqs))

            loss = 0.0 * self._criterion(self._model, noise).loss

            return loss if self._optimizer is None else self._optimizer.outer_loss(loss)

        self._criterion(self._model, batch)

        return self._zero()

    def _plain(self, episode: Episode) -> EpisodeResult:
        output = self._criterion(self._model, episode.batches[-1])

        nothing = output.loss.new_zeros(0)

        InnerTrace(nothing, nothing).raise_if_diverged(
            output.loss, self._replica, is_void=episode.is_dead
        )

        return EpisodeResult(output.loss, output, output, None)

    def _first_order(self, episode: Episode, inner_lr_scale: float) -> EpisodeResult:
        assert self._optimizer is not None

        outputs: list[CriterionOutput] = []

        trace = self._optimizer.adapt(
            [partial(self._inner_loss, batch, outputs) for batch in episode.batches[:-1]],
            inner_lr_scale=inner_lr_scale,
            check_finite=False,
        )

        last = self._criterion(self._model, episode.batches[-1])

        # The only wait for the device in an episode, when all but its last backward pass is under way.
        try:
            trace.raise_if_diverged(
                last.loss,
                self._replica,
                max_rise=self._current_max_rise,
                is_void=episode.is_dead,
            )
        except EpisodeError:
            self._optimizer.restore()

            raise

        return EpisodeResult(
            self._optimizer.outer_loss(last.loss), outputs[0], last, trace.grad_norms
        )

    def _inner_loss(self, batch: SpeechBatch, outputs: list[CriterionOutput]) -> Tensor:
        outputs.append(self._criterion(self._module, batch))

        return outputs[-1].loss

    @property
    def _current_max_rise(self) -> float | None:
        assert self._optimizer is not None

        # Without a step, losses differ as batches do.
        return self._max_rise if self._optimizer.current_inner_lr > 0.0 else None

    def _exact(self, episode: Episode, inner_lr_scale: float) -> EpisodeResult:
        assert self._optimizer is not None

        num_inner_steps = self._optimizer.num_inner_steps
        outputs: list[CriterionOutput] = []
        params = {n: p for n, p in self._module.named_parameters() if p.requires_grad}

        def loss_fn(batch: SpeechBatch, phi: dict[str, Tensor]) -> Tensor:
            def model(*args: Any, **kwargs: Any) -> Any:
                return functional_call(self._module, phi, args, kwargs)

            outputs.append(self._criterion(cast(Module, model), batch))

            return outputs[-1].loss

        # The fused attention kernels have no second derivative.
        with sdpa_kernel(SDPBackend.MATH):
            grads = outer_gradient(
                [partial(loss_fn, batch) for batch in episode.batches],
                params,
                num_inner_steps=num_inner_steps,
                inner_lr=self._optimizer.inner_loop.inner_lr * inner_lr_scale,
                order="exact",
                outer_weights=self._outer_weights,
            )

        losses = [output.loss.item() for output in outputs]

        for k, value in enumerate(losses):
            if not math.isfinite(value):
                raise NonFiniteError(k, "loss")

        if not bool(torch.isfinite(get_total_norm(list(grads.values())))):
            raise NonFiniteError(num_inner_steps, "gradient")

        if self._max_rise is not None:
            raise_if_rising(losses, self._max_rise)

        if self._model is not self._module:
            # A distributed wrapper reduces gradients only after a forward pass of its own.
            self._criterion(self._model, episode.batches[-1])

        loss = attach_gradient(self._zero(), 0.0, list(params.values()), list(grads.values()))

        return EpisodeResult(loss, outputs[0], outputs[-1], None)

    def _zero(self) -> Tensor:
        params = [p for p in self._module.parameters() if p.requires_grad]

        return attach_gradient(
            params[0].new_zeros((), requires_grad=True),
            1.0,
            params,
            [torch.zeros_like(p) for p in params],
        )
