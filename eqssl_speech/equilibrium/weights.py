"""How the K+1 gradients along the inner loop are weighted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

OuterWeights: TypeAlias = Literal["last", "uniform", "first"] | Sequence[float]
"""A name, or the K+1 numbers ``w_0 .. w_K`` themselves."""


def resolve_outer_weights(outer_weights: OuterWeights, num_inner_steps: int) -> tuple[float, ...]:
    """Turn a name or a list into the weights ``w_0 .. w_K`` of the gradients at ``phi^0 .. phi^K``.

    :param outer_weights: ``last`` is the paper's method (arXiv 2508.19990), ``uniform`` the direction of Reptile (arXiv
        1803.02999) divided by K+1, ``first`` conventional training; a list is taken as it is.
    :param num_inner_steps: K, at least 0.
    :returns: K+1 numbers.
    :raises ValueError: If the name is unknown, or the list has another length, a negative or non-finite number, or
        only zeros.
    """
    num_weights = num_inner_steps + 1

    if isinstance(outer_weights, str):
        match outer_weights:
            case "last":
                return (0.0,) * num_inner_steps + (1.0,)
            case "uniform":
                return (1.0 / num_weights,) * num_weights
            case "first":
                return (1.0,) + (0.0,) * num_inner_steps
        raise ValueError(
            "`outer_weights` must be 'last', 'uniform', 'first' or a list of numbers, but is "
            f"'{outer_weights}' instead."
        )

    weights = tuple(float(w) for w in outer_weights)

    if len(weights) != num_weights:
        raise ValueError(
            f"`outer_weights` must hold `num_inner_steps` + 1 = {num_weights} numbers, but holds "
            f"{len(weights)} instead."
        )

    if not all(math.isfinite(w) and w >= 0.0 for w in weights):
        raise ValueError(
            f"`outer_weights` must be finite and greater than or equal to 0, but is {list(weights)} instead."
        )

    if not any(weights):
        raise ValueError("`outer_weights` must hold a number greater than 0, but holds only zeros.")

    return weights
