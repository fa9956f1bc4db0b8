"""The exact outer gradient of a small wav2vec 2.0, and of a small HuBERT, equals finite differences, in float64.

What is differentiated is ``Psi(theta) = sum_k w_k l_k(phi^k(theta))``, where the inner steps are taken with first-order
gradients only, so that the reference knows nothing of the second derivatives which it checks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from fairseq2.models.wav2vec2 import Wav2Vec2Config, Wav2Vec2EncoderConfig
from fairseq2.models.wav2vec2.factory import create_wav2vec2_model
from fairseq2.nn import BatchLayout
from families import make_labels
from torch import Tensor
from torch.func import functional_call
from torch.nn import Conv1d, Module, Parameter
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import SGD

from eqssl_speech.equilibrium import EquilibriumOptimizer, outer_gradient
from eqssl_speech.models.hubert import HubertConfig, HubertModel, create_hubert_model
from eqssl_speech.models.wav2vec2 import make_twice_differentiable, prepare_model

Params = dict[str, Tensor]
LossFn = Callable[[Params], Tensor]

# The gradient norm is about 20 (HuBERT: 15): the first inner step takes so much of a loss of 8 (11) that the exact and
# the first-order gradient differ by tens of percent (a test says so).
INNER_LR = 0.01

# Central differences err by STEP^2 / 6 times the third derivative, and by the rounding of Psi, some 1e-15, over STEP.
# With 1e-5 the latter leads; 3e-10 is the largest error seen, and 1e-4 and 1e-6 give the same slopes.
STEP = 1e-5

# Thirty times what was seen. The slopes are 1e-4 to 10, and the first-order gradient is off by at least 1e-5 along each
# direction that has second derivatives at all.
RTOL, ATOL = 1e-7, 1e-8


@pytest.fixture(autouse=True)
def float64_throughout(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep the whole computation in float64, differentiable twice, and compiled by nobody.

    The host casts the group norm, the logits and the loss to float32 with ``.float()``; over STEP the rounding of that
    would be 0.1. Its quantizer compiles a function in every forward. And only the math kernel of the attention has
    second derivatives.
    """
    to_float = torch.Tensor.float
    monkeypatch.setattr(
        torch.Tensor, "float", lambda x: x if x.dtype == torch.float64 else to_float(x)
    )
    monkeypatch.setattr(torch, "compile", lambda *args, **kwargs: lambda function: function)

    with sdpa_kernel(SDPBackend.MATH):
        yield


def make_encoder_config() -> Wav2Vec2EncoderConfig:
    """Configure an encoder in which every part is present, small, and without randomness."""
    return Wav2Vec2EncoderConfig(
        model_dim=16,
        feature_dim=8,
        feature_extractor_layer_descs=[(8, 10, 5), (8, 3, 2), (8, 2, 2)],
        # A scaled gradient is the gradient of nothing, so finite differences could not see it.
        feature_grad_scale=1.0,
        pos_conv_kernel_size=4,
        num_pos_conv_groups=2,
        num_encoder_layers=2,
        num_encoder_attn_heads=2,
        ffn_inner_dim=24,
        dropout_p=0.0,
        attn_dropout_p=0.0,
        layer_drop_p=0.0,
    )


def create_model(kind: str) -> Module:
    """Build a model with that encoder; for the kinds see :func:`model`."""
    if kind == "hubert":
        return create_hubert_model(
            HubertConfig(
                encoder_config=make_encoder_config(),
                final_dim=8,
                num_codes=[6, 4],
                temporal_mask_span_len=3,
            )
        )

    return create_wav2vec2_model(
        Wav2Vec2Config(
            encoder_config=make_encoder_config(),
            final_dim=8,
            quantized_dim=8,
            num_codebook_entries=6,
            temporal_mask_span_len=3,
            num_distractors=5,
        )
    )


def make_model(kind: str) -> Module:
    """Build a model without randomness whose parameters all matter; for the kinds see :func:`model`."""
    torch.manual_seed(0)
    model = create_model(kind).double()

    # Biases start at zero and weights at 0.02; noise gives every parameter something to do.
    with torch.no_grad():
        for param in model.parameters():
            param.add_(0.1 * torch.randn_like(param))

    make_twice_differentiable(model)

    if kind != "host":
        prepare_model(model)

    # Without training mode the quantizer takes the largest entry in place of a Gumbel draw.
    return model.eval()


def make_loss_fn(model: Module, seed: int) -> LossFn:
    """Return the loss per target on one batch, with masks and distractors that are the same in each call."""
    waves = torch.randn(2, 400, generator=torch.Generator().manual_seed(seed)).double()
    inputs: tuple[Any, ...] = (waves, BatchLayout.of(waves))
    options = {}

    if isinstance(model, HubertModel):
        convolutions = [desc[1:] for desc in make_encoder_config().feature_extractor_layer_descs]

        inputs += (make_labels(waves.shape, model.num_codes, convolutions, seed=seed),)
        options = {"unmasked_weight": 0.5}

    def loss_fn(params: Params) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            loss, output = functional_call(model, params, inputs, options)

        assert loss.aggregate.dtype == torch.float64

        return loss.aggregate / output.num_targets

    return loss_fn


@pytest.fixture(scope="module", params=["host", "ours", "hubert"])
def model(request: pytest.FixtureRequest) -> Module:
    """The model, which no test changes: each works on copies of its parameters.

    wav2vec 2.0 with the host's quantizer or with ours in its place, or a HuBERT of two label sets.
    """
    return make_model(request.param)


def get_theta(model: Module) -> Params:
    """Copy the parameters of ``model``."""
    return {name: param.detach().clone() for name, param in model.named_parameters()}


def psi(loss_fns: Sequence[LossFn], theta: Params, weights: Sequence[float]) -> float:
    """Evaluate ``sum_k w_k l_k(phi^k(theta))`` with plain, first-order inner steps."""
    phi, total = theta, 0.0

    for num_steps, (loss_fn, weight) in enumerate(zip(loss_fns, weights, strict=True)):
        leaves = {name: param.detach().requires_grad_() for name, param in phi.items()}
        loss = loss_fn(leaves)
        total += weight * loss.item()

        if num_steps < len(weights) - 1:
            grads = torch.autograd.grad(loss, list(leaves.values()))
            pairs = zip(leaves.items(), grads, strict=True)
            phi = {name: param.detach() - INNER_LR * grad for (name, param), grad in pairs}

    return total


def slope(
    loss_fns: Sequence[LossFn], theta: Params, weights: Sequence[float], direction: Params
) -> float:
    """Return the derivative of Psi along ``direction`` by central differences."""
    plus = {name: param + STEP * direction[name] for name, param in theta.items()}
    minus = {name: param - STEP * direction[name] for name, param in theta.items()}

    return (psi(loss_fns, plus, weights) - psi(loss_fns, minus, weights)) / (2 * STEP)


def dot(a: Params, b: Params) -> float:
    """Return the inner product of two dicts of tensors."""
    return sum((a[name] * b[name]).sum().item() for name in a)


def draw_directions(theta: Params, seed: int) -> list[Params]:
    """Draw two random directions of norm 1 and single coordinates of eight parameters."""
    generator = torch.Generator().manual_seed(seed)
    directions = []

    for _ in range(2):
        draw = {
            name: torch.randn(param.shape, generator=generator, dtype=param.dtype)
            for name, param in theta.items()
        }
        norm = dot(draw, draw) ** 0.5
        directions.append({name: value / norm for name, value in draw.items()})

    names = list(theta)
    for index in torch.randperm(len(names), generator=generator)[:8].tolist():
        direction = {name: torch.zeros_like(param) for name, param in theta.items()}
        flat = direction[names[index]].view(-1)
        flat[int(torch.randint(len(flat), (), generator=generator))] = 1.0
        directions.append(direction)

    return directions


@pytest.mark.parametrize("weights", [[1.0], [0.0, 1.0], [0.0, 0.0, 1.0], [0.4, 0.9, 0.2]], ids=str)
def test_exact_gradient_equals_finite_differences(model: Module, weights: list[float]) -> None:
    theta = get_theta(model)
    loss_fns = [make_loss_fn(model, seed) for seed in range(len(weights))]

    grads = outer_gradient(
        loss_fns,
        theta,
        num_inner_steps=len(weights) - 1,
        inner_lr=INNER_LR,
        order="exact",
        outer_weights=weights,
    )

    for direction in draw_directions(theta, seed=len(weights)):
        expected = slope(loss_fns, theta, weights, direction)
        assert dot(grads, direction) == pytest.approx(expected, rel=RTOL, abs=ATOL)


def test_first_order_gradient_is_far_from_the_exact_one(model: Module) -> None:
    """Without second derivatives in play the test above would show nothing."""
    theta = get_theta(model)
    loss_fns = [make_loss_fn(model, seed) for seed in range(3)]
    first, exact = (
        outer_gradient(loss_fns, theta, num_inner_steps=2, inner_lr=INNER_LR, order=order)
        for order in ("first", "exact")
    )
    error = {name: first[name] - exact[name] for name in theta}

    assert dot(error, error) ** 0.5 > 0.1 * dot(exact, exact) ** 0.5


@pytest.mark.parametrize("weights", [[0.0, 0.0, 1.0], [0.4, 0.9, 0.2]], ids=str)
def test_optimizer_agrees_with_functional_reference(model: Module, weights: list[float]) -> None:
    theta = get_theta(model)
    loss_fns = [make_loss_fn(model, seed) for seed in range(3)]
    expected = outer_gradient(
        loss_fns, theta, num_inner_steps=2, inner_lr=INNER_LR, outer_weights=weights
    )
    params = {name: Parameter(param.clone()) for name, param in theta.items()}
    optimizer = EquilibriumOptimizer(
        SGD(params.values(), lr=1.0), num_inner_steps=2, inner_lr=INNER_LR, outer_weights=weights
    )

    optimizer.adapt([lambda f=loss_fn: f(params) for loss_fn in loss_fns[:2]])
    optimizer.outer_loss(loss_fns[2](params)).backward()

    # The same sums in another order: a few units in the last place of float64, carried through two inner steps.
    for name, param in params.items():
        torch.testing.assert_close(param.grad, expected[name], rtol=1e-9, atol=1e-12)


def test_weight_norm_has_right_second_derivatives_once_made_twice_differentiable() -> None:
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(4, 3, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    g = torch.randn(1, 1, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    with pytest.warns(FutureWarning, match="weight_norm"):
        conv = torch.nn.utils.weight_norm(Conv1d(3, 4, 5, bias=False).double(), dim=2)

    def weight(v: Tensor, g: Tensor) -> Tensor:
        functional_call(conv, {"weight_v": v, "weight_g": g}, torch.zeros(1, 3, 5).double())

        return conv.weight

    # When this fails torch has mended its fused weight norm and ours can go.
    before = weight(v, g)
    assert not torch.autograd.gradgradcheck(weight, (v, g), raise_exception=False)

    make_twice_differentiable(conv)

    torch.testing.assert_close(weight(v, g), before)
    assert torch.autograd.gradcheck(weight, (v, g))
    assert torch.autograd.gradgradcheck(weight, (v, g))
    assert sorted(name for name, _ in conv.named_parameters()) == ["weight_g", "weight_v"]
