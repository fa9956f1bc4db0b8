"""How the inner steps of `EquilibriumOptimizer` are taken: scaled, warmed up, on which parameters, under autocast."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import Linear, Module, Parameter, Sequential, Tanh
from torch.optim import SGD, AdamW

from eqssl_speech.equilibrium import EquilibriumOptimizer

# A power of two: `inner_lr * gradient` is then exact, so that every way to write the inner step gives the same bits.
INNER_LR = 0.25


def make_net() -> Module:
    """Build a small network."""
    torch.manual_seed(0)

    return Sequential(Linear(5, 7), Tanh(), Linear(7, 3))


def get_loss(net: Module, seed: int) -> Tensor:
    """Return the mean squared error on one batch."""
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(8, 5, generator=generator), torch.randn(8, 3, generator=generator)

    return (net(x) - y).square().mean()


def get_closures(net: Module, num: int) -> list[Callable[[], Tensor]]:
    """Return closures over different batches."""
    return [lambda k=k: get_loss(net, k) for k in range(num)]


def copy_params(net: Module) -> list[Tensor]:
    """Copy the parameters."""
    return [p.detach().clone() for p in net.parameters()]


def norm_of(tensors: list[Tensor]) -> float:
    """Return the norm of tensors taken as one vector."""
    return torch.cat([t.flatten() for t in tensors]).double().norm().item()


def gradient_at(net: Module, seed: int) -> list[Tensor]:
    """Return the gradient on one batch at the present parameters."""
    return list(torch.autograd.grad(get_loss(net, seed), list(net.parameters())))


def assert_close(actual: list[Tensor], expected: list[Tensor]) -> None:
    """Assert equality up to float32 rounding: ten or so operations at 6e-8 each, on numbers of the order 1."""
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("outer_weights", ["last", "uniform", "first", [0.3, 0.0, 1.2]])
@pytest.mark.parametrize("max_norm", [None, 0.2, 1e6])
def test_inner_loop_equals_a_loop_by_hand(outer_weights, max_norm) -> None:
    weights = {"last": [0, 0, 1], "uniform": [1 / 3] * 3, "first": [1, 0, 0]}
    numbers = weights[outer_weights] if isinstance(outer_weights, str) else outer_weights
    net, twin = make_net(), make_net()
    optimizer = EquilibriumOptimizer(
        SGD(net.parameters(), lr=1.0),
        num_inner_steps=2,
        inner_lr=INNER_LR,
        inner_max_grad_norm=max_norm,
        outer_weights=outer_weights,
    )

    trace = optimizer.adapt(get_closures(net, 2))
    optimizer.outer_loss(get_loss(net, 2)).backward()

    # Clipping shortens the step; neither the outer gradient nor the trace sees it.
    outer = [torch.zeros_like(p) for p in twin.parameters()]
    for k in range(3):
        loss, grads = get_loss(twin, k).item(), gradient_at(twin, k)
        outer = [o + numbers[k] * g for o, g in zip(outer, grads, strict=True)]
        if k == 2:
            break
        norm = norm_of(grads)
        assert trace.losses[k].item() == pytest.approx(loss, rel=2e-6)
        assert trace.grad_norms[k].item() == pytest.approx(norm, rel=2e-6)
        factor = 1.0 if max_norm is None else min(1.0, max_norm / norm)
        with torch.no_grad():
            for param, grad in zip(twin.parameters(), grads, strict=True):
                param.sub_(INNER_LR * factor * grad)

    assert trace.losses.shape == trace.grad_norms.shape == (2,)
    assert_close(copy_params(net), copy_params(twin))
    assert_close([p.grad for p in net.parameters()], outer)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_normalized_inner_gradient_moves_by_inner_lr(scale: float) -> None:
    net = make_net()
    optimizer = EquilibriumOptimizer(
        SGD(net.parameters(), lr=1.0),
        num_inner_steps=1,
        inner_lr=INNER_LR,
        normalize_inner_grad=True,
    )
    theta, grads = copy_params(net), gradient_at(net, 0)

    optimizer.adapt([lambda: scale * get_loss(net, 0)])

    moved = [p.detach() - t for p, t in zip(net.parameters(), theta, strict=True)]
    # Differences of float32 parameters of the order 0.3: 1e-6 of the step is their rounding.
    assert norm_of(moved) == pytest.approx(INNER_LR, rel=2e-6)
    assert_close(moved, [-INNER_LR / norm_of(grads) * g for g in grads])


def test_normalized_inner_gradient_survives_a_gradient_of_zero() -> None:
    net = make_net()
    theta = copy_params(net)
    optimizer = EquilibriumOptimizer(
        SGD(net.parameters(), lr=1.0), num_inner_steps=1, inner_lr=1.0, normalize_inner_grad=True
    )

    optimizer.adapt([lambda: 0.0 * get_loss(net, 0)])

    assert all(torch.equal(p, t) for p, t in zip(net.parameters(), theta, strict=True))


@pytest.mark.parametrize("settings", [{"inner_max_grad_norm": 0.5}, {"normalize_inner_grad": True}])
def test_gradients_that_share_memory_are_scaled_once(settings: dict) -> None:
    """Autograd hands one tensor, at times an expanded scalar, to several parameters of a sum."""
    a, b = Parameter(torch.zeros(4)), Parameter(torch.ones(4))
    optimizer = EquilibriumOptimizer(
        SGD([a, b], lr=1.0), num_inner_steps=1, inner_lr=1.0, **settings
    )
    target = torch.tensor([3.0, 0.0, 0.0, 0.0])

    optimizer.adapt([lambda: ((a + b) * target).sum() + (a + b).sum()])

    grad = target + 1.0
    max_norm = settings.get("inner_max_grad_norm", 1.0)
    step = max_norm / (2 * grad.square().sum()).sqrt() * grad
    assert_close([a.detach(), b.detach()], [-step, 1.0 - step])

    optimizer.adapt([lambda: a.sum() + b.sum()])

    step = torch.full((4,), max_norm / 8**0.5)
    assert_close([a.detach(), b.detach()], [-step, 1.0 - step])


def test_preconditioned_inner_step_divides_by_root_of_second_moments_as_adamw() -> None:
    net = make_net()
    base = AdamW(net.parameters(), lr=1e-2, betas=(0.9, 0.95), eps=1e-4)
    optimizer = EquilibriumOptimizer(base, num_inner_steps=1, inner_lr=1e-2, precondition=True)

    for step in range(3):
        optimizer.adapt([lambda: get_loss(net, 7)])
        optimizer.outer_loss(get_loss(net, step)).backward()
        optimizer.step()
        optimizer.zero_grad()

    theta, grads = copy_params(net), gradient_at(net, 9)
    optimizer.adapt([lambda: get_loss(net, 9)])

    expected = []
    for param, value, grad in zip(net.parameters(), theta, grads, strict=True):
        second_moment = base.state[param]["exp_avg_sq"] / (1.0 - 0.95**3)
        expected.append(value - 1e-2 * grad / (second_moment.sqrt() + 1e-4))
    assert_close(copy_params(net), expected)

    # And it is another step than the plain one.
    assert (
        norm_of([p.detach() - v + 1e-2 * g for p, v, g in zip(net.parameters(), theta, grads)])
        > 1e-2
    )


def test_precondition_is_plain_before_there_are_second_moments() -> None:
    net = make_net()
    theta, grads = copy_params(net), gradient_at(net, 0)
    optimizer = EquilibriumOptimizer(
        AdamW(net.parameters()), num_inner_steps=1, inner_lr=INNER_LR, precondition=True
    )

    optimizer.adapt(get_closures(net, 1))

    assert_close(copy_params(net), [t - INNER_LR * g for t, g in zip(theta, grads, strict=True)])


def run_outer_steps(optimizer: EquilibriumOptimizer, net: Module, num: int) -> list[float]:
    """Take outer steps and return the length of the inner step of each, in units of the gradient norm."""
    lengths = []
    for _ in range(num):
        theta = copy_params(net)
        trace = optimizer.adapt(get_closures(net, 1))
        moved = [p.detach() - t for p, t in zip(net.parameters(), theta, strict=True)]
        lengths.append(norm_of(moved) / trace.grad_norms.item())
        optimizer.outer_loss(get_loss(net, 1)).backward()
        optimizer.step()
        optimizer.zero_grad()

    return lengths


def test_inner_loop_starts_late_and_warms_up() -> None:
    net = make_net()
    optimizer = EquilibriumOptimizer(
        SGD(net.parameters(), lr=0.01),
        num_inner_steps=1,
        inner_lr=INNER_LR,
        start_after_num_steps=2,
        num_inner_warmup_steps=4,
    )

    lengths = run_outer_steps(optimizer, net, 8)

    expected = [0, 0, 0.25, 0.5, 0.75, 1, 1, 1]
    assert lengths == pytest.approx([INNER_LR * e for e in expected], rel=1e-5, abs=0.0)


def test_conventional_start_averages_the_gradients_at_theta() -> None:
    net = make_net()
    optimizer = EquilibriumOptimizer(
        SGD(net.parameters(), lr=0.01), num_inner_steps=2, inner_lr=0.1, start_after_num_steps=1
    )
    grads = [gradient_at(net, k) for k in range(3)]

    optimizer.adapt(get_closures(net, 2))
    optimizer.outer_loss(get_loss(net, 2)).backward()

    means = [(a + b + c) / 3 for a, b, c in zip(*grads, strict=True)]
    assert_close([p.grad for p in net.parameters()], means)


def test_step_number_of_a_resumed_run_sets_the_warm_up() -> None:
    net = make_net()
    optimizer = EquilibriumOptimizer(
        SGD(net.parameters(), lr=0.01),
        num_inner_steps=1,
        inner_lr=INNER_LR,
        num_inner_warmup_steps=8,
    )
    optimizer.set_step_nr(6)

    expected = [INNER_LR * 6 / 8, INNER_LR * 7 / 8, INNER_LR]
    assert run_outer_steps(optimizer, net, 3) == pytest.approx(expected, rel=1e-5)


def test_frozen_and_unused_parameters_stay_untouched() -> None:
    net = make_net()
    unused, frozen = Parameter(torch.randn(3)), net[2].bias
    frozen.requires_grad_(False)
    optimizer = EquilibriumOptimizer(
        SGD([*net.parameters(), unused], lr=1.0),
        num_inner_steps=2,
        inner_lr=INNER_LR,
        outer_weights="uniform",
    )
    before = [unused.detach().clone(), frozen.clone(), net[0].bias.detach().clone()]

    optimizer.adapt(get_closures(net, 2))
    optimizer.outer_loss(get_loss(net, 2)).backward()

    assert torch.equal(unused, before[0])
    assert torch.equal(frozen, before[1])
    assert not torch.equal(net[0].bias, before[2])
    assert unused.grad is None
    assert frozen.grad is None

    optimizer.step()

    assert torch.equal(unused, before[0])
    assert torch.equal(frozen, before[1])


def test_parameter_that_some_inner_steps_use_gets_its_share() -> None:
    extra = Parameter(torch.tensor([2.0]))
    net = make_net()
    optimizer = EquilibriumOptimizer(
        SGD([*net.parameters(), extra], lr=1.0),
        num_inner_steps=2,
        inner_lr=INNER_LR,
        outer_weights=[0.5, 0.25, 0.25],
    )

    optimizer.adapt([lambda: get_loss(net, 0), lambda: get_loss(net, 1) + extra.square().sum()])
    optimizer.outer_loss(get_loss(net, 2)).backward()

    assert extra.item() == 2.0 - INNER_LR * 4.0
    assert extra.grad.item() == 0.25 * 4.0


@pytest.mark.parametrize("broken", [0, 1])
def test_loss_on_other_tensors_is_an_error(broken: int) -> None:
    net, other = make_net(), Parameter(torch.ones(2))
    theta = copy_params(net)
    optimizer = EquilibriumOptimizer(
        SGD(net.parameters(), lr=1.0), num_inner_steps=2, inner_lr=INNER_LR
    )
    closures = get_closures(net, 2)
    closures[broken] = lambda: other.square().sum()

    with pytest.raises(RuntimeError, match="no gradient for any parameter"):
        optimizer.adapt(closures)

    assert all(torch.equal(p, t) for p, t in zip(net.parameters(), theta, strict=True))
    assert other.grad is None


def test_adapt_works_where_gradients_are_off() -> None:
    """Validation runs without gradients and may ask for adapted losses."""
    net, twin = make_net(), make_net()
    optimizers = [
        EquilibriumOptimizer(SGD(n.parameters(), lr=1.0), num_inner_steps=2, inner_lr=INNER_LR)
        for n in (net, twin)
    ]

    with torch.no_grad():
        optimizers[0].adapt(get_closures(net, 2))
    optimizers[1].adapt(get_closures(twin, 2))

    assert all(torch.equal(a, b) for a, b in zip(copy_params(net), copy_params(twin), strict=True))


def test_adapted_parameters_are_seen_inside_one_autocast_region() -> None:
    """Autocast keeps bfloat16 copies of the weights: with stale ones the inner steps are lost without a word."""
    net, twin = make_net(), make_net()
    optimizer = EquilibriumOptimizer(
        SGD(net.parameters(), lr=1.0), num_inner_steps=2, inner_lr=INNER_LR
    )

    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain_loss = get_loss(net, 2)
        trace = optimizer.adapt(get_closures(net, 2))
        adapted_loss = optimizer.outer_loss(get_loss(net, 2))
    adapted_loss.backward()
    # By hand, each forward in a region of its own, so that there is no cache to go stale.
    for k in range(3):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = get_loss(twin, k)
        grads = torch.autograd.grad(loss, list(twin.parameters()))
        if k == 2:
            break
        assert torch.equal(trace.losses[k], loss.detach().float())
        with torch.no_grad():
            for param, grad in zip(twin.parameters(), grads, strict=True):
                param.sub_(INNER_LR * grad)

    assert abs(adapted_loss - plain_loss) > 1e-2
    assert torch.equal(adapted_loss, loss)
    assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), grads, strict=True))


def test_restored_parameters_are_seen_inside_one_autocast_region() -> None:
    net = make_net()
    optimizer = EquilibriumOptimizer(
        SGD(net.parameters(), lr=1.0), num_inner_steps=2, inner_lr=INNER_LR
    )

    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain_loss = get_loss(net, 2)
        optimizer.adapt(get_closures(net, 2))
        adapted_loss = get_loss(net, 2)
        optimizer.restore()
        assert torch.equal(get_loss(net, 2), plain_loss)

    assert abs(adapted_loss - plain_loss) > 1e-2


def test_parameters_of_several_dtypes_are_adapted_and_put_back() -> None:
    """A model held partly in bfloat16 has gradients of both kinds in one norm."""
    net = make_net()
    net[2].to(torch.bfloat16)
    theta = copy_params(net)
    optimizer = EquilibriumOptimizer(
        SGD(net.parameters(), lr=0.1),
        num_inner_steps=1,
        inner_lr=INNER_LR,
        inner_max_grad_norm=0.1,
        outer_weights="uniform",
    )

    def closure() -> Tensor:
        hidden = net[1](net[0](torch.ones(2, 5)))

        return net[2](hidden.bfloat16()).float().square().mean()

    optimizer.adapt([closure])
    assert not any(torch.equal(p, t) for p, t in zip(net.parameters(), theta, strict=True))
    optimizer.outer_loss(closure()).backward()
    assert all(p.grad.dtype == p.dtype for p in net.parameters())
    optimizer.restore()
    assert all(torch.equal(p, t) for p, t in zip(net.parameters(), theta, strict=True))
