"""First and second derivatives of HuBERT's loss equal finite differences, in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from fairseq2.nn import BatchLayout
from torch import Tensor
from torch.func import functional_call
from torch.nn import Module
from torch.nn.attention import SDPBackend, sdpa_kernel

from eqssl_speech.models.hubert import create_hubert_model
from eqssl_speech.models.hubert.config import micro_config
from eqssl_speech.models.wav2vec2 import accelerate, make_twice_differentiable

Params = dict[str, Tensor]

# Central differences err by STEP^2 times a sixth of the third derivative, and by the rounding of a loss of some 1e2,
# 1e-14, over STEP: both stay below 1e-8 of a slope of 1.
STEP = 1e-6
RTOL, ATOL = 1e-6, 1e-7


@pytest.fixture(autouse=True)
def float64_throughout(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep to float64 where the host casts to float32, and to the attention that has second derivatives."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)

    with sdpa_kernel(SDPBackend.MATH), torch.random.fork_rng():
        yield


def make_model(*, shared: bool, fast: bool) -> Module:
    config = replace(micro_config([6, 4]), shared_final_proj=shared)

    # Small, so that differences are quick.
    config.encoder_config = replace(
        config.encoder_config,
        model_dim=16,
        feature_dim=8,
        feature_extractor_layer_descs=[(8, 10, 5), (8, 3, 2), (8, 2, 2)],
        pos_conv_kernel_size=4,
        num_pos_conv_groups=2,
        ffn_inner_dim=24,
    )
    config.final_dim, config.temporal_mask_span_len = 8, 3

    torch.manual_seed(0)
    model = create_hubert_model(config).double()

    with torch.no_grad():
        for param in model.parameters():
            param.add_(0.1 * torch.randn_like(param))

    make_twice_differentiable(model)

    if fast:
        accelerate(model, twice_differentiable=True)

    return model


def make_loss_fn(model: Module, seed: int) -> Callable[[Params], Tensor]:
    """Return the loss on one batch, with masks that are the same in each call."""
    generator = torch.Generator().manual_seed(seed)
    seqs = torch.randn(2, 400, generator=generator, dtype=torch.float64)
    layout = BatchLayout.of(seqs, [400, 360])
    labels = torch.randint(0, 4, (2, 2, 19), generator=generator)

    def loss_fn(params: Params) -> Tensor:
        torch.manual_seed(seed)
        loss, _ = functional_call(model, params, (seqs, layout, labels), {"unmasked_weight": 0.3})
        assert loss.aggregate.dtype == torch.float64

        return loss.aggregate

    return loss_fn


def differentiate(loss_fn: Callable[[Params], Tensor], theta: Params) -> Params:
    leaves = {name: param.detach().requires_grad_() for name, param in theta.items()}
    grads = torch.autograd.grad(loss_fn(leaves), list(leaves.values()))

    return dict(zip(leaves, grads, strict=True))


def dot(a: Params, b: Params) -> Tensor:
    return torch.stack([(a[name] * b[name]).sum() for name in a]).sum()


def move(theta: Params, direction: Params, step: float) -> Params:
    return {name: param + step * direction[name] for name, param in theta.items()}


def draw_directions(theta: Params) -> Iterator[Params]:
    """Draw a direction through all parameters, and one through each alone, all of norm 1."""
    generator = torch.Generator().manual_seed(5)

    draw = {n: torch.randn(p.shape, generator=generator).double() for n, p in theta.items()}
    yield {name: x / dot(draw, draw).sqrt() for name, x in draw.items()}

    for name in theta:
        alone = {n: torch.zeros_like(x) for n, x in draw.items()}
        alone[name] = draw[name] / draw[name].norm()
        yield alone


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_the_gradient_equals_finite_differences(shared: bool, fast: bool) -> None:
    model = make_model(shared=shared, fast=fast)
    theta = {name: param.detach().clone() for name, param in model.named_parameters()}
    loss_fn = make_loss_fn(model, 1)

    grads = differentiate(loss_fn, theta)

    for direction in draw_directions(theta):
        with torch.no_grad():
            above, below = (loss_fn(move(theta, direction, s)) for s in (STEP, -STEP))

        expected = float(above - below) / (2 * STEP)
        assert float(dot(grads, direction)) == pytest.approx(expected, rel=RTOL, abs=ATOL)


@pytest.mark.parametrize("fast", [False, True])
def test_second_derivatives_equal_differences_of_gradients(fast: bool) -> None:
    model = make_model(shared=False, fast=fast)
    theta = {name: param.detach().clone() for name, param in model.named_parameters()}
    loss_fn = make_loss_fn(model, 1)

    for direction in list(draw_directions(theta))[::6]:
        leaves = {name: param.detach().requires_grad_() for name, param in theta.items()}
        grads = torch.autograd.grad(loss_fn(leaves), list(leaves.values()), create_graph=True)
        slope = dot(dict(zip(leaves, grads, strict=True)), direction)
        products = torch.autograd.grad(slope, list(leaves.values()), materialize_grads=True)

        above, below = (differentiate(loss_fn, move(theta, direction, s)) for s in (STEP, -STEP))

        for name, product in zip(leaves, products, strict=True):
            expected = (above[name] - below[name]) / (2 * STEP)
            torch.testing.assert_close(product, expected, rtol=1e-5, atol=1e-5, msg=name)
