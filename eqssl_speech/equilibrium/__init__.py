"""Training under equilibrium constraints (arXiv 2508.19990), on plain torch.

One data source ``i``, one episode, in three lines::

    phi^0 = theta
    phi^{k+1} = phi^k - inner_lr * grad l_i(phi^k)          k = 0 .. K-1     (:func:`descend`)
    outer gradient = sum_k w_k * grad l_i(phi^k)            k = 0 .. K       (:func:`outer_gradient`)

and the mean of the outer gradients of all sources goes to an ordinary optimizer. ``w = (0, .., 0, 1)`` is the paper's
method, ``w = 1 / (K + 1)`` Reptile's direction (arXiv 1803.02999), ``w = (1, 0, .., 0)`` conventional training.

Read :mod:`functional <eqssl_speech.equilibrium.functional>` first: it is the method, on dictionaries of tensors, and
the reference for everything else. :class:`EquilibriumOptimizer` is the same in place, for a trainer that calls
``backward()`` and ``step()`` itself.
"""

from __future__ import annotations

from eqssl_speech.equilibrium.functional import outer_gradient
from eqssl_speech.equilibrium.inner import (
    EpisodeError,
    InnerLoop,
    InnerTrace,
    LossRiseError,
    NonFiniteError,
    VoidEpisodeError,
    descend,
    raise_if_rising,
)
from eqssl_speech.equilibrium.optimizer import EquilibriumOptimizer
from eqssl_speech.equilibrium.replica import Replica, ShardedReplica, local_part
from eqssl_speech.equilibrium.sketch import GradientSketch
from eqssl_speech.equilibrium.snapshot import Snapshot, forget_cast_weights
from eqssl_speech.equilibrium.surrogate import attach_gradient
from eqssl_speech.equilibrium.weights import OuterWeights, resolve_outer_weights

__all__ = [
    "EpisodeError",
    "EquilibriumOptimizer",
    "GradientSketch",
    "InnerLoop",
    "InnerTrace",
    "LossRiseError",
    "NonFiniteError",
    "OuterWeights",
    "Replica",
    "ShardedReplica",
    "Snapshot",
    "VoidEpisodeError",
    "attach_gradient",
    "descend",
    "forget_cast_weights",
    "local_part",
    "outer_gradient",
    "raise_if_rising",
    "resolve_outer_weights",
]
