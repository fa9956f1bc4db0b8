"""The method for a trainer that calls ``backward()`` and ``step()`` itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.optim import Optimizer

from eqssl_speech.equilibrium.inner import Closure, InnerLoop, InnerTrace, descend
from eqssl_speech.equilibrium.moments import inverse_root_second_moments
from eqssl_speech.equilibrium.replica import Replica
from eqssl_speech.equilibrium.snapshot import Snapshot
from eqssl_speech.equilibrium.surrogate import attach_gradient
from eqssl_speech.equilibrium.weights import OuterWeights, resolve_outer_weights


@final
class EquilibriumOptimizer(Optimizer):
    """Wraps an optimizer so that it follows the gradient at the end of an inner loop.

    One outer step, with any number of episodes::

        for closures, outer_closure in episodes:          # each of one data source
            optimizer.adapt(closures)                     # parameters: theta -> phi^K
            optimizer.outer_loss(outer_closure()).backward()
        optimizer.step()                                  # parameters: theta -> the next theta
        optimizer.zero_grad()

    The parameters are phi only between ``adapt()`` and whichever comes first of ``step()``, ``zero_grad()``,
    ``restore()`` and the next ``adapt()``; an exception inside ``adapt()`` puts theta back too. ``.grad`` holds outer
    gradients alone. State, parameter groups and ``state_dict()`` are those of the base optimizer: the checkpoint of a
    run with and of one without this wrapper have the same keys, and either resumes the other.

    With K = 0 it does exactly what the base optimizer does.

    Paper: arXiv 2508.19990 (first-order approximation of the bilevel problem).
    """

    def __init__(
        self,
        base: Optimizer,
        *,
        num_inner_steps: int,
        inner_lr: float,
        inner_max_grad_norm: float | None = None,
        normalize_inner_grad: bool = False,
        precondition: bool = False,
        outer_weights: OuterWeights = "last",
        start_after_num_steps: int = 0,
        num_inner_warmup_steps: int = 0,
        buffers: Iterable[Tensor] = (),
        replica: Replica | None = None,
    ) -> None:
        """
        :param base: The optimizer that owns theta; its parameter groups are adapted.
        :param num_inner_steps: K, at least 0.
        :param inner_lr: The step size of the inner loop, greater than 0 where K > 0.
        :param inner_max_grad_norm: If set, larger inner gradients are scaled down to this norm.
        :param normalize_inner_grad: Scale every inner gradient to norm 1.
        :param precondition: Divide inner gradients by the root of the base optimizer's second moments, where it has
            them (Adam's ``exp_avg_sq``, RMSprop's ``square_avg``).
        :param outer_weights: See :func:`resolve_outer_weights`.
        :param start_after_num_steps: For so many outer steps the parameters are not adapted: the K+1 gradients of an
            episode are taken at theta and averaged, which is conventional training.
        :param num_inner_warmup_steps: Over so many outer steps after that, ``inner_lr`` rises linearly from 0.
        :param buffers: Module buffers to put back together with the parameters.
        :param replica: The processes that hold the parameters; by default this one alone. With a
            :class:`~eqssl_speech.equilibrium.ShardedReplica`, all its processes make the same calls.
        :raises ValueError: If an argument is out of range.
        """
        # `Optimizer.__init__` would make parameter groups and a state of its own; there are only the base's.
        self._base = base
        self._loop = InnerLoop(
            num_inner_steps=num_inner_steps,
            inner_lr=inner_lr,
            inner_max_grad_norm=inner_max_grad_norm,
            normalize_inner_grad=normalize_inner_grad,
        )
        self._weights = resolve_outer_weights(outer_weights, num_inner_steps)
        self._precondition = precondition

        for name, value in (
            ("start_after_num_steps", start_after_num_steps),
            ("num_inner_warmup_steps", num_inner_warmup_steps),
        ):
            if value < 0:
                raise ValueError(
                    f"`{name}` must be greater than or equal to 0, but is {value} instead."
                )

        self._start_after_num_steps = start_after_num_steps
        self._num_inner_warmup_steps = num_inner_warmup_steps
        self._buffers = list(buffers)
        self._replica = replica or Replica()

        self._step_nr = 1
        self._snapshot: Snapshot | None = None
        self._snapshot_is_current = False
        self._is_adapted = False
        self._params: list[Tensor] = []
        self._side: list[Tensor | None] = []

    def adapt(
        self,
        closures: Sequence[Closure],
        *,
        inner_lr_scale: float = 1.0,
        check_finite: bool = True,
    ) -> InnerTrace:
        """Take the K inner steps of one episode, from theta to phi^K.

        :param closures: K functions; each returns the scalar mean loss of one batch at the present parameters.
        :param inner_lr_scale: ``current_inner_lr`` is multiplied by this for the episode, at least 0.
        :param check_finite: Whether to look at the losses and gradients, for which the processor waits for the device;
            otherwise the caller looks at the trace before the backward pass, and restores.
        :returns: The losses and gradient norms at phi^0 .. phi^{K-1}.
        :raises ValueError: If the number of closures is not K.
        :raises NonFiniteError: If a loss or a gradient is not finite; theta is back by then.
        """
        if len(closures) != self.num_inner_steps:
            raise ValueError(
                f"`closures` must hold `num_inner_steps` = {self.num_inner_steps} functions, but holds "
                f"{len(closures)} instead."
            )

        self.restore()

        self._find_params()

        if self.num_inner_steps > 0:
            self._take_snapshot()

        try:
            trace, self._side = descend(
                self._params,
                closures,
                self._loop,
                inner_lr=self.current_inner_lr * inner_lr_scale,
                weights=self.current_weights[:-1],
                scales=inverse_root_second_moments(self._base) if self._precondition else None,
                replica=self._replica,
                check_finite=check_finite,
            )
        except BaseException:
            self.restore()

            raise

        return trace

    def outer_loss(self, loss: Tensor) -> Tensor:
        """Return the loss whose ``backward()`` accumulates this episode's outer gradient in ``.grad``.

        :param loss: The scalar mean loss of the episode's last batch at phi^K; of an episode that came to nothing,
            after :meth:`restore`, a loss without a gradient.
        :returns: ``w_K * loss``, with the weighted gradients of the inner loop added to its gradient.
        """
        *inner_weights, weight = self.current_weights

        side, self._side = self._side, []

        # As on the other replicas, whose episodes may have gone otherwise: what is sent depends on the weights alone.
        if any(inner_weights):
            side = self._replica.like_params(self._params, side or [None] * len(self._params))

        pairs = [(p, g) for p, g in zip(self._params, side) if g is not None]

        if weight == 1.0 and not pairs:
            return loss

        return attach_gradient(loss, weight, [p for p, _ in pairs], [g for _, g in pairs])

    def restore(self) -> None:
        """Put theta and the buffers back, if an episode has changed them."""
        if self._is_adapted:
            assert self._snapshot is not None

            self._snapshot.put_back()

            self._replica.forget_gathered()

            self._is_adapted = False

        self._side = []

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Put theta back and let the base optimizer take its step."""
        self.restore()

        result = self._base.step(closure)

        self._snapshot_is_current = False

        self._step_nr += 1

        return result

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Put theta back, which also serves a step that was skipped, and clear the gradients."""
        self.restore()

        # Buffers may have moved on: the next episode belongs to another outer step.
        self._snapshot_is_current = False

        self._base.zero_grad(set_to_none)

    def set_step_nr(self, step_nr: int) -> None:
        """Say which outer step comes next (from 1), for the start and the warm-up of the inner loop.

        A resumed run calls this; otherwise the calls of :meth:`step` are counted.
        """
        self._step_nr = step_nr

    @property
    def current_inner_lr(self) -> float:
        """The step size of the inner loop in the present outer step; 0 before ``start_after_num_steps``."""
        num_steps = self._step_nr - self._start_after_num_steps
        if num_steps <= 0:
            return 0.0

        if num_steps < self._num_inner_warmup_steps:
            return self._loop.inner_lr * num_steps / self._num_inner_warmup_steps

        return self._loop.inner_lr

    @property
    def current_weights(self) -> tuple[float, ...]:
        """The weights w_0 .. w_K in the present outer step; uniform before ``start_after_num_steps``."""
        if self._step_nr <= self._start_after_num_steps:
            return resolve_outer_weights("uniform", self.num_inner_steps)

        return self._weights

    @property
    def num_inner_steps(self) -> int:
        """K."""
        return self._loop.num_inner_steps

    @property
    def inner_loop(self) -> InnerLoop:
        """How the inner steps are taken."""
        return self._loop

    @property
    def replica(self) -> Replica:
        """The processes that hold the parameters."""
        return self._replica

    @property
    def base(self) -> Optimizer:
        """The optimizer that owns theta."""
        return self._base

    @property
    def is_adapted(self) -> bool:
        """``True`` while the parameters may be phi instead of theta."""
        return self._is_adapted

    def _find_params(self) -> None:
        params = [p for g in self.param_groups for p in g["params"] if p.requires_grad]

        # Parameters may be frozen and thawed between steps.
        if len(params) != len(self._params) or any(
            a is not b for a, b in zip(params, self._params)
        ):
            self._params, self._snapshot, self._snapshot_is_current = params, None, False

    def _take_snapshot(self) -> None:
        if self._snapshot is None:
            self._snapshot = Snapshot([*self._params, *self._buffers])

        if not self._snapshot_is_current:
            self._snapshot.take()

            self._snapshot_is_current = True

        self._is_adapted = True

    # Everything below is the base optimizer's. The groups and their dicts are replaced when a state is loaded, so
    # they are looked up each time.

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The parameter groups of the base optimizer."""
        return self._base.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The state of the base optimizer."""
        return self._base.state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """The defaults of the base optimizer."""
        return self._base.defaults

    def state_dict(self) -> dict[str, Any]:
        """Return the base optimizer's state; theta is put back first."""
        self.restore()

        return self._base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of a base optimizer, from a run with or without this wrapper."""
        self.restore()

        self._base.load_state_dict(state_dict)

        self._snapshot_is_current = False

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base optimizer."""
        self.restore()

        self._base.add_param_group(param_group)

        self._snapshot, self._snapshot_is_current = None, False

    def register_step_pre_hook(self, hook: Any) -> torch.utils.hooks.RemovableHandle:
        """Register a hook that runs before each step of the base optimizer."""
        return self._base.register_step_pre_hook(hook)

    def register_step_post_hook(self, hook: Any) -> torch.utils.hooks.RemovableHandle:
        """Register a hook that runs after each step of the base optimizer."""
        return self._base.register_step_post_hook(hook)

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("An `EquilibriumOptimizer` cannot be pickled; save its `state_dict()`.")

    def __repr__(self) -> str:
        return f"EquilibriumOptimizer({self._loop}, outer_weights={self._weights}, base={self._base!r})"
