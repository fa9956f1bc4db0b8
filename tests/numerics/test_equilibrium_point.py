"""Descending along the outer gradient ends where the equilibrium's linear system says."""

from __future__ import annotations

import pytest
import torch
from torch.nn import Parameter
from torch.optim import SGD

from eqssl_speech.equilibrium import EquilibriumOptimizer, outer_gradient

NUM_SOURCES = 3

# inner_lr times the eigenvalues lies in (0.15, 0.6): I - inner_lr A is then positive definite, and with it every
# A (I - inner_lr A)^K, so the first-order iteration has one fixed point and converges to it.
INNER_LR, LOW, HIGH = 0.3, 0.5, 2.0

# With 1 / the largest eigenvalue as step every direction shrinks by a factor of at most 0.82 (the slowest is A = 2 with
# exact K = 2: 1 - 0.051 / 0.273), and 0.82^240 is below 1e-20: what is left at the end is rounding.
NUM_STEPS = 240


def solve_equilibrium(sources, weights, order):
    """Return theta with ``sum_i B_i (theta - c_i) = 0``, and 1 / the largest eigenvalue of the mean of the B_i."""
    matrices = [source.outer_matrix(INNER_LR, weights, order) for source in sources]
    right = sum(m @ source.optimum for m, source in zip(matrices, sources, strict=True))
    largest = torch.linalg.eigvalsh(sum(matrices) / len(sources)).max()

    return torch.linalg.solve(sum(matrices), right), 1.0 / largest.item()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("num_inner_steps", [0, 1, 3])
def test_sgd_with_first_order_gradients_lands_on_the_equilibrium(
    num_inner_steps, seed, make_quadratics, make_theta, flat, assert_exact
) -> None:
    sources = make_quadratics(NUM_SOURCES, seed, low=LOW, high=HIGH)
    last = [0.0] * num_inner_steps + [1.0]
    equilibrium, outer_lr = solve_equilibrium(sources, last, "first")
    params = {name: Parameter(param) for name, param in make_theta(seed).items()}
    optimizer = EquilibriumOptimizer(
        SGD(params.values(), lr=outer_lr), num_inner_steps=num_inner_steps, inner_lr=INNER_LR
    )

    for _ in range(NUM_STEPS):
        for source in sources:
            optimizer.adapt([lambda s=source: s(params)] * num_inner_steps)
            (optimizer.outer_loss(source(params)) / NUM_SOURCES).backward()
        optimizer.step()
        optimizer.zero_grad()

    assert_exact(flat(params), equilibrium)


@pytest.mark.parametrize("weights", [[0.0, 0.0, 1.0], [0.2, 0.5, 0.3]])
@pytest.mark.parametrize("order", ["first", "exact"])
def test_descent_along_outer_gradient_lands_on_the_equilibrium(
    order, weights, make_quadratics, make_theta, flat, assert_exact
) -> None:
    sources = make_quadratics(NUM_SOURCES, 7, low=LOW, high=HIGH)
    theta = make_theta(7)
    equilibrium, outer_lr = solve_equilibrium(sources, weights, order)

    for _ in range(NUM_STEPS):
        episodes = [
            outer_gradient(
                [source] * len(weights),
                theta,
                num_inner_steps=len(weights) - 1,
                inner_lr=INNER_LR,
                order=order,
                outer_weights=weights,
            )
            for source in sources
        ]
        for name in theta:
            mean = sum(grads[name] for grads in episodes) / NUM_SOURCES
            theta[name] = theta[name] - outer_lr * mean

    assert_exact(flat(theta), equilibrium)


def test_equilibrium_is_another_point_for_each_method(make_quadratics) -> None:
    """Without this the tests above could pass with the wrong method."""
    sources = make_quadratics(NUM_SOURCES, 7, low=LOW, high=HIGH)
    methods = [
        ([1.0], "first"),
        ([0.0, 1.0], "first"),
        ([0.5, 0.5], "first"),
        ([0.5, 0.5], "exact"),
        # Exact with K steps is first-order with 2 K steps where all the losses of an episode are one quadratic.
        ([0.0, 0.0, 1.0], "first"),
        ([0.0, 0.0, 1.0], "exact"),
    ]
    points = [solve_equilibrium(sources, weights, order)[0] for weights, order in methods]

    for index, point in enumerate(points):
        for other in points[index + 1 :]:
            assert (point - other).norm() > 1e-3
