"""`EquilibriumOptimizer` is its base optimizer, given the outer gradient: bit for bit."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor
from torch.nn import Dropout, Linear, Module, Sequential, Tanh
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import LambdaLR

from eqssl_speech.equilibrium import EquilibriumOptimizer

# Equality in this file is equality of bits (`torch.equal`) unless it says otherwise: both sides run the same operations
# on the same numbers.


def make_net(seed: int = 0) -> Module:
    """Build a small network; its dropout makes a draw too many or too few visible."""
    torch.manual_seed(seed)

    return Sequential(Linear(5, 7), Tanh(), Dropout(0.2), Linear(7, 3))


def make_adamw(net: Module) -> AdamW:
    """Build an AdamW with two parameter groups."""
    first, last = list(net.parameters())[:2], list(net.parameters())[2:]

    return AdamW([{"params": first, "lr": 3e-2}, {"params": last, "weight_decay": 0.1}], lr=1e-2)


def make_batch(seed: int) -> tuple[Tensor, Tensor]:
    """Draw an input and a target."""
    generator = torch.Generator().manual_seed(seed)

    return torch.randn(8, 5, generator=generator), torch.randn(8, 3, generator=generator)


def get_loss(net: Module, seed: int) -> Tensor:
    """Return the mean squared error on one batch."""
    x, y = make_batch(seed)

    return (net(x) - y).square().mean()


def snapshot(net: Module) -> list[Tensor]:
    """Copy the parameters."""
    return [param.detach().clone() for param in net.parameters()]


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    """Say whether two lists of tensors are equal to the bit."""
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def assert_states_equal(actual: dict, expected: dict) -> None:
    """Assert that two state dicts have the same keys, settings, and bits."""
    assert actual.keys() == expected.keys()
    assert actual["param_groups"] == expected["param_groups"]
    assert actual["state"].keys() == expected["state"].keys()
    for index, state in expected["state"].items():
        assert actual["state"][index].keys() == state.keys()
        for name, value in state.items():
            assert torch.equal(actual["state"][index][name], value)


def take_step(net: Module, optimizer: EquilibriumOptimizer, step: int) -> None:
    """Take one outer step with one episode, leaving the outer gradient in ``.grad``."""
    num = optimizer.num_inner_steps
    closures = [lambda k=k: get_loss(net, 100 * step + k) for k in range(num)]
    optimizer.adapt(closures)
    optimizer.outer_loss(get_loss(net, 100 * step + num)).backward()
    optimizer.step()


def test_reduces_to_adamw_when_num_inner_steps_is_zero() -> None:
    net, plain_net = make_net(), make_net()
    optimizer = EquilibriumOptimizer(make_adamw(net), num_inner_steps=0, inner_lr=0.1)
    plain = make_adamw(plain_net)

    torch.manual_seed(1)
    losses = []
    for step in range(10):
        trace = optimizer.adapt([])
        assert trace.losses.shape == trace.grad_norms.shape == (0,)
        assert not optimizer.is_adapted
        loss = optimizer.outer_loss(get_loss(net, step))
        loss.backward()
        losses.append((loss.detach(), [p.grad.clone() for p in net.parameters()]))
        optimizer.step()
        optimizer.zero_grad()
    random_state = torch.get_rng_state()

    torch.manual_seed(1)
    for step, (loss, grads) in enumerate(losses):
        plain_loss = get_loss(plain_net, step)
        plain_loss.backward()
        assert torch.equal(loss, plain_loss)
        assert equal(grads, [p.grad for p in plain_net.parameters()])
        plain.step()
        plain.zero_grad()

    assert torch.equal(random_state, torch.get_rng_state())
    assert equal(snapshot(net), snapshot(plain_net))
    assert_states_equal(optimizer.state_dict(), plain.state_dict())


def test_buffers_are_left_to_the_model_when_num_inner_steps_is_zero() -> None:
    net = make_net()
    count = torch.zeros((), dtype=torch.int64)
    optimizer = EquilibriumOptimizer(
        make_adamw(net), num_inner_steps=0, inner_lr=0.1, buffers=[count]
    )

    optimizer.adapt([])
    count.add_(1)
    optimizer.outer_loss(get_loss(net, 0)).backward()
    optimizer.step()
    optimizer.zero_grad()

    assert count == 1


@pytest.mark.parametrize("outer_weights", ["last", "uniform", "first", [0.3, 0.1, 0.0, 1.4]])
def test_step_is_the_step_of_the_base_given_the_outer_gradient(outer_weights) -> None:
    net, plain_net = make_net(), make_net()
    optimizer = EquilibriumOptimizer(
        make_adamw(net), num_inner_steps=3, inner_lr=0.1, outer_weights=outer_weights
    )
    plain = make_adamw(plain_net)

    for step in range(10):
        take_step(net, optimizer, step)
        for param, plain_param in zip(net.parameters(), plain_net.parameters(), strict=True):
            plain_param.grad = param.grad.clone()
        plain.step()
        optimizer.zero_grad()

        assert equal(snapshot(net), snapshot(plain_net))
        assert_states_equal(optimizer.state_dict(), plain.state_dict())


def test_outer_loss_has_the_value_of_the_weighted_last_loss() -> None:
    net = make_net().eval()
    optimizer = EquilibriumOptimizer(
        make_adamw(net), num_inner_steps=1, inner_lr=0.1, outer_weights=[0.5, 0.25]
    )
    optimizer.adapt([lambda: get_loss(net, 0)])
    loss = get_loss(net, 1)

    assert torch.equal(optimizer.outer_loss(loss), 0.25 * loss)


def test_episodes_of_one_step_start_from_theta_and_add_up_in_grad() -> None:
    net = make_net().eval()
    optimizer = EquilibriumOptimizer(make_adamw(net), num_inner_steps=2, inner_lr=0.1)
    theta = snapshot(net)

    alone = []
    for episode in range(3):
        optimizer.adapt([lambda k=k, e=episode: get_loss(net, 10 * e + k) for k in range(2)])
        optimizer.outer_loss(get_loss(net, 10 * episode + 2)).backward()
        alone.append([p.grad.clone() for p in net.parameters()])
        optimizer.zero_grad()
        assert equal(snapshot(net), theta)

    for episode in range(3):
        optimizer.adapt([lambda k=k, e=episode: get_loss(net, 10 * e + k) for k in range(2)])
        optimizer.outer_loss(get_loss(net, 10 * episode + 2)).backward()

    sums = [a + b + c for a, b, c in zip(*alone, strict=True)]
    assert equal([p.grad for p in net.parameters()], sums)


def test_inner_gradients_never_touch_grad() -> None:
    net = make_net()
    optimizer = EquilibriumOptimizer(
        make_adamw(net), num_inner_steps=3, inner_lr=0.1, outer_weights="uniform"
    )

    closures = [lambda k=k: get_loss(net, k) for k in range(3)]
    optimizer.adapt(closures)
    assert all(p.grad is None for p in net.parameters())

    grads = [torch.randn_like(p) for p in net.parameters()]
    for param, grad in zip(net.parameters(), grads, strict=True):
        param.grad = grad.clone()
    identities = [id(p.grad) for p in net.parameters()]
    optimizer.adapt(closures)

    assert equal([p.grad for p in net.parameters()], grads)
    assert [id(p.grad) for p in net.parameters()] == identities


def test_checkpoint_goes_from_plain_adamw_to_the_wrapper_and_back() -> None:
    net = make_net()
    plain = make_adamw(net)
    for step in range(3):
        get_loss(net, step).backward()
        plain.step()
        plain.zero_grad()
    net2, net3 = copy.deepcopy(net), copy.deepcopy(net)

    optimizer = EquilibriumOptimizer(make_adamw(net2), num_inner_steps=1, inner_lr=0.1)
    # A copy, because loading shares tensors with what is loaded.
    optimizer.load_state_dict(copy.deepcopy(plain.state_dict()))
    assert_states_equal(optimizer.state_dict(), plain.state_dict())
    assert optimizer.param_groups is optimizer.base.param_groups

    back = make_adamw(net3)
    back.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert_states_equal(back.state_dict(), plain.state_dict())

    take_step(net2, optimizer, 3)
    for param, other in zip(net2.parameters(), net3.parameters(), strict=True):
        other.grad = param.grad.clone()
    back.step()
    assert equal(snapshot(net2), snapshot(net3))


def test_groups_state_and_defaults_are_those_of_the_base() -> None:
    net = make_net()
    base = make_adamw(net)
    optimizer = EquilibriumOptimizer(base, num_inner_steps=1, inner_lr=0.1)

    assert isinstance(optimizer, torch.optim.Optimizer)
    assert optimizer.param_groups is base.param_groups
    assert optimizer.state is base.state
    assert optimizer.defaults is base.defaults

    take_step(net, optimizer, 0)

    assert_states_equal(optimizer.state_dict(), base.state_dict())


def test_learning_rate_scheduler_drives_the_base() -> None:
    net = make_net()
    base = make_adamw(net)
    optimizer = EquilibriumOptimizer(base, num_inner_steps=1, inner_lr=0.1)
    scheduler = LambdaLR(optimizer, lambda step: 0.5**step)

    for step in range(3):
        assert [group["lr"] for group in base.param_groups] == [3e-2 * 0.5**step, 1e-2 * 0.5**step]
        take_step(net, optimizer, step)
        scheduler.step()


def test_added_parameter_group_is_adapted_and_put_back() -> None:
    net = make_net()
    extra = torch.nn.Parameter(torch.ones(3))
    optimizer = EquilibriumOptimizer(make_adamw(net), num_inner_steps=1, inner_lr=0.5)
    optimizer.adapt([lambda: get_loss(net, 0)])
    optimizer.add_param_group({"params": [extra]})

    optimizer.adapt([lambda: get_loss(net, 0) + extra.square().sum()])
    assert torch.equal(extra, torch.zeros(3))  # 1 - 0.5 * 2 * 1

    optimizer.restore()
    assert torch.equal(extra, torch.ones(3))
    assert len(optimizer.base.param_groups) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"inner_lr": -0.1}, "`inner_lr` must be greater than 0, but is -0.1 instead."),
        ({"inner_lr": 0.0}, "`inner_lr` must be greater than 0, but is 0.0 instead."),
        ({"inner_lr": math.nan}, "`inner_lr` must be greater than 0, but is nan instead."),
        (
            {"num_inner_steps": -1},
            "`num_inner_steps` must be greater than or equal to 0, but is -1 instead.",
        ),
        (
            {"inner_max_grad_norm": 0.0},
            "`inner_max_grad_norm` must be greater than 0, but is 0.0 instead.",
        ),
        (
            {"start_after_num_steps": -2},
            "`start_after_num_steps` must be greater than or equal to 0, but is -2 instead.",
        ),
        (
            {"num_inner_warmup_steps": -3},
            "`num_inner_warmup_steps` must be greater than or equal to 0, but is -3 instead.",
        ),
    ],
)
def test_constructor_refuses_value_out_of_range(settings: dict, message: str) -> None:
    settings = {"num_inner_steps": 2, "inner_lr": 0.1, **settings}

    with pytest.raises(ValueError) as info:
        EquilibriumOptimizer(make_adamw(make_net()), **settings)

    assert str(info.value) == message


@pytest.mark.parametrize(
    "outer_weights", ["reptile", [1.0], [0.5, -0.1, 0.6], [0.0, math.nan, 1.0], [0.0, 0.0, 0.0]]
)
def test_constructor_refuses_outer_weights(outer_weights) -> None:
    with pytest.raises(ValueError, match="`outer_weights` must "):
        EquilibriumOptimizer(
            SGD(make_net().parameters(), lr=0.1),
            num_inner_steps=2,
            inner_lr=0.1,
            outer_weights=outer_weights,
        )


@pytest.mark.parametrize("num_closures", [0, 1, 3])
def test_adapt_refuses_another_number_of_closures(num_closures: int) -> None:
    net = make_net()
    optimizer = EquilibriumOptimizer(make_adamw(net), num_inner_steps=2, inner_lr=0.1)

    with pytest.raises(ValueError, match=r"`closures` must hold .* = 2 functions, but holds"):
        optimizer.adapt([lambda: get_loss(net, 0)] * num_closures)
