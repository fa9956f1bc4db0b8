"""The outer gradient on quadratics equals the closed forms of DESIGN.md section 1, to 1e-10 in float64."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import SGD

from eqssl_speech.equilibrium import EquilibriumOptimizer, outer_gradient, resolve_outer_weights

# inner_lr times the eigenvalues lies in (0.03, 1.8): stable, with factors I - inner_lr A of both signs, so that a
# wrong power of them cannot hide.
INNER_LR, LOW, HIGH = 0.3, 0.1, 6.0

NUM_SOURCES = 3

KINDS = ["last", "uniform", "first", "random"]


def draw_outer_weights(kind: str, num_inner_steps: int, seed: int) -> tuple[object, list[float]]:
    """Return the setting to pass and the numbers w_0..w_K that it stands for."""
    num_weights = num_inner_steps + 1

    if kind == "uniform":
        return kind, [1.0 / num_weights] * num_weights
    if kind == "last":
        return kind, [0.0] * num_inner_steps + [1.0]
    if kind == "first":
        return kind, [1.0] + [0.0] * num_inner_steps

    generator = random.Random(100 * seed + num_inner_steps)
    weights = [generator.uniform(0.1, 2.0) for _ in range(num_weights)]

    return weights, weights


@pytest.mark.parametrize("num_inner_steps", range(6))
@pytest.mark.parametrize("kind", KINDS)
def test_outer_weights_resolve_to_their_numbers(kind: str, num_inner_steps: int) -> None:
    setting, weights = draw_outer_weights(kind, num_inner_steps, seed=0)

    # Equal to the last bit but for 1 / (K + 1), which may be rounded by another route.
    assert resolve_outer_weights(setting, num_inner_steps) == pytest.approx(weights, rel=1e-15)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("num_inner_steps", range(6))
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", ["first", "exact"])
def test_outer_gradient_equals_closed_form(
    order, kind, num_inner_steps, seed, make_quadratics, make_theta, flat, assert_exact
) -> None:
    setting, weights = draw_outer_weights(kind, num_inner_steps, seed)
    theta = make_theta(seed)

    for source in make_quadratics(NUM_SOURCES, seed, low=LOW, high=HIGH):
        grads = outer_gradient(
            [source] * (num_inner_steps + 1),
            theta,
            num_inner_steps=num_inner_steps,
            inner_lr=INNER_LR,
            order=order,
            outer_weights=setting,
        )

        matrix = source.outer_matrix(INNER_LR, weights, order)
        assert_exact(flat(grads), matrix @ (flat(theta) - source.optimum))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", ["first", "exact"])
def test_outer_gradient_takes_another_loss_at_each_inner_step(
    order, kind, make_quadratics, make_theta, flat, assert_exact
) -> None:
    num_inner_steps = 4
    setting, weights = draw_outer_weights(kind, num_inner_steps, seed=3)
    losses = make_quadratics(num_inner_steps + 1, 3, low=LOW, high=HIGH)
    theta = make_theta(3)

    grads = outer_gradient(
        losses,
        theta,
        num_inner_steps=num_inner_steps,
        inner_lr=INNER_LR,
        order=order,
        outer_weights=setting,
    )

    # The matrices do not commute, so this sees the order in which the steps are differentiated.
    phi, expected = flat(theta), torch.zeros_like(flat(theta))
    jacobian = torch.eye(len(phi), dtype=phi.dtype)
    for loss, weight in zip(losses, weights, strict=True):
        grad = loss.matrix @ (phi - loss.optimum)
        expected += weight * (jacobian.T @ grad if order == "exact" else grad)
        phi = phi - INNER_LR * grad
        jacobian = loss.contraction(INNER_LR, 1) @ jacobian

    assert_exact(flat(grads), expected)


def test_outer_gradient_leaves_params_and_their_grads_alone(make_quadratics, make_theta) -> None:
    (source,) = make_quadratics(1, 0, low=LOW, high=HIGH)
    theta = {name: Parameter(param) for name, param in make_theta(0).items()}
    before = {name: param.detach().clone() for name, param in theta.items()}

    for order in ("first", "exact"):
        grads = outer_gradient([source] * 3, theta, num_inner_steps=2, inner_lr=0.1, order=order)

        assert list(grads) == list(theta)
        for name, param in theta.items():
            assert grads[name].shape == param.shape
            assert not grads[name].requires_grad
            assert torch.equal(param, before[name])
            assert param.grad is None


def accumulate_episodes(
    optimizer: EquilibriumOptimizer, params: dict[str, Tensor], sources: Sequence, num_steps: int
) -> None:
    """Run one episode of every source as the trainer does, leaving the mean outer gradient in ``.grad``."""
    for source in sources:
        optimizer.adapt([lambda s=source: s(params)] * num_steps)
        (optimizer.outer_loss(source(params)) / len(sources)).backward()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("num_inner_steps", range(6))
@pytest.mark.parametrize("kind", KINDS)
def test_optimizer_leaves_closed_form_in_grad_and_steps_along_it(
    kind, num_inner_steps, seed, make_quadratics, make_theta, flat, unflat, assert_exact
) -> None:
    setting, weights = draw_outer_weights(kind, num_inner_steps, seed)
    sources = make_quadratics(NUM_SOURCES, seed, low=LOW, high=HIGH)
    theta = make_theta(seed)
    params = {name: Parameter(param.clone()) for name, param in theta.items()}
    outer_lr = 0.7
    optimizer = EquilibriumOptimizer(
        SGD(params.values(), lr=outer_lr),
        num_inner_steps=num_inner_steps,
        inner_lr=INNER_LR,
        outer_weights=setting,
    )

    accumulate_episodes(optimizer, params, sources, num_inner_steps)

    expected = sum(
        source.outer_matrix(INNER_LR, weights, "first") @ (flat(theta) - source.optimum)
        for source in sources
    ) / len(sources)
    assert_exact(flat({name: param.grad for name, param in params.items()}), expected)

    # Until the step the parameters are those of the last source after its K inner steps.
    last = sources[-1]
    moved = last.contraction(INNER_LR, num_inner_steps) @ (flat(theta) - last.optimum)
    assert_exact(flat(params), last.optimum + moved)

    optimizer.step()

    assert_exact(flat(params), flat(theta) - outer_lr * expected)


@pytest.mark.parametrize("num_inner_steps", range(1, 6))
def test_trace_holds_losses_and_gradient_norms_along_the_inner_loop(
    num_inner_steps, make_quadratics, make_theta, flat, assert_exact
) -> None:
    (source,) = make_quadratics(1, 5, low=LOW, high=HIGH)
    theta = make_theta(5)
    params = {name: Parameter(param.clone()) for name, param in theta.items()}
    optimizer = EquilibriumOptimizer(
        SGD(params.values(), lr=0.1), num_inner_steps=num_inner_steps, inner_lr=INNER_LR
    )

    trace = optimizer.adapt([lambda: source(params)] * num_inner_steps)

    offset = flat(theta) - source.optimum
    losses, norms = [], []
    for num_steps in range(num_inner_steps):
        phi = source.contraction(INNER_LR, num_steps) @ offset
        losses.append(0.5 * phi @ source.matrix @ phi)
        norms.append((source.matrix @ phi).norm())

    # The trace may be kept in float32 (it is for people to read): 1e-6 is a few units in the last place of that.
    torch.testing.assert_close(trace.losses.double(), torch.stack(losses), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(trace.grad_norms.double(), torch.stack(norms), rtol=1e-6, atol=1e-6)
