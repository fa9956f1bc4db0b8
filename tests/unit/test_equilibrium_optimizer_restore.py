"""Whatever happens between two outer steps, theta and the buffers come back, bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import BatchNorm1d, Linear, Module, Parameter, Sequential, Tanh
from torch.optim import AdamW

from eqssl_speech.equilibrium import EquilibriumOptimizer, NonFiniteError

NUM_INNER_STEPS = 3


class Setup:
    """A network whose forward passes change buffers, and its optimizer."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.net: Module = Sequential(Linear(5, 7), Tanh(), BatchNorm1d(7), Linear(7, 3))
        self.optimizer = EquilibriumOptimizer(
            AdamW(self.net.parameters(), lr=1e-2),
            num_inner_steps=NUM_INNER_STEPS,
            inner_lr=0.3,
            buffers=list(self.net.buffers()),
        )

    def clone(self) -> Setup:
        """Return another network and optimizer in the same state."""
        twin = Setup()
        twin.net.load_state_dict(self.net.state_dict())
        twin.optimizer.load_state_dict(copy.deepcopy(self.optimizer.state_dict()))

        return twin

    def loss(self, seed: int) -> Tensor:
        """Return the loss on one batch, at the present parameters."""
        generator = torch.Generator().manual_seed(seed)
        x, y = torch.randn(8, 5, generator=generator), torch.randn(8, 3, generator=generator)

        return (self.net(x) - y).square().mean()

    def adapt(
        self, *, broken: int | None = None, fault: Callable[[], Tensor] | None = None
    ) -> None:
        """Adapt, with ``fault`` in the place of closure number ``broken``."""
        closures: list[Callable[[], Tensor]] = [
            lambda k=k: self.loss(k) for k in range(NUM_INNER_STEPS)
        ]
        if broken is not None and fault is not None:
            closures[broken] = fault

        self.optimizer.adapt(closures)

    def backward(self) -> None:
        """Accumulate the outer gradient."""
        self.optimizer.outer_loss(self.loss(NUM_INNER_STEPS)).backward()

    def bits(self) -> list[Tensor]:
        """Copy parameters and buffers."""
        return [t.detach().clone() for t in self.net.state_dict().values()]

    def is_at(self, bits: list[Tensor]) -> bool:
        """Say whether every parameter and buffer has these bits."""
        return all(torch.equal(a, b) for a, b in zip(self.bits(), bits, strict=True))


@pytest.fixture
def setup() -> Setup:
    """Return a network that has taken a step, so that there is optimizer state."""
    setup = Setup()
    setup.loss(99).backward()
    setup.optimizer.step()
    setup.optimizer.zero_grad()

    return setup


def test_adapt_moves_every_parameter_and_buffer(setup: Setup) -> None:
    """Without this the tests below would show nothing."""
    before = setup.bits()
    setup.adapt()

    assert setup.optimizer.is_adapted
    assert not any(torch.equal(a, b) for a, b in zip(setup.bits(), before, strict=True))


def test_restore_puts_theta_and_buffers_back(setup: Setup) -> None:
    before = setup.bits()
    setup.adapt()
    setup.optimizer.restore()

    assert setup.is_at(before)
    assert not setup.optimizer.is_adapted

    setup.optimizer.restore()

    assert setup.is_at(before)


def test_parameters_keep_their_identity_and_storage(setup: Setup) -> None:
    handles = [(id(p), p.data_ptr()) for p in setup.net.parameters()]
    setup.adapt()
    setup.backward()
    setup.optimizer.step()
    setup.optimizer.zero_grad()

    assert [(id(p), p.data_ptr()) for p in setup.net.parameters()] == handles


def test_step_puts_buffers_back(setup: Setup) -> None:
    before = [b.clone() for b in setup.net.buffers()]
    setup.adapt()
    setup.backward()
    setup.optimizer.step()

    assert all(torch.equal(a, b) for a, b in zip(setup.net.buffers(), before, strict=True))


def test_zero_grad_without_step_puts_theta_back(setup: Setup) -> None:
    before = setup.bits()
    setup.adapt()
    setup.backward()
    setup.optimizer.zero_grad()

    assert setup.is_at(before)
    assert all(p.grad is None for p in setup.net.parameters())


def test_next_adapt_starts_from_theta(setup: Setup) -> None:
    before = setup.bits()
    setup.adapt()
    phi = setup.bits()
    setup.adapt()

    assert setup.is_at(phi)

    setup.optimizer.restore()

    assert setup.is_at(before)


def test_step_after_restore_moves_theta_by_the_accumulated_gradient(setup: Setup) -> None:
    twin = setup.clone()

    for one in (setup, twin):
        one.adapt()
        one.backward()
    setup.optimizer.restore()
    for one in (setup, twin):
        one.optimizer.step()

    assert setup.is_at(twin.bits())


def test_restore_after_a_step_gives_the_new_theta_even_without_zero_grad(setup: Setup) -> None:
    setup.adapt()
    setup.backward()
    setup.optimizer.step()
    theta = setup.bits()
    setup.adapt()
    setup.optimizer.restore()

    assert setup.is_at(theta)


def test_restore_forgets_the_inner_gradients() -> None:
    param = Parameter(torch.tensor([1.0, -2.0]))
    optimizer = EquilibriumOptimizer(
        AdamW([param]), num_inner_steps=1, inner_lr=0.25, outer_weights=[0.5, 0.5]
    )
    optimizer.adapt([lambda: param.square().sum()])
    optimizer.restore()

    optimizer.outer_loss((3 * param).sum()).backward()

    assert torch.equal(param.grad, torch.full((2,), 1.5))


@pytest.mark.parametrize("broken", range(NUM_INNER_STEPS))
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_theta_is_back_when_a_closure_raises(
    setup: Setup, broken: int, error: type[BaseException]
) -> None:
    before = setup.bits()

    def fault() -> Tensor:
        setup.loss(0)
        raise error("from the closure")

    with pytest.raises(error, match="from the closure"):
        setup.adapt(broken=broken, fault=fault)

    assert setup.is_at(before)
    assert not setup.optimizer.is_adapted


@pytest.mark.parametrize("broken", range(NUM_INNER_STEPS))
@pytest.mark.parametrize("value", ["inf", "-inf", "nan"])
def test_theta_is_back_when_a_loss_is_not_finite(setup: Setup, broken: int, value: str) -> None:
    before = setup.bits()

    with pytest.raises(NonFiniteError) as info:
        setup.adapt(broken=broken, fault=lambda: setup.loss(0) + float(value))

    assert (info.value.inner_step, info.value.what) == (broken, "loss")
    assert setup.is_at(before)


@pytest.mark.parametrize("broken", range(NUM_INNER_STEPS))
def test_theta_is_back_when_a_gradient_is_not_finite(setup: Setup, broken: int) -> None:
    before = setup.bits()

    def fault() -> Tensor:
        # The root is finite at zero and its slope is not.
        weight = next(setup.net.parameters())

        return setup.loss(0) + (weight - weight.detach()).square().sum().sqrt()

    with pytest.raises(NonFiniteError) as info:
        setup.adapt(broken=broken, fault=fault)

    assert (info.value.inner_step, info.value.what) == (broken, "gradient")
    assert setup.is_at(before)


def test_episode_after_a_failed_one_adds_its_own_gradient_only(setup: Setup) -> None:
    setup.adapt()
    setup.backward()
    grads = [p.grad.clone() for p in setup.net.parameters()]
    setup.optimizer.zero_grad()

    with pytest.raises(NonFiniteError):
        setup.adapt(broken=2, fault=lambda: setup.loss(0) * float("nan"))
    assert all(p.grad is None for p in setup.net.parameters())
    setup.adapt()
    setup.backward()

    assert all(torch.equal(p.grad, g) for p, g in zip(setup.net.parameters(), grads, strict=True))


def test_theta_is_back_after_grad_scaler_skips_the_step(setup: Setup) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4)
    before = setup.bits()
    state = setup.optimizer.state_dict()["state"][0]["exp_avg"].clone()

    setup.adapt()
    loss = setup.optimizer.outer_loss(setup.loss(NUM_INNER_STEPS))
    (scaler.scale(loss) * float("inf")).backward()
    scaler.unscale_(setup.optimizer)
    scaler.step(setup.optimizer)
    scaler.update()

    assert scaler.get_scale() == 2.0**3
    setup.optimizer.zero_grad()
    assert setup.is_at(before)
    assert torch.equal(setup.optimizer.state_dict()["state"][0]["exp_avg"], state)


def test_grad_scaler_scales_and_unscales_the_whole_outer_gradient(setup: Setup) -> None:
    twin = setup.clone()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4)

    setup.adapt()
    loss = setup.optimizer.outer_loss(setup.loss(NUM_INNER_STEPS))
    scaler.scale(loss).backward()
    scaler.step(setup.optimizer)
    twin.adapt()
    twin.backward()
    twin.optimizer.step()

    # A scale that is a power of two changes no mantissa, so this is equality of bits.
    assert setup.is_at(twin.bits())


def test_state_dict_and_load_state_dict_put_theta_back(setup: Setup) -> None:
    before = setup.bits()
    setup.adapt()
    state = setup.optimizer.state_dict()

    assert setup.is_at(before)

    setup.adapt()
    setup.optimizer.load_state_dict(state)

    assert setup.is_at(before)


def test_parameter_that_thaws_later_is_put_back_too(setup: Setup) -> None:
    params = list(setup.net.parameters())
    params[0].requires_grad_(False)
    setup.adapt()
    setup.optimizer.restore()
    params[0].requires_grad_(True)
    before = setup.bits()

    setup.adapt()
    assert not torch.equal(params[0], before[0])
    setup.optimizer.restore()

    assert setup.is_at(before)


def test_theta_that_was_loaded_between_steps_is_the_one_put_back(setup: Setup) -> None:
    setup.adapt()
    setup.backward()
    setup.optimizer.step()
    setup.optimizer.zero_grad()
    with torch.no_grad():
        for param in setup.net.parameters():
            param.mul_(0.5)
    before = setup.bits()

    setup.adapt()
    setup.optimizer.restore()

    assert setup.is_at(before)


def test_bits_that_arithmetic_would_lose_come_back() -> None:
    """Adding the steps back would not do: negative zero and the lowest bits must survive."""
    param = Parameter(torch.tensor([-0.0, 1e-45, 1e30, -3.0]))
    before = param.detach().clone()
    optimizer = EquilibriumOptimizer(AdamW([param]), num_inner_steps=1, inner_lr=0.1)

    optimizer.adapt([lambda: (param - 1).clamp(-10, 10).square().sum()])
    optimizer.restore()

    assert torch.equal(param.view(torch.int32), before.view(torch.int32))
